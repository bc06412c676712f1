"""Which detection is a hit, and the precision and recall that follow.

Every detection belongs to the face that it overlaps most, if by at least half. On a face that counts, the best
detection is a hit and the others are false; on any other face, a detection is ignored: neither hit nor miss. One
that belongs to no face is false. All images are pooled into one curve, whose area, the precision made to fall with
recall, is the average precision (PASCAL VOC from 2010 on).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .truth import Scene

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]

MIN_IOU = 0.5


@dataclass(frozen=True)
class Convention:
    """Where evaluators of this protocol differ, and by more than many a model does."""

    name: str
    border: int  # pixels added to every width and height before areas are compared
    thresholds: int | None  # points of the curve, equally far apart in score; None: every score
    faceless: bool  # whether detections count in images without any face
    text: str


# Corners are float positions, so a box has width x2 - x1, and the curve bends at every detection.
EXACT = Convention(
    "exact",
    border=0,
    thresholds=None,
    faceless=True,
    text="widths x2 - x1, a point for every score",
)
# The WIDER FACE toolbox takes corners for whole pixels, both inside: small faces gain overlap by that.
TOOLBOX = Convention(
    "toolbox",
    border=1,
    thresholds=1000,
    faceless=False,
    text="widths x2 - x1 + 1, 1000 points equally far apart in score, no images without faces",
)
CONVENTIONS = {convention.name: convention for convention in (EXACT, TOOLBOX)}


@dataclass(frozen=True, eq=False)
class Judged:
    """All images' detections, as one choice of faces judges them."""

    scores: Floats  # (N,)
    hits: Bools  # (N,)
    counted: Bools  # (N,), hits and false ones
    faces: int  # that count


@dataclass(frozen=True, eq=False)
class Curve:
    """What is found by the detections of at least each score."""

    scores: Floats  # (T,), falling
    recall: Floats  # (T,), rising
    precision: Floats  # (T,); 0 where nothing is found


@dataclass(frozen=True)
class Point:
    """What is found by the detections of at least `score`."""

    score: float
    precision: float
    recall: float
    f1: float


def owning_faces(found: NDArray[np.floating[Any]], faces: Floats, border: int) -> NDArray[np.intp]:
    """(N,) which face each detection (N, 4 or more: x1, y1, x2, y2) belongs to, -1 for none."""
    if len(faces) == 0:
        return np.full(len(found), -1)
    overlaps = iou(found[:, :4].astype(np.float64), faces, border)
    return np.where(overlaps.max(axis=1) >= MIN_IOU, overlaps.argmax(axis=1), -1)


def iou(boxes: Floats, others: Floats, border: int = 0) -> Floats:
    """(N, M) intersection over union of every pair of corner boxes."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.maximum(high - low + border, 0).prod(axis=2)
    areas, other_areas = ((b[:, 2:] - b[:, :2] + border).prod(axis=1) for b in (boxes, others))
    union = areas[:, None] + other_areas[None, :] - shared
    overlap: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def judge(owners: NDArray[np.intp], kept: Bools, background: Bools) -> tuple[Bools, Bools]:
    """(N,) is it a hit, and (N,) does it count at all; detections come best score first.

    Args:
        owners: (N,) which face each detection belongs to, -1 for none.
        kept: (F,) which faces count.
        background: (N,) which detections are false where they belong to no face, not ignored.
    """
    owned = owners >= 0
    on_kept = owned.copy()
    on_kept[owned] = kept[owners[owned]]
    candidates = np.flatnonzero(on_kept)
    _, first = np.unique(owners[candidates], return_index=True)
    hits = np.zeros(len(owners), bool)
    hits[candidates[first]] = True
    return hits, on_kept | (~owned & background)


def judge_all(
    found: Sequence[NDArray[np.floating[Any]]],
    owners: Sequence[NDArray[np.intp]],
    kept: Sequence[Bools],
    background: Sequence[Bools],
) -> Judged:
    """One item an image; see `judge`. `found` has scores in column 4, best first."""
    judged = [judge(*image) for image in zip(owners, kept, background)]
    return Judged(
        np.concatenate([rows[:, 4] for rows in found]).astype(np.float64),
        np.concatenate([hits for hits, _ in judged]),
        np.concatenate([counted for _, counted in judged]),
        sum(int(faces.sum()) for faces in kept),
    )


def backgrounds(
    scenes: Sequence[Scene],
    found: Sequence[NDArray[np.floating[Any]]],
    convention: Convention,
) -> list[Bools]:
    """(N,) for every scene, whether detections that belong to no face are false there."""
    counts = (convention.faceless or len(scene.faces) > 0 for scene in scenes)
    return [np.full(len(rows), count) for rows, count in zip(found, counts)]


def average_precision(judged: Judged, convention: Convention = EXACT) -> float | None:
    """None where no face counts."""
    if judged.faces == 0:
        return None
    found = curve(judged, convention.thresholds)
    return envelope_area(found.recall, found.precision)


def curve(judged: Judged, thresholds: int | None = None) -> Curve:
    """At every score, or at so many equally far apart from the highest to the lowest."""
    if thresholds is None:
        scores = judged.scores
        levels = reals = np.unique(scores)[::-1]
    else:
        scores, levels = normalised(judged.scores), steps(thresholds)
        least, most = _ends(judged.scores)
        reals = least + levels * (most - least)
    order = np.argsort(-scores, kind="stable")
    # How many detections reach each level: those of one score enter together, whatever their order.
    reached = np.searchsorted(-scores[order], -levels, side="right")
    true = np.concatenate([[0], np.cumsum(judged.hits[order])])[reached]
    said = np.concatenate([[0], np.cumsum(judged.counted[order])])[reached]
    return Curve(reals, true / max(judged.faces, 1), true / np.maximum(said, 1))


def normalised(scores: Floats) -> Floats:
    """Scores moved to 0..1 over the whole set: equally far thresholds then suit every model."""
    least, most = _ends(scores)
    return (scores - least) / (most - least) if most > least else np.ones_like(scores)


def _ends(scores: Floats) -> tuple[float, float]:
    return (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 0.0)


def steps(count: int) -> Floats:
    """1 - 1/count, ..., 1/count, 0, as the toolbox has them."""
    return 1 - np.arange(1, count + 1) / count


def envelope_area(recall: Floats, precision: Floats) -> float:
    """The area of PASCAL VOC from 2010 on; recall rises."""
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * best_from_here))


def point_at(judged: Judged, score: float) -> Point:
    """What the detections of at least this score find; precision 0 where there are none."""
    reach = judged.scores >= np.float32(score)  # as the core compares
    true, said = int(judged.hits[reach].sum()), int(judged.counted[reach].sum())
    return _point(score, true / max(said, 1), true / max(judged.faces, 1))


def best_point(judged: Judged) -> Point | None:
    """Where F1 is largest, the highest such score; None where nothing is found."""
    found = curve(judged)
    points = map(_point, *(a.tolist() for a in (found.scores, found.precision, found.recall)))
    best = max(points, key=lambda point: point.f1, default=None)
    return None if best is None or best.f1 == 0 else best


def _point(score: float, precision: float, recall: float) -> Point:
    both = precision + recall
    return Point(score, precision, recall, 2 * precision * recall / both if both > 0 else 0.0)
