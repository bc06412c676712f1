"""MNN through both of its interfaces, in float32 where the network is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import by_columns

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from . import Floats, Heads, Runner

PACKAGE = "MNN"
SUFFIXES = (".mnn",)
VARIANTS: dict[str, dict[str, Any]] = {
    "module": {"interface": "module"},
    "session": {"interface": "session"},
}
WITHOUT_INT8 = "no quantised .mnn of this network was given"
_OUTPUTS = ["scores", "boxes"]


def open_model(path: Path, num_threads: int, options: Mapping[str, Any]) -> Runner:
    config = {"backend": "CPU", "numThread": num_threads, "precision": "high"}
    return {"module": Module, "session": Session}[options["interface"]](path, config)


class Module:
    """Its newer interface."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        from MNN import expr, nn

        self._expr = expr
        manager = nn.create_runtime_manager((config,))
        self._net = nn.load_module_from_file(
            str(path), ["input"], _OUTPUTS, runtime_manager=manager
        )
        self._found: list[Any] = []

    def prepare(self, image: Floats) -> Floats:
        return np.ascontiguousarray(image)

    def fill(self, prepared: Floats) -> None:
        self._image = self._expr.const(prepared, list(prepared.shape), self._expr.NCHW)

    def run(self) -> None:
        # Reading is part of it: what nobody reads may not have been computed.
        self._found = [output.read() for output in self._net.forward([self._image])]

    def heads(self) -> Heads:
        return by_columns([np.array(output) for output in self._found])


class Session:
    """Its older interface."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        import MNN

        self._mnn = MNN
        self._interpreter = MNN.Interpreter(str(path))
        self._session = self._interpreter.createSession(config)

    def prepare(self, image: Floats) -> Any:
        return self._tensor(np.ascontiguousarray(image))

    def fill(self, prepared: Any) -> None:
        self._interpreter.getSessionInput(self._session).copyFrom(prepared)

    def run(self) -> None:
        self._interpreter.runSession(self._session)

    def heads(self) -> Heads:
        return by_columns([self._read(name) for name in _OUTPUTS])

    def _read(self, name: str) -> Floats:
        output = self._interpreter.getSessionOutput(self._session, name)
        shape = output.getShape()
        host = self._tensor(np.zeros(shape, np.float32))
        output.copyToHostTensor(host)
        return np.array(host.getData(), np.float32).reshape(shape)

    def _tensor(self, array: Floats) -> Any:
        kind, order = self._mnn.Halide_Type_Float, self._mnn.Tensor_DimensionType_Caffe
        return self._mnn.Tensor(array.shape, kind, array, order)
