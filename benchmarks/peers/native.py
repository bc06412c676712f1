"""edgeface's own engine, as FaceDetector drives it: preprocessing leaves the input in the network's type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edgeface import _core
    from edgeface.graph import Graph

    from . import Floats, Heads

PACKAGE = "edgeface"
SUFFIXES = (".onnx", ".tmfile")
VARIANTS: dict[str, dict[str, Any]] = {"": {}}
WITHOUT_INT8 = "no quantised .onnx or .tmfile of this network was given"


def open_model(path: Path, num_threads: int, options: Mapping[str, Any]) -> Native:  # noqa: ARG001
    from edgeface import model
    from edgeface.backends import native

    graph = model.read_graph(path)[1]
    return Native(graph, native.open_graph(graph, num_threads))


class Native:
    """The engine; the heads of an int8 network are scaled back to what they mean."""

    def __init__(self, graph: Graph, engine: _core.Engine) -> None:
        self._graph = graph
        self._engine = engine
        self.run = engine.run

    def prepare(self, image: Floats) -> NDArray[Any]:
        source = self._engine.input()
        quantization = self._graph.tensors[self._graph.input].quantization
        prepared: NDArray[Any] = np.empty_like(source)
        if quantization is None:
            prepared[:] = image
        else:
            limits = np.iinfo(source.dtype)
            stored = np.rint(image / quantization.scale) + quantization.zero_point
            prepared[:] = np.clip(stored, limits.min, limits.max)
        return prepared

    def fill(self, prepared: NDArray[Any]) -> None:
        self._engine.input()[:] = prepared

    def heads(self) -> Heads:
        scores, boxes = (self._real(name) for name in ("scores", "boxes"))
        return scores.reshape(-1, 2), boxes.reshape(-1, 4)

    def _real(self, name: str) -> Floats:
        values = self._engine.output(name).astype(np.float32)
        quantization = self._graph.tensors[name].quantization
        if quantization is None:
            return values
        real: Floats = (values - quantization.zero_point) * quantization.scale
        return real
