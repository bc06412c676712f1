"""label.txt: WIDER FACE's boxes with five landmarks each, as published with RetinaFace.

`# 0--Parade/name.jpg`, then a line for each face: x y width height, and perhaps x y flag of five landmarks
(-1 where absent) and a blur score.
J. Deng, J. Guo, E. Ververas, I. Kotsia, S. Zafeiriou: RetinaFace: Single-Shot Multi-Level Face Localisation
in the Wild, CVPR 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import DataError
from ..samples import (
    Dataset,
    Sample,
    absent_landmarks,
    corners,
    float32,
    inner_path,
    whole_landmarks,
)
from .lines import numbers, read_lines
from .places import image_at, image_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

# The box alone; with landmarks; with landmarks and blur.
COUNTS = (4, 19, 20)
ABSENT = -1


@dataclass(frozen=True)
class Entry:
    """An image's name and the lines of its faces."""

    where: str
    image: str
    lines: list[str]


def open_label_text(labels: Path) -> Dataset:
    entries = list(_entries(labels))
    above = labels.resolve().parent.parent
    places = (labels.parent / "images", labels.parent, above / "images", above)
    root = image_root(labels, places, [entry.image for entry in entries])
    return Dataset(labels, "label", root, entries, lambda entry: _sample(root, entry))


def _entries(labels: Path) -> Iterator[Entry]:
    lines = read_lines(labels)
    starts = [i for i, line in enumerate(lines) if line.startswith("#")]
    if not starts or any(lines[: starts[0]]):
        raise DataError(f"{labels}: does not begin with `# ` and the path of an image")
    for start, end in zip(starts, [*starts[1:], len(lines)]):
        faces = [line for line in lines[start + 1 : end] if line]
        yield Entry(f"{labels} line {start + 1}", lines[start][1:].strip(), faces)


def _sample(root: Path, entry: Entry) -> Sample:
    image = inner_path(entry.where, entry.image)
    rows = [numbers(entry.where, line, COUNTS) for line in entry.lines]
    boxes = np.array([row[:4] for row in rows]).reshape(-1, 4)
    landmarks = [_landmarks(row) for row in rows]
    encoded, size = image_at(entry.where, root / image)
    return Sample(
        name=str(root / image),
        size=size,
        boxes=corners(boxes),
        ignore=np.zeros(len(rows), np.bool_),
        landmarks=np.concatenate([absent_landmarks(0), *landmarks]),
        encoded=encoded,
    )


def _landmarks(row: list[float]) -> NDArray[np.float32]:
    """As (1, 5, 2)."""
    if len(row) == COUNTS[0]:
        return absent_landmarks(1)
    points = float32(row[4:19]).reshape(1, 5, 3)[:, :, :2]
    absent = (points == ABSENT).all(2, keepdims=True)
    return whole_landmarks(np.where(absent, np.float32(np.nan), points))
