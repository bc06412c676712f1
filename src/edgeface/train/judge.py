"""How good a model is on images that its run held out. For figures to compare, there is `edgeface eval`."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation import precision

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..detector import FaceDetector
    from .samples import Sample

# The reference protocol's: nearly all that a model finds, since AP is the area under the whole curve.
DETECTOR_OPTIONS: dict[str, Any] = {"score_threshold": 0.02, "iou_threshold": 0.3, "max_faces": 750}


def split(samples: Sequence[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    """Images to train on, and about `share` of them held out: always the same ones, by their names."""
    held_out = [_place(sample.name) < share for sample in samples]
    return (
        [sample for sample, out in zip(samples, held_out) if not out],
        [sample for sample, out in zip(samples, held_out) if out],
    )


def _place(name: str) -> float:
    """0 to 1, evenly, from the file's name: its folder may be another on another machine."""
    digest = hashlib.sha256(PurePath(name).name.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def average_precision(detector: FaceDetector, samples: Iterable[Sample]) -> float | None:
    """At IoU 0.5, all faces but ignored ones; None where there are none.

    Raises:
        DataError: An image cannot be read.
    """
    found, owners, kept, background = [], [], [], []
    for sample in samples:
        rows = detector.detect(sample.read()).rows
        found.append(rows)
        owners.append(precision.owning_faces(rows, sample.boxes.astype(np.float64), 0))
        kept.append(~sample.ignore)
        background.append(np.ones(len(rows), bool))
    if not found:
        return None
    return precision.average_precision(precision.judge_all(found, owners, kept, background))
