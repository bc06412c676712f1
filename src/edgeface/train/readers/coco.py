"""COCO's .json of objects or of five key points: https://cocodataset.org/#format-data."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ..samples import (
    Dataset,
    Sample,
    Source,
    absent_landmarks,
    corners,
    float32,
    inner_path,
    table,
    whole_landmarks,
)
from .classes import is_face
from .places import image_root

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

LISTS = ("images", "annotations", "categories")
# Five landmarks: x, y, visibility each; 0: not labelled.
KEYPOINTS = 15


def open_coco(labels: Path, classes: Collection[str] | None = None) -> Dataset:
    """The images of one .json. Crowds come as `ignore`; five key points are taken for the landmarks."""
    content = _read(labels)
    names = {
        str(category.get("id")): str(category.get("name")) for category in content["categories"]
    }
    faces = defaultdict(list)
    for annotation in content["annotations"]:
        faces[str(annotation.get("image_id"))].append(annotation)
    images = content["images"]
    files = [image["file_name"] for image in images if isinstance(image.get("file_name"), str)]
    root = image_root(labels, _places(labels), files)

    def to_sample(image: Mapping[str, Any]) -> Sample:
        where = f"{labels} image {image.get('id')!r}"
        mine = [
            annotation
            for annotation in faces[str(image.get("id"))]
            if is_face(where, names.get(str(annotation.get("category_id")), "?"), classes)
        ]
        return _sample(where, root, image, mine)

    return Dataset(labels, "coco", root, images, to_sample)


def _read(labels: Path) -> dict[str, list[Mapping[str, Any]]]:
    try:
        content = json.loads(labels.read_bytes())
    except OSError as error:
        raise DataError(f"{labels}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{labels}: not JSON: {error}") from None
    for key in LISTS:
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DataError(f"{labels}: not COCO's form: `{key}` is not a list of objects")
    return content  # type: ignore[no-any-return]  # checked above


def _places(labels: Path) -> Iterator[Path]:
    """annotations/instances_train.json goes with train/, images/train/ or images/ beside annotations/."""
    split = labels.stem.rsplit("_", 1)[-1]
    for base in (labels.parent, labels.resolve().parent.parent):
        yield from (base / split, base / "images" / split, base / "images", base)


def _sample(
    where: str, root: Path, image: Mapping[str, Any], faces: Sequence[Mapping[str, Any]]
) -> Sample:
    name = inner_path(where, image.get("file_name"))
    if not (root / name).is_file():
        raise DataError(f"{where}: no image {root / name}")
    size = image.get("width"), image.get("height")
    if not all(type(n) is int and n > 0 for n in size):
        raise DataError(f"{where}: width and height are {size[0]!r} and {size[1]!r}")
    boxes = corners(table(where, "bbox", [face.get("bbox") for face in faces], 4))
    landmarks = [_landmarks(where, face.get("keypoints")) for face in faces]
    return Sample(
        name=str(root / name),
        size=size,  # type: ignore[arg-type]  # checked above
        boxes=boxes,
        ignore=np.array([bool(face.get("iscrowd")) for face in faces], np.bool_),
        landmarks=np.concatenate([absent_landmarks(0), *landmarks]),
        encoded=Source(root / name),
    )


def _landmarks(where: str, keypoints: object) -> NDArray[np.float32]:
    """As (1, 5, 2)."""
    if not isinstance(keypoints, list) or len(keypoints) != KEYPOINTS:
        return absent_landmarks(1)
    rows = table(where, "keypoints", [keypoints], KEYPOINTS).reshape(1, 5, 3)
    points = np.where(rows[:, :, 2:] > 0, rows[:, :, :2], np.nan)
    return whole_landmarks(float32(points))
