"""WIDER FACE average precision: the annotated images, which detection is a hit, and the area.

A face counts in a subset (easy, medium, hard) when the subset keeps it. Every detection belongs to the face
it overlaps most, if by at least half. On a kept face the best detection is a hit and the others are false; on any
other face a detection is ignored, neither hit nor miss. All images are pooled into one curve.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SUBSETS = ("easy", "medium", "hard")
MIN_IOU = 0.5
ANNOTATIONS = "annotations.jsonl"


@dataclass(frozen=True)
class Convention:
    """Where evaluators of this protocol differ, and by more than many a model does."""

    border: int  # pixels added to every width and height before areas are compared
    thresholds: int | None  # points of the curve, equally far apart in score; None: every score


# Corners are float positions, so a box has width x2 - x1, and the curve bends at every detection.
EXACT = Convention(border=0, thresholds=None)
# The WIDER FACE toolbox takes corners for whole pixels, both inside: small faces gain overlap by that.
# It also leaves out images without any face; here, their detections are false.
TOOLBOX = Convention(border=1, thresholds=1000)


@dataclass(frozen=True, eq=False)
class Scene:
    """One annotated image."""

    image: str
    faces: NDArray[np.float64]  # (F, 4) corners x1, y1, x2, y2
    kept: Mapping[str, NDArray[np.bool_]]  # subset: (F,), which faces count


class Archive:
    """Scenes and their images, from a .tar or from the folder that it unpacks to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tar = None if path.is_dir() else tarfile.open(path)  # noqa: SIM115 - open as long as this is
        lines = self._read(ANNOTATIONS).decode().splitlines()
        self.scenes = [scene(json.loads(line)) for line in lines]

    def frame(self, image: str) -> NDArray[np.uint8]:
        """The image in BGR."""
        frame = cv2.imdecode(np.frombuffer(self._read(image), np.uint8), cv2.IMREAD_COLOR)
        if frame is None:
            raise ValueError(f"{self._path}: OpenCV cannot decode {image}")
        return frame

    def _read(self, name: str) -> bytes:
        if self._tar is None:
            return (self._path / name).read_bytes()
        member = self._tar.extractfile(name)
        if member is None:
            raise ValueError(f"{self._path}: {name} is not a file")
        return member.read()


def scene(row: Mapping[str, Any]) -> Scene:
    """One line of annotations.jsonl."""
    if "wider_keep" not in row:
        raise ValueError(f"{row['image']} has no wider_keep: only WIDER FACE val has these subsets")
    boxes = np.array(row["boxes"], np.float64).reshape(-1, 4)
    faces = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    kept = {name: np.isin(np.arange(len(faces)), row["wider_keep"][name]) for name in SUBSETS}
    return Scene(row["image"], faces, kept)


def evaluate(
    scenes: Sequence[Scene], found: Sequence[NDArray[np.floating[Any]]], convention: Convention
) -> dict[str, float]:
    """AP of every subset; `found` has one (N, 5) x1, y1, x2, y2, score a scene, best score first."""
    owners = [owning_faces(f, s.faces, convention.border) for s, f in zip(scenes, found)]
    scores = normalised(np.concatenate([f[:, 4] for f in found]).astype(np.float64))
    result = {}
    for name in SUBSETS:
        judged = [judge(o, s.kept[name]) for s, o in zip(scenes, owners)]
        hits, counted = (np.concatenate(parts) for parts in zip(*judged))
        faces = sum(int(s.kept[name].sum()) for s in scenes)
        result[name] = average_precision(scores, hits, counted, faces, convention.thresholds)
    return result


def owning_faces(
    found: NDArray[np.floating[Any]], faces: NDArray[np.float64], border: int
) -> NDArray[np.intp]:
    """(N,) which face each detection belongs to, -1 for none."""
    if len(faces) == 0:
        return np.full(len(found), -1)
    overlaps = iou(found[:, :4].astype(np.float64), faces, border)
    return np.where(overlaps.max(axis=1) >= MIN_IOU, overlaps.argmax(axis=1), -1)


def iou(
    boxes: NDArray[np.float64], others: NDArray[np.float64], border: int = 0
) -> NDArray[np.float64]:
    """(N, M) intersection over union of every pair of corner boxes."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.maximum(high - low + border, 0).prod(axis=2)
    areas, other_areas = ((b[:, 2:] - b[:, :2] + border).prod(axis=1) for b in (boxes, others))
    union = areas[:, None] + other_areas[None, :] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def judge(
    owners: NDArray[np.intp], kept: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(N,) is it a hit, and (N,) does it count at all; detections come best score first."""
    owned = owners >= 0
    on_kept = owned.copy()
    on_kept[owned] = kept[owners[owned]]
    candidates = np.flatnonzero(on_kept)
    _, first = np.unique(owners[candidates], return_index=True)
    hits = np.zeros(len(owners), bool)
    hits[candidates[first]] = True
    return hits, ~owned | on_kept


def normalised(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores moved to 0..1 over the whole set: equally far thresholds then suit every model."""
    if len(scores) == 0 or scores.min() == scores.max():
        return np.ones_like(scores)
    return (scores - scores.min()) / (scores.max() - scores.min())


def average_precision(
    scores: NDArray[np.float64],
    hits: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    faces: int,
    thresholds: int | None,
) -> float:
    """Area below the precision of the pooled detections, made to fall with recall."""
    if faces == 0:
        raise ValueError("the subset keeps no face in these images; its AP is undefined")
    order = np.argsort(-scores, kind="stable")
    levels = np.unique(scores)[::-1] if thresholds is None else steps(thresholds)
    # How many detections reach each level: those of one score enter together, whatever their order.
    reached = np.searchsorted(-scores[order], -levels, side="right")
    true = np.concatenate([[0], np.cumsum(hits[order])])[reached]
    said = np.concatenate([[0], np.cumsum(counted[order])])[reached]
    return envelope_area(true / faces, true / np.maximum(said, 1))


def steps(count: int) -> NDArray[np.float64]:
    """1 - 1/count, ..., 1/count, 0, as the toolbox has them."""
    return 1 - np.arange(1, count + 1) / count


def envelope_area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """The area of PASCAL VOC from 2010 on; recall rises."""
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * best_from_here))
