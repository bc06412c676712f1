"""Truth: annotated images, and which of their faces count.

Three forms are read: edgeface's archives, a .tar or the folder that it unpacks to, with `annotations.jsonl`;
and WIDER FACE val as it is published (`wider.py`).
"""

from __future__ import annotations

import json
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import media
from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Protocol

    from numpy.typing import NDArray

    class Files(Protocol):
        """Where a truth's images are."""

        def read(self, name: str) -> bytes: ...
        def has(self, name: str) -> bool: ...
        def close(self) -> None: ...


ANNOTATIONS = "annotations.jsonl"
WIDER_SUBSETS = ("easy", "medium", "hard")
# Of any other data: every face without `ignore` and with some area.
ALL = "all"


@dataclass(frozen=True, eq=False)
class Scene:
    """One annotated image; everything in its pixels as stored (EXIF orientation is not applied)."""

    image: str  # its path inside the archive or folder
    faces: NDArray[np.float64]  # (F, 4) corners x1, y1, x2, y2
    kept: Mapping[str, NDArray[np.bool_]]  # subset: (F,), which faces count
    landmarks: NDArray[
        np.float64
    ]  # (F, 5, 2) in the order of faces.LANDMARKS; NaN where there are none
    size: tuple[int, int] | None = None  # width, height, where the annotations say


class Truth:
    """Scenes and their images. Close it, or use it in a `with`."""

    def __init__(self, name: str, scenes: Iterable[Scene], files: Files) -> None:
        self.name = name
        self.scenes = tuple(scenes)
        self._files = files
        if not self.scenes:
            raise DataError(f"{name}: no images in it")
        self.subsets = tuple(self.scenes[0].kept)
        missing = [scene.image for scene in self.scenes if not files.has(scene.image)]
        if missing:
            raise DataError(f"{name} lacks {len(missing)} of its images, first {missing[0]}")

    @property
    def widest(self) -> str:
        """The subset with the most faces, of which the others are parts."""
        return self.subsets[-1]

    def count(self, subset: str) -> int:
        """How many faces count in it."""
        return sum(int(scene.kept[subset].sum()) for scene in self.scenes)

    def frame(self, scene: Scene) -> NDArray[np.uint8]:
        """(H, W, 3) BGR.

        Raises:
            DataError: The image cannot be read, or it has another size than annotated.
        """
        name = f"{self.name}: {scene.image}"
        try:
            frame = media.decode_image(self._files.read(scene.image), name, upright=False)
        except (media.MediaError, OSError, tarfile.TarError) as error:
            raise DataError(str(error)) from None
        height, width = frame.shape[:2]
        if scene.size not in (None, (width, height)):
            raise DataError(f"{name} is {width}x{height}; its annotations are for {scene.size}")
        return frame

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> Truth:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_truth(path: Path) -> Truth:
    """An archive, the folder that it unpacks to, or the published folder of WIDER FACE val.

    Raises:
        FileNotFoundError: There is no such path.
        DataError: It is none of these, damaged or incomplete.
    """
    if not path.is_dir():
        return _open_archive(path, TarFiles(path))
    if (path / ANNOTATIONS).is_file():
        return _open_archive(path, FolderFiles(path))
    from . import wider

    return wider.open_folder(path)


class FolderFiles:
    """Images as files."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def has(self, name: str) -> bool:
        return (self._path / name).is_file()

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def close(self) -> None:
        """Nothing is open."""


class TarFiles:
    """Images as members of a .tar, compressed or not."""

    def __init__(self, path: Path) -> None:
        try:
            self._tar = tarfile.open(path)  # noqa: SIM115 - until close
        except (tarfile.TarError, EOFError) as error:
            raise DataError(f"{path}: no .tar, or a damaged one: {error}") from None
        try:
            # `tar c .` puts "./" before every name.
            self._members = {m.name.removeprefix("./"): m for m in self._tar if m.isfile()}
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            self._tar.close()
            raise DataError(f"{path}: a damaged .tar: {error}") from None

    @property
    def names(self) -> list[str]:
        """Of all members, in their order."""
        return list(self._members)

    def has(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        member = self._tar.extractfile(self._members[name])
        assert member is not None  # isfile()
        return member.read()

    def close(self) -> None:
        self._tar.close()


# --- annotations.jsonl -------------------------------------------------------------------------------------


def _open_archive(path: Path, files: Files) -> Truth:
    try:
        if not files.has(ANNOTATIONS):
            raise DataError(f"{path}: no {ANNOTATIONS} in it")
        lines = files.read(ANNOTATIONS).splitlines()
        scenes = [
            _scene(line, f"{path}: {ANNOTATIONS} line {n}") for n, line in enumerate(lines, 1)
        ]
        if len({tuple(scene.kept) for scene in scenes}) > 1:
            raise DataError(f"{path}: only some lines of {ANNOTATIONS} have wider_keep")
        return Truth(path.name, scenes, files)
    except BaseException:
        files.close()
        raise


def _scene(line: bytes, where: str) -> Scene:
    try:
        row = json.loads(line)
        # From here on a wrong type anywhere is one of these, too.
        boxes = _boxes(row["boxes"])
        landmarks = _landmarks(row.get("landmarks"), len(boxes))
        kept = _kept(row, boxes)
        size = int(row["width"]), int(row["height"])
        image = inner_path(row["image"])
    except KeyError as error:
        raise DataError(f"{where}: no {error}") from None
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{where}: {error}") from None
    return Scene(image, corners(boxes), kept, landmarks, size)


def corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(F, 4) x, y, width, height -> x1, y1, x2, y2."""
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def _boxes(rows: Any) -> NDArray[np.float64]:
    boxes = np.array(rows, np.float64).reshape(len(rows), -1 if rows else 4)
    if boxes.shape[1] != 4:
        raise ValueError(f"boxes of {boxes.shape[1]} numbers; expected x, y, width, height")
    if not np.isfinite(boxes).all() or (boxes[:, 2:] < 0).any():
        raise ValueError("a box is not finite or has a negative size")
    return boxes


def _landmarks(rows: Any, count: int) -> NDArray[np.float64]:
    points = np.full((count, 10), np.nan)
    if rows is not None:
        _check_count("landmarks", rows, count)
        for i, row in enumerate(rows):
            if row is not None:
                _check_count("a face's landmarks", row, 10)
                points[i] = row
    return points.reshape(-1, 5, 2)


def _kept(row: Mapping[str, Any], boxes: NDArray[np.float64]) -> dict[str, NDArray[np.bool_]]:
    if "wider_keep" in row:
        return {name: _chosen(row["wider_keep"][name], len(boxes)) for name in WIDER_SUBSETS}
    ignore = row.get("ignore", [0] * len(boxes))
    _check_count("ignore", ignore, len(boxes))
    # Nothing can overlap a face without area by half.
    return {ALL: (np.array(ignore, np.int64) == 0) & (boxes[:, 2:] > 0).all(axis=1)}


def _chosen(indices: Any, count: int) -> NDArray[np.bool_]:
    chosen = np.zeros(count, bool)
    for index in indices:
        if not (isinstance(index, int) and 0 <= index < count):
            raise ValueError(f"wider_keep has {index!r}; there are {count} faces")
        chosen[index] = True
    return chosen


def _check_count(name: str, values: Any, count: int) -> None:
    if len(values) != count:
        raise ValueError(f"{name} has {len(values)} values; expected {count}")


def inner_path(image: Any) -> str:
    """An image's name; ValueError where it leads out of the folder."""
    path = PurePosixPath(image)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{image} leads out of the folder")
    return str(path)
