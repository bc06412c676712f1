"""Whole pipelines, from a frame to its faces, in the form of a runner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import pipeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeface import Timings

SEED = pipeline.SEED
CLEAN_SEED = pipeline.CLEAN_SEED
FP32 = "edgeface fp32"
INT8 = "edgeface int8"


def open_pipeline(name: str, model: str, quantized: str | None) -> pipeline.Pipeline:
    """One of those that compare.py has, by its name."""
    cv2.setNumThreads(1)
    if name in (FP32, INT8):
        file = quantized if name == INT8 and quantized is not None else model
        return pipeline.Edgeface(Path(file), "native")
    return pipeline.plain_pipelines(Path(model))[name]()


class Detect:
    """A pipeline; one that is fed with frames."""

    def __init__(self, opened: pipeline.Pipeline) -> None:
        self._pipeline = opened
        self.rows: Any = None

    @property
    def timings(self) -> Timings:
        return self._pipeline.timings

    def prepare(self, frame: NDArray[Any]) -> NDArray[Any]:
        return frame

    def fill(self, prepared: NDArray[Any]) -> None:
        self._frame = prepared

    def run(self) -> None:
        self.rows = self._pipeline.detect(self._frame)
