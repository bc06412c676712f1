"""Data sets as they are published, told by what lies in their folder."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...errors import DataError
from ..samples import ANNOTATIONS, open_archive
from .coco import open_coco
from .label_text import open_label_text
from .voc import open_voc, voc_annotations
from .wider import open_wider

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from ..samples import Dataset

# In the order they are looked for, and what for.
FORMATS = {
    "edgeface": f"a .tar or folder with {ANNOTATIONS}",
    "wider": "wider_face_train_bbx_gt.txt or wider_face_train.mat, also in wider_face_split/, or beside WIDER_train/",
    "label": "label.txt",
    "voc": "Annotations/*.xml",
    "coco": "a .json, or one alone in the folder or in annotations/",
}
WIDER = ("wider_face_{}_bbx_gt.txt", "wider_face_{}.mat")


def open_dataset(
    path: Path,
    format: str | None = None,  # noqa: A002  # as on the command line
    *,
    classes: Collection[str] | None = None,
) -> Dataset:
    """A data set on disk; its images are read later.

    Args:
        path: A folder, an archive, or the file of labels itself.
        format: One of `FORMATS`; None: the first that is found at `path`.
        classes: Which classes of a VOC or COCO data set are faces; None: those that are known to be.

    Raises:
        DataError: Nothing of the format is there, or its file of labels cannot be read.
        ValueError: The format is unknown.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format is {format!r}; expected one of {', '.join(FORMATS)}")
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    wanted = FORMATS if format is None else (format,)
    found = next(_found(path, wanted), None)
    if found is None:
        looked_for = "; ".join(f"{name}: {FORMATS[name]}" for name in wanted)
        raise DataError(f"{path}: no data set found here. Looked for {looked_for}")
    name, labels = found
    if name == "voc":
        return open_voc(labels, classes)
    if name == "coco":
        return open_coco(labels, classes)
    return {"edgeface": open_archive, "wider": open_wider, "label": open_label_text}[name](labels)


def format_at(path: Path) -> str | None:
    """Of the data set that open_dataset would find there, if any; labels are not read."""
    return next((name for name, _ in _found(path, FORMATS)), None) if path.exists() else None


def _found(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, Path]]:
    """The formats at `path`, and what to open."""
    find = _in_folder if path.is_dir() else _by_name
    return ((name, labels) for name, labels in find(path) if name in wanted)


def _in_folder(folder: Path) -> Iterator[tuple[str, Path]]:
    if (folder / ANNOTATIONS).is_file():
        yield "edgeface", folder
    for labels in _wider_labels(folder):
        if labels.is_file():
            yield "wider", labels
    if (folder / "label.txt").is_file():
        yield "label", folder / "label.txt"
    if voc_annotations(folder):
        yield "voc", folder
    for place in (folder, folder / "annotations"):
        files = sorted(place.glob("*.json"))
        if len(files) == 1:
            yield "coco", files[0]


def _wider_labels(folder: Path) -> Iterator[Path]:
    """Where labels of WIDER FACE may be: its archives unpack to wider_face_split/ and a folder of images beside it."""
    for name in WIDER:
        yield folder / name.format("train")
        yield folder / "wider_face_split" / name.format("train")
    images = folder.absolute()  # "." has no name
    split = re.fullmatch(r"WIDER_(train|val)", images.name)
    if split:
        for name in WIDER:
            yield images.parent / "wider_face_split" / name.format(split[1])


def _by_name(file: Path) -> Iterator[tuple[str, Path]]:
    if file.suffix == ".tar":
        yield "edgeface", file
    if file.suffix == ".mat" or file.name.endswith("_bbx_gt.txt"):
        yield "wider", file
    elif file.suffix == ".txt":
        yield "label", file
    if file.suffix == ".json":
        yield "coco", file
