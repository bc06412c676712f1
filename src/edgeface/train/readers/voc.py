"""Pascal VOC: a folder with Annotations/*.xml and JPEGImages.

M. Everingham et al.: The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010.
Its development kit counts pixels from 1 and includes the last one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np

from ...errors import DataError
from ..samples import Dataset, Sample, Source, absent_landmarks, float32, inner_path
from .classes import is_face
from .places import image_root

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

ANNOTATIONS = ("Annotations", "annotations")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
# Some tools leave the suffix out of <filename>.
SUFFIXES = ("", ".jpg", ".jpeg", ".png")


def voc_annotations(folder: Path) -> list[Path]:
    """The .xml files, sorted; none where the folder is something else."""
    return next(filter(None, (sorted((folder / a).glob("*.xml")) for a in ANNOTATIONS)), [])


def open_voc(folder: Path, classes: Collection[str] | None = None) -> Dataset:
    """Every annotation of the folder. Difficult objects come as `ignore`."""
    files = voc_annotations(folder)
    places = (folder / "JPEGImages", folder / "images", folder)
    names = [file.stem + suffix for suffix in SUFFIXES[1:] for file in files[:5]]
    root = image_root(folder, places, names)
    return Dataset(folder, "voc", root, files, lambda file: _sample(root, file, classes))


def _sample(root: Path, file: Path, classes: Collection[str] | None) -> Sample:
    try:
        annotation = ET.parse(file).getroot()
    except (OSError, ET.ParseError) as error:
        raise DataError(f"{file}: {error}") from None
    image = _image(root, file, annotation)
    objects = list(_faces(file, annotation, classes))
    boxes = float32([_corners(file, thing) for thing in objects]).reshape(-1, 4)
    difficult = [thing.findtext("difficult", "0").strip() == "1" for thing in objects]
    width, height = (_number(file, annotation, f"size/{side}") for side in ("width", "height"))
    return Sample(
        name=str(root / image),
        size=(int(width), int(height)),
        boxes=boxes,
        ignore=np.array(difficult, np.bool_),
        landmarks=absent_landmarks(len(boxes)),
        encoded=Source(root / image),
    )


def _image(root: Path, file: Path, annotation: ET.Element) -> str:
    named = inner_path(str(file), annotation.findtext("filename") or file.stem)
    for name in (named, file.stem):
        for suffix in SUFFIXES:
            if (root / (name + suffix)).is_file():
                return name + suffix
    raise DataError(f"{file}: no image {root / named}")


def _faces(
    file: Path, annotation: ET.Element, classes: Collection[str] | None
) -> Iterator[ET.Element]:
    for thing in annotation.findall("object"):
        if is_face(str(file), thing.findtext("name", "").strip(), classes):
            yield thing


def _corners(file: Path, thing: ET.Element) -> list[float]:
    x1, y1, x2, y2 = (_number(file, thing, f"bndbox/{corner}") for corner in CORNERS)
    return [x1 - 1, y1 - 1, x2, y2]


def _number(file: Path, element: ET.Element, path: str) -> float:
    text = element.findtext(path, "")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{file}: {path} is {text!r}, not a number")
    return number
