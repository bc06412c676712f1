"""LiteRT (TensorFlow Lite) on XNNPACK, which is its default on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import by_columns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from . import Floats, Heads

PACKAGE = "ai-edge-litert"
SUFFIXES = (".tflite",)
VARIANTS: dict[str, dict[str, Any]] = {"": {}}
WITHOUT_INT8 = "no quantised .tflite of this network was given"


def open_model(path: Path, num_threads: int, options: Mapping[str, Any]) -> LiteRt:  # noqa: ARG001
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=num_threads)
    interpreter.allocate_tensors()
    return LiteRt(interpreter)


class LiteRt:
    """Files differ in their order of axes, and quantised ones keep input and outputs in 8 bits."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._source = interpreter.get_input_details()[0]
        self.run = interpreter.invoke

    def prepare(self, image: Floats) -> NDArray[Any]:
        if self._source["shape"][-1] == 3:
            image = image.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(_stored(image, self._source))

    def fill(self, prepared: NDArray[Any]) -> None:
        self._interpreter.set_tensor(self._source["index"], prepared)

    def heads(self) -> Heads:
        outputs = self._interpreter.get_output_details()
        return by_columns([_real(self._interpreter.get_tensor(o["index"]), o) for o in outputs])


def _stored(image: Floats, details: Mapping[str, Any]) -> NDArray[Any]:
    if details["dtype"] == np.float32:
        return image
    scale, zero_point = details["quantization"]
    limits = np.iinfo(details["dtype"])
    stored = np.clip(np.rint(image / scale) + zero_point, limits.min, limits.max)
    return stored.astype(details["dtype"])


def _real(values: NDArray[Any], details: Mapping[str, Any]) -> Floats:
    if values.dtype == np.float32:
        return values
    scale, zero_point = details["quantization"]
    real: Floats = (values.astype(np.float32) - zero_point) * np.float32(scale)
    return real
