"""A model's figures: AP by subset and by face height, precision and recall, landmarks' error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import precision
from .detections import IOU_THRESHOLD, MAX_FACES, SCORE_THRESHOLD
from .truth import ALL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .detections import Candidate, Found
    from .precision import Convention, Judged, Point
    from .truth import Scene, Truth

# Face heights in pixels, from each up to the next.
HEIGHTS = (0.0, 16.0, 32.0, 64.0, 128.0, float("inf"))
FRAME, INPUT = "frame", "input"
PERCENTILES = (50, 90, 95)


@dataclass(frozen=True)
class SubsetFigures:
    """How the faces of one subset are found."""

    faces: int
    ap: float | None  # None: no face
    at_threshold: Point  # at the model's own score threshold
    best: Point | None  # where F1 is largest; None: nothing is found


@dataclass(frozen=True)
class HeightFigures:
    """Faces from `low` to below `high` pixels; others are neither hit nor miss."""

    low: float
    high: float | None  # None: no end
    faces: int
    ap: float | None

    @property
    def text(self) -> str:
        if self.high is None:
            return f">={self.low:g}"
        return f"{self.low:g}-{self.high:g}" if self.low else f"<{self.high:g}"


@dataclass(frozen=True)
class LandmarkFigures:
    """Of the five points' mean distance, divided by the root of the face's area.

    Only faces with annotated landmarks that the model finds at its own score threshold.
    """

    annotated: int
    faces: int
    mean: float | None
    percentiles: dict[str, float]


@dataclass(frozen=True)
class Figures:
    """Of one candidate."""

    name: str
    input_size: tuple[int, int] | None  # None: it follows each frame
    resize: str
    backend: str
    score_threshold: float
    protocol: str
    images: int
    subsets: dict[str, SubsetFigures]
    heights: dict[str, tuple[HeightFigures, ...]]  # FRAME: in frame pixels, INPUT: in input pixels
    landmarks: LandmarkFigures | None  # None: the model or the truth has none

    @property
    def input_text(self) -> str:
        return "frame's" if self.input_size is None else "{}x{}".format(*self.input_size)


@dataclass(frozen=True, eq=False)
class Assessment:
    """The figures, and what they were made from."""

    candidate: Candidate
    found: Found
    owners: tuple[NDArray[np.intp], ...]  # (N,) for every scene, as precision.owning_faces
    judged: dict[str, Judged]  # by subset
    figures: Figures


def protocol(truth: Truth, convention: Convention, *resizes: str) -> str:
    """All that such figures depend on, in one line."""
    others = "ignored" if ALL in truth.subsets else "outside the subset"
    rule = "" if ALL in truth.subsets else "WIDER FACE rule: "
    faces = ", ".join(f"{truth.count(name)} {name}" for name in truth.subsets)
    return (
        f"{' or '.join(dict.fromkeys(resizes))}; scores from {SCORE_THRESHOLD}; hard NMS at IoU "
        f"{IOU_THRESHOLD}; at most {MAX_FACES} boxes; a hit has IoU {precision.MIN_IOU}; "
        f"{rule}a face that is {others} is neither hit nor miss; {convention.name} ({convention.text}); "
        f"{truth.name}: {len(truth.scenes)} images, faces: {faces}"
    )


def assess(
    truth: Truth, candidate: Candidate, found: Found, convention: Convention = precision.EXACT
) -> Assessment:
    """All figures of what a candidate found in the truth's scenes."""
    owners = tuple(
        precision.owning_faces(rows, scene.faces, convention.border)
        for rows, scene in zip(found.rows, truth.scenes)
    )
    background = precision.backgrounds(truth.scenes, found.rows, convention)
    kept = {name: [scene.kept[name] for scene in truth.scenes] for name in truth.subsets}
    judged = {
        name: precision.judge_all(found.rows, owners, kept[name], background) for name in kept
    }
    scales = {
        FRAME: [1.0] * len(found.sizes),
        INPUT: [candidate.scale(size) for size in found.sizes],
    }
    figures = Figures(
        candidate.name,
        candidate.input_size,
        candidate.resize,
        candidate.backend,
        candidate.score_threshold,
        protocol(truth, convention, candidate.resize),
        len(truth.scenes),
        {name: _subset(one, candidate, convention) for name, one in judged.items()},
        {
            unit: _by_height(truth, found, owners, background, scale, convention)
            for unit, scale in scales.items()
        },
        _landmarks(truth, candidate, found, owners),
    )
    return Assessment(candidate, found, owners, judged, figures)


def _subset(judged: Judged, candidate: Candidate, convention: Convention) -> SubsetFigures:
    return SubsetFigures(
        judged.faces,
        precision.average_precision(judged, convention),
        precision.point_at(judged, candidate.score_threshold),
        precision.best_point(judged),
    )


def _by_height(
    truth: Truth,
    found: Found,
    owners: Sequence[NDArray[np.intp]],
    background: Sequence[NDArray[np.bool_]],
    scales: Sequence[float],
    convention: Convention,
) -> tuple[HeightFigures, ...]:
    """Of the widest subset. A detection that belongs to no face is false among faces of its own height."""
    faces = [_heights(scene.faces) * scale for scene, scale in zip(truth.scenes, scales)]
    others = [_heights(rows) * scale for rows, scale in zip(found.rows, scales)]
    kept = [scene.kept[truth.widest] for scene in truth.scenes]
    figures = []
    for low, high in zip(HEIGHTS, HEIGHTS[1:]):
        judged = precision.judge_all(
            found.rows,
            owners,
            [k & (low <= h) & (h < high) for k, h in zip(kept, faces)],
            [b & (low <= h) & (h < high) for b, h in zip(background, others)],
        )
        ap = precision.average_precision(judged, convention)
        figures.append(HeightFigures(low, high if np.isfinite(high) else None, judged.faces, ap))
    return tuple(figures)


def _heights(boxes: NDArray[Any]) -> NDArray[np.float64]:
    heights: NDArray[np.float64] = (boxes[:, 3] - boxes[:, 1]).astype(np.float64)
    return heights


def _landmarks(
    truth: Truth, candidate: Candidate, found: Found, owners: Sequence[NDArray[np.intp]]
) -> LandmarkFigures | None:
    annotated = sum(
        int((has_landmarks(scene.landmarks) & scene.kept[truth.widest]).sum())
        for scene in truth.scenes
    )
    if annotated == 0 or any(rows.shape[1] != 15 for rows in found.rows):
        return None
    errors = np.concatenate(
        [
            _found_errors(scene, rows, owner, candidate.score_threshold)[scene.kept[truth.widest]]
            for scene, rows, owner in zip(truth.scenes, found.rows, owners)
        ]
    )
    errors = errors[~np.isnan(errors)]
    if len(errors) == 0:
        return LandmarkFigures(annotated, 0, None, {})
    values = np.percentile(errors, PERCENTILES).tolist()
    percentiles = {str(percent): value for percent, value in zip(PERCENTILES, values)}
    return LandmarkFigures(annotated, len(errors), float(errors.mean()), percentiles)


def has_landmarks(landmarks: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(F,) of (F, 5, 2)."""
    return np.asarray(np.isfinite(landmarks).all(axis=(1, 2)), np.bool_)


def _found_errors(
    scene: Scene, rows: NDArray[np.float32], owners: NDArray[np.intp], score: float
) -> NDArray[np.float64]:
    reach = rows[:, 4] >= np.float32(score)
    return landmark_errors(rows[reach], owners[reach], scene.faces, scene.landmarks)


def landmark_errors(
    found: NDArray[np.float32],
    owners: NDArray[np.intp],
    faces: NDArray[np.float64],
    landmarks: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(F,) mean distance of the five points over the root of the face's area, by its best detection.

    NaN for a face that nothing belongs to or that has no annotated landmarks.
    """
    errors = np.full(len(faces), np.nan)
    owned = np.flatnonzero(owners >= 0)
    hit, first = np.unique(owners[owned], return_index=True)
    points = found[owned[first], 5:].astype(np.float64).reshape(-1, 5, 2)
    distances = np.linalg.norm(points - landmarks[hit], axis=2).mean(axis=1)
    errors[hit] = distances / np.sqrt((faces[hit, 2:] - faces[hit, :2]).prod(axis=1))
    return errors
