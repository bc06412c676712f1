"""The engine in this package's own C++: lowers a Graph to what it runs.

The engine keeps images as height x width x channels, so a head's Transpose to channels-last and its Reshape
to one row a prior are only another view of the same memory.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .. import _core
from ..errors import BackendError
from ..graph import FLOAT32, Add, Concat, Conv, Graph, Node, Relu, Reshape, Softmax, Transpose

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "native"

_CLAMP = {"none": (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}


def unavailable() -> str | None:
    return None


def open_graph(graph: Graph, num_threads: int) -> _core.Engine:
    """EDGEFACE_ISA forces the kernels of one instruction set; BackendError where it is missing."""
    network = lower(graph)
    return _core.Engine(network, num_threads=num_threads, isa=os.environ.get("EDGEFACE_ISA", ""))


def lower(graph: Graph) -> _core.Network:
    """The engine's form of a graph; BackendError names the first node that it has no operation for."""
    if graph.is_quantized:
        raise BackendError("it runs float32 networks; this one is quantised")
    _, channels, height, width = graph.tensors[graph.input].shape
    lowering = _Lowering(graph, _core.Network(height, width, channels))
    lowering.values[graph.input] = _Value(0, is_rows=False)
    for node in graph.nodes:
        lowering.add(node)
    for name in graph.outputs:
        if name == graph.input or name not in lowering.values:
            raise BackendError(f"its output '{name}' is not computed by any node")
        lowering.network.output(name, lowering.values[name].number)
    return lowering.network


@dataclass(frozen=True)
class _Value:
    """A value of the engine.

    An image's pixels hold the channels of an NCHW tensor; rows are the tensor itself, its last axis a row.
    """

    number: int
    is_rows: bool


@dataclass
class _Lowering:
    graph: Graph
    network: _core.Network
    values: dict[str, _Value] = field(default_factory=dict)

    def add(self, node: Node) -> None:
        self.values[node.output] = _RULES[type(node.op)](self, node)

    def value(self, node: Node, index: int = 0) -> _Value:
        name = node.inputs[index]
        if name not in self.values:
            raise _unsupported(node, f"its input '{name}' is a constant")
        return self.values[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph.tensors[name].shape

    def constant(self, node: Node, index: int) -> np.ndarray:
        tensor = self.graph.tensors[node.inputs[index]]
        if tensor.data is None or tensor.dtype != FLOAT32:
            raise _unsupported(node, f"'{tensor.name}' is not a float32 constant")
        return tensor.data


def _unsupported(node: Node, why: str) -> BackendError:
    return BackendError(f"it has no way to run {node.kind} '{node.name}': {why}")


def _conv(lowering: _Lowering, node: Node) -> _Value:
    op = node.op
    assert isinstance(op, Conv)
    weight = lowering.constant(node, 1)
    has_bias = len(node.inputs) > 2
    bias = lowering.constant(node, 2) if has_bias else np.zeros(len(weight), np.float32)
    data = lowering.value(node)
    if data.is_rows:
        raise _unsupported(node, "its input is rows in memory, not an image")
    _, channels, height, width = lowering.shape(node.output)
    try:
        number = lowering.network.conv(
            node.name,
            data.number,
            weight=weight,
            bias=bias,
            stride=op.stride,
            dilation=op.dilation,
            pad=op.pads[:2],
            groups=op.groups,
            clamp=_CLAMP[op.activation],
            output=(height, width, channels),
        )
    except ValueError as error:
        raise _unsupported(node, str(error)) from None
    return _Value(number, is_rows=False)


def _relu(lowering: _Lowering, node: Node) -> _Value:
    value = lowering.value(node)
    return _Value(lowering.network.relu(node.name, value.number), value.is_rows)


def _add(lowering: _Lowering, node: Node) -> _Value:
    op = node.op
    assert isinstance(op, Add)
    a, b = lowering.value(node, 0), lowering.value(node, 1)
    if a.is_rows != b.is_rows:
        raise _unsupported(node, "its inputs lie in memory in different orders")
    number = lowering.network.add(node.name, a.number, b.number, clamp=_CLAMP[op.activation])
    return _Value(number, a.is_rows)


def _concat(lowering: _Lowering, node: Node) -> _Value:
    op = node.op
    assert isinstance(op, Concat)
    values = [lowering.value(node, i) for i in range(len(node.inputs))]
    shape = lowering.shape(node.output)
    numbers = [value.number for value in values]
    if not any(value.is_rows for value in values) and op.axis == 1:
        number = lowering.network.concat(node.name, numbers, axis="channels")
        return _Value(number, is_rows=False)
    # Rows follow one another in memory when nothing but 1 lies before the axis.
    joins_rows = op.axis < len(shape) - 1 and math.prod(shape[: op.axis]) == 1
    if not all(value.is_rows for value in values) or not joins_rows:
        raise _unsupported(node, f"axis {op.axis} of {shape}")
    return _Value(lowering.network.concat(node.name, numbers, axis="rows"), is_rows=True)


def _softmax(lowering: _Lowering, node: Node) -> _Value:
    op = node.op
    assert isinstance(op, Softmax)
    value = lowering.value(node)
    channel_axis = len(lowering.shape(node.output)) - 1 if value.is_rows else 1
    if op.axis != channel_axis:
        raise _unsupported(node, f"axis {op.axis}")
    return _Value(lowering.network.softmax(node.name, value.number), value.is_rows)


def _transpose(lowering: _Lowering, node: Node) -> _Value:
    op = node.op
    assert isinstance(op, Transpose)
    value = lowering.value(node)
    if value.is_rows or op.order != (0, 2, 3, 1):
        raise _unsupported(node, f"order {op.order}")
    columns = lowering.shape(node.output)[-1]
    return _Value(lowering.network.rows(node.name, value.number, columns=columns), is_rows=True)


def _reshape(lowering: _Lowering, node: Node) -> _Value:
    assert isinstance(node.op, Reshape)
    value = lowering.value(node)
    _, *inner = lowering.shape(node.inputs[0])
    # One pixel, or one channel: then the order of an image's values is the tensor's.
    if not value.is_rows and inner[0] != 1 and math.prod(inner[1:]) != 1:
        raise _unsupported(node, "it would need the channels first in memory")
    columns = lowering.shape(node.output)[-1]
    return _Value(lowering.network.rows(node.name, value.number, columns=columns), is_rows=True)


_RULES: dict[type, Callable[[_Lowering, Node], _Value]] = {
    Conv: _conv,
    Relu: _relu,
    Add: _add,
    Concat: _concat,
    Softmax: _softmax,
    Transpose: _transpose,
    Reshape: _reshape,
}
