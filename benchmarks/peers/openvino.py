"""OpenVINO, told to make single frames fast and to keep float32 where the CPU could do with less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import by_columns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from . import Floats, Heads

PACKAGE = "openvino"
SUFFIXES = (".onnx", ".xml")
VARIANTS: dict[str, dict[str, Any]] = {"": {}, "unpinned": {"ENABLE_CPU_PINNING": False}}
WITHOUT_INT8 = "no quantised .xml or .onnx of this network was given"


def open_model(path: Path, num_threads: int, options: Mapping[str, Any]) -> OpenVino:
    import openvino

    compiled = openvino.Core().compile_model(
        str(path),
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            **options,
        },
    )
    return OpenVino(compiled)


class OpenVino:
    """One request, whose tensors are used again and again."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._count = len(compiled.outputs)
        # Takes the tensors that the request already has; infer() with arguments would copy.
        self.run = self._request.infer

    def prepare(self, image: Floats) -> Floats:
        return image

    def fill(self, prepared: Floats) -> None:
        self._request.get_input_tensor().data[:] = prepared

    def heads(self) -> Heads:
        return by_columns([self._request.get_output_tensor(i).data for i in range(self._count)])
