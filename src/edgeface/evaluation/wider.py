"""WIDER FACE val as it is published: .mat files and a folder of images for every event.

wider_face_val.mat (from wider_face_split.zip or eval_tools.zip) has the faces, wider_easy_val.mat,
wider_medium_val.mat and wider_hard_val.mat (eval_tools.zip) say which of them count, numbered from 1.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import DataError
from .truth import ANNOTATIONS, WIDER_SUBSETS, FolderFiles, Scene, Truth, corners, inner_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

FACES = "wider_face_val.mat"
# Where the published archives put them, when all are unpacked in one folder.
MAT_FOLDERS = (".", "eval_tools/ground_truth", "ground_truth", "wider_face_split")
IMAGE_FOLDERS = ("WIDER_val/images", "images", ".")


class _Image(NamedTuple):
    path: str
    boxes: NDArray[np.float64]  # (F, 4) x, y, width, height


def open_folder(path: Path) -> Truth:
    """The published files, together in one folder or in the folders that their archives make.

    Raises:
        DataError: A file is missing or damaged, or they do not fit each other.
        ImportError: scipy, which reads them, is missing.
    """
    faces = _find(path, FACES)
    images = _read(faces, _images)
    kept = {name: _kept(_find(path, f"wider_{name}_val.mat"), images) for name in WIDER_SUBSETS}
    scenes = [
        Scene(
            image.path,
            corners(image.boxes),
            {name: kept[name][i] for name in WIDER_SUBSETS},
            np.full((len(image.boxes), 5, 2), np.nan),
        )
        for i, image in enumerate(images)
    ]
    folders = [path / folder for folder in IMAGE_FOLDERS]
    exists = (folder for folder in folders if images and (folder / images[0].path).is_file())
    return Truth(path.name, scenes, FolderFiles(next(exists, folders[0])))


def _find(path: Path, name: str) -> Path:
    for folder in MAT_FOLDERS:
        if (path / folder / name).is_file():
            return path / folder / name
    raise DataError(
        f"{path} has neither {ANNOTATIONS} nor {name} (looked in {', '.join(MAT_FOLDERS)}); "
        "expected an archive of edgeface's form or WIDER FACE val with its eval_tools"
    )


def _read(path: Path, parse: Callable[[dict[str, Any]], Any]) -> Any:
    try:
        from scipy import io
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise ImportError(f'{path} needs scipy ({error}): pip install "edgeface[eval]"') from error
    damaged = (MatReadError, LookupError, TypeError, ValueError, OSError, zlib.error)
    try:
        return parse(io.loadmat(str(path)))
    # MemoryError: a damaged length.
    except (*damaged, NotImplementedError, AttributeError, MemoryError) as error:
        raise DataError(f"{path}: not such a .mat, or damaged: {error!r}") from None


def _images(mat: dict[str, Any]) -> list[_Image]:
    images = []
    for event, files, boxes in _columns(*(mat[f"{name}_list"] for name in _LISTS)):
        for file, rows in _columns(files, boxes):
            table = np.asarray(rows, np.float64).reshape(-1, 4)
            images.append(_Image(inner_path(f"{event[0]}/{file[0]}.jpg"), table))
    return images


_LISTS = ("event", "file", "face_bbx")


def _columns(*cells: NDArray[Any]) -> Iterable[tuple[Any, ...]]:
    """Cells of shape (n, 1), side by side."""
    if len({len(column) for column in cells}) != 1:
        raise ValueError(f"lists of {[len(column) for column in cells]} entries")
    return zip(*(column[:, 0] for column in cells))


def _kept(path: Path, images: list[_Image]) -> list[NDArray[np.bool_]]:
    """(F,) of every image, which faces the subset keeps."""
    chosen: list[NDArray[np.int64]] = _read(path, _indices)
    if len(chosen) != len(images):
        raise DataError(f"{path} has {len(chosen)} images; {FACES} has {len(images)}")
    kept = []
    for indices, image in zip(chosen, images):
        count = len(image.boxes)
        if len(indices) > 0 and (indices.min() < 1 or indices.max() > count):
            raise DataError(f"{path} keeps faces that {image.path} lacks: it has {count}")
        kept.append(np.isin(np.arange(1, count + 1), indices))
    return kept


def _indices(mat: dict[str, Any]) -> list[NDArray[np.int64]]:
    return [
        np.asarray(rows, np.int64).reshape(-1)
        for event in mat["gt_list"][:, 0]
        for rows in event[:, 0]
    ]
