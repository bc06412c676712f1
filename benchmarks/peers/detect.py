"""Whole pipelines, from a frame to its faces, in the form of a runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeface import Timings

SEED = pipeline.SEED
CLEAN_SEED = pipeline.CLEAN_SEED
FP32 = "edgeface fp32"
INT8 = "edgeface int8"


class Detect:
    """A pipeline by its name; one that is fed with frames."""

    def __init__(self, name: str, model: Path, quantized: Path | None) -> None:
        cv2.setNumThreads(1)
        if name in (FP32, INT8):
            file = quantized if name == INT8 and quantized is not None else model
            self._pipeline: pipeline.Pipeline = pipeline.Edgeface(file, "native")
        else:
            self._pipeline = pipeline.plain_pipelines(model)[name]()
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
