"""WIDER FACE as published: wider_face_split's .txt or .mat beside WIDER_train/images.

S. Yang, P. Luo, C. C. Loy, X. Tang: WIDER FACE: A Face Detection Benchmark, CVPR 2016; the columns are
those of its readme.txt.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ..samples import Dataset, Sample, absent_landmarks, corners, inner_path
from .lines import numbers, read_lines
from .places import image_at, image_root

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# Of a face's line: x, y, width, height, blur, expression, illumination, invalid, occlusion, pose.
COLUMNS = 10
INVALID = 7


@dataclass(frozen=True)
class Entry:
    """What the labels say about one image."""

    where: str
    image: str  # event/name.jpg
    faces: NDArray[np.float64] | Sequence[str]  # (N, 5) x, y, width, height, invalid; or lines


def open_wider(labels: Path) -> Dataset:
    """wider_face_train_bbx_gt.txt, or wider_face_train.mat in either of MATLAB's formats.

    A face that is flagged invalid comes as such; one whose width or height is 0 (there are some) too.
    """
    entries = list((_mat_entries if labels.suffix == ".mat" else _text_entries)(labels))
    root = image_root(labels, _places(labels), [entry.image for entry in entries])
    return Dataset(labels, "wider", root, entries, lambda entry: _sample(root, entry))


def _places(labels: Path) -> Iterator[Path]:
    """wider_face_train_bbx_gt.txt goes with WIDER_train/images, in its folder or the one above."""
    found = re.search(r"train|val", labels.name)
    for base in (labels.parent, labels.resolve().parent.parent):
        if found:
            yield base / f"WIDER_{found[0]}" / "images"
        yield base / "images"
        yield base


def _sample(root: Path, entry: Entry) -> Sample:
    image = inner_path(entry.where, entry.image)
    faces = entry.faces
    if not isinstance(faces, np.ndarray):
        faces = _parse_faces(entry.where, faces)
    encoded, size = image_at(entry.where, root / image)
    return Sample(
        name=str(root / image),
        size=size,
        boxes=corners(faces[:, :4]),
        ignore=np.zeros(len(faces), np.bool_),
        landmarks=absent_landmarks(len(faces)),
        encoded=encoded,
        invalid=faces[:, 4] != 0,
    )


def _text_entries(labels: Path) -> Iterator[Entry]:
    """An image's name, the count of its faces, a line for each; a damaged one spoils no other."""
    lines = read_lines(labels)
    starts = [i for i, line in enumerate(lines) if line.endswith(".jpg")]
    if not starts:
        raise DataError(f"{labels}: no line in it names a .jpg")
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        faces = [line for line in lines[start + 1 : end] if line]
        yield Entry(f"{labels} line {start + 1}", lines[start], faces)


def _parse_faces(where: str, lines: Sequence[str]) -> NDArray[np.float64]:
    if not lines or not re.fullmatch(r"\d{1,6}", lines[0], re.ASCII):
        raise DataError(f"{where}: no count of faces below the image's name")
    count, rows = int(lines[0]), list(lines[1:])
    # The published files have a line of zeros where there is no face.
    if count == 0 and len(rows) <= 1:
        return np.zeros((0, 5))
    if len(rows) != count:
        raise DataError(f"{where}: {len(rows)} lines of faces where {count} were announced")
    values = np.array([numbers(where, row, (COLUMNS,)) for row in rows])
    return values[:, [0, 1, 2, 3, INVALID]]


def _mat_entries(labels: Path) -> Iterator[Entry]:
    events, files, boxes, invalid = _read_mat(labels)
    for event, names, faces, flags in zip(events, files, boxes, invalid):
        for name, box, flag in zip(names, faces, flags):
            where = f"{labels} {event}/{name}"
            if box.size and (box.ndim != 2 or box.shape[1] != 4 or flag.size != len(box)):
                raise DataError(f"{where}: boxes have shape {box.shape}, flags {flag.shape}")
            both = np.concatenate([box.reshape(-1, 4), flag.reshape(-1, 1)], axis=1)
            yield Entry(where, f"{event}/{name}.jpg", both.astype(np.float64))


MAT_KEYS = ("event_list", "file_list", "face_bbx_list", "invalid_label_list")


def _read_mat(labels: Path) -> list[Any]:
    """The four cell arrays as lists, of strings and arrays; MATLAB 7.3 is HDF5, older ones are not."""
    try:
        with labels.open("rb") as file:
            is_hdf5 = b"MATLAB 7.3" in file.read(116)
        return (_read_hdf5 if is_hdf5 else _read_classic)(labels)
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise DataError(f"{labels}: not WIDER FACE's .mat: {error!r}") from None
    except OSError as error:
        raise DataError(f"{labels}: {error.strerror or error}") from None


def _read_classic(labels: Path) -> list[Any]:
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise ImportError(f"{labels}: a .mat needs SciPy: pip install scipy") from error
    try:
        content = loadmat(str(labels))
    except (MatReadError, NotImplementedError, zlib.error) as error:
        raise ValueError(str(error)) from None
    return [_cells(content[key]) for key in MAT_KEYS]


def _cells(value: NDArray[Any]) -> Any:
    """A cell array as a list, a row of characters as a string, numbers as they are."""
    if value.dtype == object:
        return [_cells(cell) for cell in value.ravel()]
    return str(value.item()) if value.dtype.kind == "U" else value


def _read_hdf5(labels: Path) -> list[Any]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(f"{labels}: a .mat of MATLAB 7.3 needs h5py: pip install h5py") from error

    def cells(value: Any) -> Any:
        if value.dtype == object:
            return [cells(file[reference]) for reference in value[()].ravel()]
        if value.attrs.get("MATLAB_class") == b"char":
            return "".join(map(chr, value[()].ravel()))
        # Columns of MATLAB are rows of HDF5; an empty array is written as its two dimensions.
        return np.zeros((0, 4)) if "MATLAB_empty" in value.attrs else value[()].T

    with h5py.File(labels, "r") as file:
        return [cells(file[key]) for key in MAT_KEYS]
