"""Augmentation, geometry: which part of which image goes where, and where its faces are then.

All of it is axis-aligned, so that a part is two rectangles. Everything random comes from one generator made
of (seed, epoch, index): an image is the same whichever process makes it, and after resuming.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .samples import Sample

    Floats = NDArray[np.float32]
    Rectangle = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels

_MIRRORED_LANDMARKS = [1, 0, 2, 4, 3]  # left and right change places in the image
_CROP_ATTEMPTS = 20
# The share of a face that a crop must show, drawn for each crop ("SSD", arXiv 1512.02325, section 2.2, has
# these as IoU; of a small face and a crop that is near 0).
_CROP_COVERS = (0.0, 0.3, 0.5, 0.7, 0.9)
_IGNORED_BELOW = 0.02  # less of a face than this in the picture is background
_LUMA = np.array([0.114, 0.587, 0.299])  # blue, green, red (ITU-R BT.601)


@dataclass(frozen=True)
class Augmentation:
    """How much of what. Probabilities: of mosaic, then expand, then crop; what is left is the whole image."""

    mosaic: float = 0.25
    mosaic_sides: tuple[int, ...] = (2, 3)  # images a row and a column
    expand: float = 0.15
    max_expand: float = 3.0  # side of the canvas over the image's
    crop: float = 0.35
    min_crop: float = 0.3  # of a side
    aspect: float = 1.4  # a crop's sides are stretched by at most this against each other
    mirror: float = 0.5
    min_face: float = 5.0  # input pixels, sqrt(width * height); smaller ones are ignored
    min_visible: float = 0.4  # of a face's area; less is ignored
    brightness: float = 32.0  # added, of 255
    contrast: float = 0.3  # factor 1 +- this
    saturation: float = 0.5
    hue: float = 18.0  # degrees
    grey: float = 0.05  # probability
    distort: float = 0.8  # probability that any of the four is done


NONE = Augmentation(mosaic=0, expand=0, crop=0, mirror=0, grey=0, distort=0)


@dataclass(frozen=True)
class Part:
    """A rectangle of an image, stretched to one of the input."""

    index: int
    source: Rectangle
    target: Rectangle
    mirrored: bool


@dataclass(frozen=True)
class Plan:
    """What to draw, and the faces in it, in input pixels."""

    parts: tuple[Part, ...]
    fill: Floats  # (3,) BGR, where no part is
    colour: Floats  # (3, 4): BGR = colour[:, :3] @ BGR + colour[:, 3]
    boxes: Floats = field(repr=False)  # (N, 4)
    landmarks: Floats = field(repr=False)  # (N, 5, 2)
    is_ignored: NDArray[np.bool_] = field(repr=False)  # (N,)


def plan(
    samples: Sequence[Sample],
    index: int,
    size: tuple[int, int],
    augmentation: Augmentation,
    seed: Sequence[int],
    *,
    others: NDArray[np.intp],
) -> Plan:
    """An input of (width, height) around image `index`; what else a mosaic has is of the images `others`."""
    random = np.random.default_rng([*seed, index])
    cells = _layout(size, augmentation, random)
    crop = augmentation.crop if len(cells) == 1 else augmentation.crop / 2
    parts = []
    for number, cell in enumerate(cells):
        chosen = index if number == 0 else int(others[random.integers(len(others))])
        source = (0, 0, *samples[chosen].size)
        if random.random() < crop:
            source = _crop(samples[chosen], augmentation, random)
        parts.append(Part(chosen, source, cell, bool(random.random() < augmentation.mirror)))
    fill = np.full(3, 127) if random.random() < 0.5 else random.uniform(0, 255, 3)
    faces = [_faces(samples[part.index], part, augmentation) for part in parts]
    return Plan(
        parts=tuple(parts),
        fill=fill.astype(np.float32),
        colour=_colour(augmentation, random),
        boxes=np.concatenate([boxes for boxes, _, _ in faces]),
        landmarks=np.concatenate([landmarks for _, landmarks, _ in faces]),
        is_ignored=np.concatenate([ignored for _, _, ignored in faces]),
    )


def _layout(
    size: tuple[int, int], augmentation: Augmentation, random: np.random.Generator
) -> list[Rectangle]:
    """Where parts go; the first cell is the image's own."""
    width, height = size
    choice = random.random()
    if choice < augmentation.mosaic:
        sides = int(random.choice(augmentation.mosaic_sides))
        x, y = _splits(width, sides, random), _splits(height, sides, random)
        cells = [(x[i], y[j], x[i + 1], y[j + 1]) for j in range(sides) for i in range(sides)]
        return [cells[i] for i in random.permutation(len(cells))]
    if choice < augmentation.mosaic + augmentation.expand:
        scale = 1 / random.uniform(1, augmentation.max_expand)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        x1, y1 = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
        return [(x1, y1, x1 + w, y1 + h)]
    return [(0, 0, width, height)]


def _splits(length: int, sides: int, random: np.random.Generator) -> list[int]:
    """Edges of cells, each within 0.3 of a cell of where it would be if all were the same."""
    inner = (np.arange(1, sides) + random.uniform(-0.3, 0.3, sides - 1)) * length / sides
    return [0, *map(int, inner.round()), length]


def _crop(sample: Sample, augmentation: Augmentation, random: np.random.Generator) -> Rectangle:
    """A part of the image that shows enough of at least one face, if it has any."""
    faces = sample.boxes[~sample.ignore]
    width, height = sample.size
    if len(faces) == 0:
        return _rectangle(None, sample.size, augmentation, random)
    wanted = random.choice(_CROP_COVERS)
    for _ in range(_CROP_ATTEMPTS):
        face = faces[random.integers(len(faces))]
        crop = _rectangle(face, sample.size, augmentation, random)
        if _visible(face[None], crop)[0] >= wanted:
            return crop
    return (0, 0, width, height)


def _rectangle(
    face: Floats | None,
    size: tuple[int, int],
    augmentation: Augmentation,
    random: np.random.Generator,
) -> Rectangle:
    """A rectangle in an image of that size, somewhere over the face's centre."""
    scale = random.uniform(augmentation.min_crop, 1)
    stretch = augmentation.aspect ** random.uniform(-0.5, 0.5)
    edges: list[tuple[int, int]] = []
    for axis, factor in ((0, stretch), (1, 1 / stretch)):
        length = min(size[axis], max(8, round(size[axis] * min(1.0, scale * factor))))
        low, high = 0, size[axis] - length
        if face is not None:
            centre = float(face[axis] + face[axis + 2]) / 2
            low = int(np.clip(centre - length, low, high))
            high = int(np.clip(centre, low, high))
        start = int(random.integers(low, high + 1))
        edges.append((start, start + length))
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


def _faces(
    sample: Sample, part: Part, augmentation: Augmentation
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Boxes, landmarks, which are ignored: of the faces that are in the part, where it goes."""
    visible = _visible(sample.boxes, part.source)
    kept = visible > _IGNORED_BELOW
    x1, y1, x2, y2 = part.source
    to_x1, to_y1, to_x2, to_y2 = part.target
    low, scale = (x1, y1), ((to_x2 - to_x1) / (x2 - x1), (to_y2 - to_y1) / (y2 - y1))
    points = np.concatenate([sample.boxes[kept].reshape(-1, 2, 2), sample.landmarks[kept]], 1)
    points = (points - low) * scale + (to_x1, to_y1)
    if part.mirrored:
        points[..., 0] = to_x1 + to_x2 - points[..., 0]
        points[:, :2, 0] = points[:, 1::-1, 0]
        points[:, 2:] = points[:, 2:][:, _MIRRORED_LANDMARKS]
    corners = np.clip(points[:, :2], (to_x1, to_y1), (to_x2, to_y2)).reshape(-1, 4)
    size = np.sqrt((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]))
    ignored = sample.ignore[kept] | (size < augmentation.min_face)
    ignored |= visible[kept] < augmentation.min_visible
    return corners.astype(np.float32), points[:, 2:].astype(np.float32), ignored


def _visible(boxes: Floats, rectangle: Rectangle) -> NDArray[np.float64]:
    """The share of each box's area that is in the rectangle."""
    x1, y1, x2, y2 = boxes.T.astype(np.float64)
    width = np.minimum(x2, rectangle[2]) - np.maximum(x1, rectangle[0])
    height = np.minimum(y2, rectangle[3]) - np.maximum(y1, rectangle[1])
    area = (x2 - x1) * (y2 - y1)
    shown = np.maximum(width, 0) * np.maximum(height, 0)
    share: NDArray[np.float64] = np.divide(shown, area, out=np.zeros_like(area), where=area > 0)
    return share


def _colour(augmentation: Augmentation, random: np.random.Generator) -> Floats:
    """Brightness, contrast, saturation and hue as one matrix: each is linear in blue, green and red."""
    matrix, shift = np.eye(3), 0.0
    if random.random() < augmentation.distort:
        contrast = random.uniform(1 - augmentation.contrast, 1 + augmentation.contrast)
        saturation = random.uniform(1 - augmentation.saturation, 1 + augmentation.saturation)
        shift = random.uniform(-augmentation.brightness, augmentation.brightness)
        turn = _turned(np.deg2rad(random.uniform(-augmentation.hue, augmentation.hue)))
        matrix = contrast * _saturated(saturation) @ turn
    if random.random() < augmentation.grey:
        matrix = _saturated(0) @ matrix
    return np.column_stack([matrix, np.full(3, shift)]).astype(np.float32)


def _saturated(factor: float) -> NDArray[np.float64]:
    return factor * np.eye(3) + (1 - factor) * np.tile(_LUMA, (3, 1))


def _turned(angle: float) -> NDArray[np.float64]:
    """A turn about the grey axis (Rodrigues), which leaves grey as it is."""
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn: NDArray[np.float64] = (
        np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    )
    return turn
