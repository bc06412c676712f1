"""Labelled images, and the form that edgeface keeps them in: a folder or .tar with annotations.jsonl.

A JSON object a line: `image` (a path inside), `width`, `height`, `boxes` [[x, y, w, h], ...] in pixels and,
where there is something to say, `ignore` [0 or 1, ...] and `landmarks` [null or ten numbers, ...]. Other
keys are left alone.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import media
from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

ANNOTATIONS = "annotations.jsonl"


@dataclass(frozen=True)
class Source:
    """Where bytes are: a file, or a part of an archive that is not compressed. Cheap to send to a worker."""

    path: Path
    offset: int = 0
    size: int | None = None  # in bytes; None: to the end of the file

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(-1 if self.size is None else self.size)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its faces, in pixels of the stored image (EXIF orientation is not applied)."""

    name: str  # for messages: the file, or the archive and its member
    size: tuple[int, int]  # width, height
    boxes: NDArray[np.float32]  # (N, 4) x1, y1, x2, y2
    ignore: NDArray[np.bool_]  # (N,) neither positive nor negative
    landmarks: NDArray[np.float32]  # (N, 5, 2) in the order of faces.LANDMARKS, or all NaN: absent
    encoded: Source
    invalid: NDArray[np.bool_] | None = None  # (N,) no face, says the data set; None: says nothing

    def read(self) -> NDArray[np.uint8]:
        """The image, (height, width, 3) BGR.

        Raises:
            DataError: It cannot be read or decoded, or has another size than `size`.
        """
        image = decode_image(self.name, self.encoded)
        height, width = image.shape[:2]
        if (width, height) != self.size:
            raise DataError(
                f"{self.name}: the image is {width}x{height}, its label says "
                f"{self.size[0]}x{self.size[1]}"
            )
        return image


def decode_image(name: str, encoded: Source) -> NDArray[np.uint8]:
    """As stored, (height, width, 3) BGR; DataError with `name` where that fails."""
    cv2 = media.opencv()
    try:
        data = np.frombuffer(encoded.read(), np.uint8)
        if data.size == 0:
            raise DataError(f"{name}: the image is empty")
        image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}") from None
    except cv2.error as error:
        raise DataError(f"{name}: OpenCV cannot read it: {error}") from None
    if image is None:
        raise DataError(f"{name}: damaged, or not a picture that OpenCV can read")
    return np.asarray(image, np.uint8)


@dataclass(frozen=True)
class Dataset:
    """A data set on disk. Iterating gives its samples, and a DataError for each that cannot be used."""

    path: Path
    format: str
    root: Path  # a sample's name is this, a slash, and what the data set calls the image
    records: Sequence[Any]
    to_sample: Callable[[Any], Sample]  # of one record; may raise DataError
    held_out: bool = False  # models are compared on it: not for training

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Sample | DataError]:
        for record in self.records:
            yield self._sample_or_error(record)

    def _sample_or_error(self, record: Any) -> Sample | DataError:
        try:
            return self.to_sample(record)
        except DataError as error:
            return error


def trainable(dataset: Dataset) -> list[Sample]:
    """Its images, in its order; pixels are read later.

    Raises:
        DataError: One cannot be used. A box without area or with a coordinate that is not finite counts: training
            would learn NaN from it.
    """
    samples = []
    for item in dataset:
        if isinstance(item, DataError):
            raise item
        _check_boxes(item)
        samples.append(item)
    return samples


def _check_boxes(sample: Sample) -> None:
    x1, y1, x2, y2 = sample.boxes.T
    with np.errstate(invalid="ignore"):
        good = np.isfinite(sample.boxes).all(1) & (x2 > x1) & (y2 > y1)
    if not good.all():
        raise DataError(f"{sample.name}: box {sample.boxes[~good][0].tolist()} has no area")


def open_archive(path: Path) -> Dataset:
    """A folder or .tar with annotations.jsonl.

    Raises:
        DataError: There is none, or the archive cannot be read.
    """
    find = _folder(path) if path.is_dir() else _archive(path)
    text = find(ANNOTATIONS)
    if text is None:
        raise DataError(f"{path}: no {ANNOTATIONS} in it")
    lines = _read(f"{path}/{ANNOTATIONS}", text).split(b"\n")
    records = [_Row(number, line) for number, line in enumerate(lines, 1) if line.strip()]

    def to_sample(row: _Row) -> Sample:
        values = _parse(f"{path}/{ANNOTATIONS} line {row.number}", row.line)
        return _sample(f"{path}/{ANNOTATIONS} line {row.number}", path, find, values)

    # `wider_keep` says which faces count in an evaluation.
    held_out = any(b'"wider_keep"' in row.line for row in records)
    return Dataset(path, "edgeface", path, records, to_sample, held_out)


@dataclass(frozen=True)
class _Row:
    number: int  # from 1
    line: bytes


def _folder(path: Path) -> Callable[[str], Source | None]:
    def find(name: str) -> Source | None:
        file = path / name
        return Source(file) if file.is_file() else None

    return find


def _archive(path: Path) -> Callable[[str], Source | None]:
    try:
        # Not compressed: a sample is read where it lies.
        with tarfile.open(path, "r:") as archive:
            members = {m.name: Source(path, m.offset_data, m.size) for m in archive if m.isreg()}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except tarfile.TarError as error:
        raise DataError(f"{path}: not a .tar without compression ({error})") from None
    return members.get


def _read(name: str, source: Source) -> bytes:
    try:
        return source.read()
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}") from None


def _parse(where: str, line: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise DataError(f"{where}: not a JSON object")
    return values


def _sample(
    where: str,
    path: Path,
    find: Callable[[str], Source | None],
    values: Mapping[str, Any],
) -> Sample:
    image = inner_path(where, values.get("image"))
    encoded = find(image)
    if encoded is None:
        raise DataError(f"{where}: {path} has no {image}")
    size = values.get("width"), values.get("height")
    if not all(type(n) is int and n > 0 for n in size):
        raise DataError(f"{where}: width and height are {size[0]!r} and {size[1]!r}")
    boxes = corners(table(where, "boxes", values.get("boxes"), 4))
    count = len(boxes)
    return Sample(
        name=str(path / image),
        size=size,  # type: ignore[arg-type]  # checked above
        boxes=boxes,
        ignore=_flags(where, "ignore", values.get("ignore"), count),
        landmarks=_landmarks(where, values.get("landmarks"), count),
        encoded=encoded,
    )


def inner_path(where: str, value: object) -> str:
    """A label's name of an image, as a path inside the data set; DataError where it leads outside."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise DataError(f"{where}: the image's name is {value!r}")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: {value} leads out of the data set")
    return str(path)


def table(where: str, key: str, value: object, columns: int) -> NDArray[np.float64]:
    """(N, columns) of a list of lists of numbers; DataError where it is something else."""
    try:
        rows = np.asarray(value)
    except ValueError:  # ragged
        rows = np.asarray(None)
    if isinstance(value, list) and not value:
        return np.zeros((0, columns))
    if rows.dtype.kind not in "iuf" or rows.ndim != 2 or rows.shape[1] != columns:
        raise DataError(f"{where}: {key} is not a list of {columns} numbers each")
    return rows.astype(np.float64)


def corners(boxes: NDArray[np.float64]) -> NDArray[np.float32]:
    """(N, 4) x, y, width, height -> x1, y1, x2, y2."""
    # Added as float64: x + width of a face at the edge is the image's width then, not a little more.
    with np.errstate(invalid="ignore"):
        return float32(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))


def float32(values: ArrayLike) -> NDArray[np.float32]:
    """Rounded; what is too large becomes infinite, and with that is no box and no landmark."""
    with np.errstate(over="ignore"):
        return np.asarray(values, np.float64).astype(np.float32)


def _flags(where: str, key: str, value: object, count: int) -> NDArray[np.bool_]:
    if value is None:
        return np.zeros(count, np.bool_)
    if not isinstance(value, list) or not all(flag in (0, 1) for flag in value):
        raise DataError(f"{where}: {key} is not a list of 0 and 1")
    _check_count(where, key, len(value), count)
    return np.array(value, np.bool_)


def _landmarks(where: str, value: object, count: int) -> NDArray[np.float32]:
    points = absent_landmarks(count)
    if value is None:
        return points
    if not isinstance(value, list):
        raise DataError(f"{where}: landmarks is not a list")
    _check_count(where, "landmarks", len(value), count)
    for i, row in enumerate(value):
        if row is not None:
            points[i] = float32(table(where, f"landmarks[{i}]", [row], 10)).reshape(5, 2)
    return whole_landmarks(points)


def absent_landmarks(count: int) -> NDArray[np.float32]:
    """(count, 5, 2) NaN."""
    return np.full((count, 5, 2), np.nan, np.float32)


def whole_landmarks(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 5, 2) where a face with a point that is not finite has none."""
    present = np.isfinite(points).all(axis=(1, 2), keepdims=True)
    return np.where(present, points, np.float32(np.nan))


def _check_count(where: str, key: str, found: int, count: int) -> None:
    if found != count:
        raise DataError(f"{where}: {key} has {found} entries for {count} boxes")
