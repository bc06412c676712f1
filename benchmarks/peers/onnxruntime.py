"""ONNX Runtime on a file whose constants are not listed as inputs too, which would stop its folding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import by_columns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from . import Floats, Heads

PACKAGE = "onnxruntime"
SUFFIXES = (".onnx",)
VARIANTS: dict[str, dict[str, Any]] = {"": {}}
WITHOUT_INT8 = "no quantised .onnx of this network was given"


def open_model(path: Path, num_threads: int, options: Mapping[str, Any]) -> OnnxRuntime:  # noqa: ARG001
    import onnxruntime

    # Threads spin between frames: it waits for less than with spinning switched off.
    session = onnxruntime.SessionOptions()
    session.intra_op_num_threads = num_threads
    session.inter_op_num_threads = 1
    session.log_severity_level = 3
    return OnnxRuntime(
        onnxruntime.InferenceSession(str(path), session, providers=["CPUExecutionProvider"])
    )


class OnnxRuntime:
    """Input and outputs are bound to arrays once, so that a run copies nothing."""

    def __init__(self, session: Any) -> None:
        self._binding = session.io_binding()
        source = session.get_inputs()[0]
        self._image = np.zeros(source.shape, np.float32)
        self._outputs = [np.zeros(output.shape, np.float32) for output in session.get_outputs()]
        self._bind(self._binding.bind_input, source.name, self._image)
        for output, array in zip(session.get_outputs(), self._outputs):
            self._bind(self._binding.bind_output, output.name, array)
        self._session = session

    @staticmethod
    def _bind(bind: Any, name: str, array: Floats) -> None:
        bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def prepare(self, image: Floats) -> Floats:
        return image

    def fill(self, prepared: Floats) -> None:
        self._image[:] = prepared

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)

    def heads(self) -> Heads:
        return by_columns(self._outputs)
