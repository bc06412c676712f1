"""The engine in this package's own C++: lowers a Graph to what it runs.

The engine keeps images as height x width x channels, so a head's Transpose to channels-last and its Reshape
to one row a prior are only another view of the same memory.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..errors import BackendError
from ..graph import (
    FLOAT32,
    Add,
    Concat,
    Conv,
    Graph,
    LeakyRelu,
    MaxPool,
    Node,
    Relu,
    Reshape,
    Sigmoid,
    Softmax,
    Transpose,
    Upsample,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..graph import Tensor

NAME = "native"

# The least and the largest value of an activation, by its name.
_BOUNDS = {
    "none": (-math.inf, math.inf),
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "leaky_relu": (-math.inf, math.inf),
}


def unavailable() -> str | None:
    return None


def open_graph(graph: Graph, num_threads: int) -> _core.Engine:
    """EDGEFACE_ISA forces the kernels of one instruction set; BackendError where it is missing."""
    network = lower(graph)
    try:
        return _core.Engine(
            network, num_threads=num_threads, isa=os.environ.get("EDGEFACE_ISA", "")
        )
    except MemoryError:
        raise BackendError("it needs more memory than there is") from None


@dataclass(frozen=True)
class PlannedStep:
    """One step of the engine; steps of one chain run together, a few rows at a time.

    `rows` of its output, of `row_bytes` each, are in memory at a time, on every thread.
    """

    name: str
    kind: str
    shape: tuple[int, int, int]  # height, width, channels
    chain: int
    rows: int
    row_bytes: int

    @property
    def bytes(self) -> int:
        """Of the whole output."""
        return self.shape[0] * self.row_bytes

    @property
    def is_whole(self) -> bool:
        """Whether the whole output is in memory at a time, and so goes there and back."""
        return self.rows == self.shape[0]


def plan(graph: Graph, num_threads: int) -> tuple[PlannedStep, ...]:
    """What the engine would do for a graph, in order."""
    steps = open_graph(graph, num_threads).steps
    return tuple(
        PlannedStep(step.name, step.kind, step.shape, step.chain, step.rows, step.row_bytes)
        for step in steps
    )


def lower(graph: Graph) -> _core.Network:
    """The engine's form of a graph; BackendError names the first node that it has no operation for."""
    source = graph.tensors[graph.input]
    _, channels, height, width = source.shape
    dtype = source.dtype.name
    if dtype not in ("float32", "int8", "uint8"):
        raise BackendError(f"it runs float32, int8 and uint8 networks; this one is {dtype}")
    try:
        network = _core.Network(height, width, channels, dtype=dtype, scale=_scale(source))
    except ValueError as error:
        raise BackendError(str(error)) from None
    lowering = _Lowering(graph, network)
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
        dtype = self.graph.tensors[node.output].dtype
        if dtype != self.graph.tensors[self.graph.input].dtype:
            raise _unsupported(node, f"it makes {dtype} from another type")
        try:
            self.values[node.output] = _RULES[type(node.op)](self, node)
        except ValueError as error:  # the core's own checks
            raise _unsupported(node, str(error)) from None

    def scale(self, node: Node) -> _core.Scale:
        """Of the node's output."""
        return self.scale_of(node.output)

    def scale_of(self, name: str) -> _core.Scale:
        return _scale(self.graph.tensors[name])

    def check_same_scale(self, node: Node) -> None:
        if self.scale_of(node.inputs[0]) != self.scale(node):
            raise _unsupported(node, "it changes the scale of its values")

    def value(self, node: Node, index: int = 0) -> _Value:
        name = node.inputs[index]
        if name not in self.values:
            raise _unsupported(node, f"its input '{name}' is a constant")
        return self.values[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph.tensors[name].shape

    def constant(self, node: Node, index: int) -> np.ndarray:
        tensor = self.graph.tensors[node.inputs[index]]
        if tensor.data is None:
            raise _unsupported(node, f"'{tensor.name}' is not a constant")
        return tensor.data


def _scale(tensor: Tensor) -> _core.Scale:
    if tensor.quantization is None:
        if tensor.dtype != FLOAT32:
            raise BackendError(f"'{tensor.name}' is {tensor.dtype} without a scale")
        return 1.0, 0
    scales, zero_points = tensor.quantization.scale, tensor.quantization.zero_point
    if scales.size != 1:
        raise BackendError(f"'{tensor.name}' has {scales.size} scales; an activation needs one")
    return float(scales[0]), int(zero_points[0])


def _unsupported(node: Node, why: str) -> BackendError:
    return BackendError(f"it has no way to run {node.kind} '{node.name}': {why}")


def _clamp(op: Conv | Add) -> tuple[float, float, float]:
    """The bounds of its activation, and the slope below zero."""
    return (*_BOUNDS[op.activation], op.slope or 1.0)


def _image(lowering: _Lowering, node: Node) -> _Value:
    value = lowering.value(node)
    if value.is_rows:
        raise _unsupported(node, "its input is rows in memory, not an image")
    return value


def _conv(lowering: _Lowering, node: Node) -> _Value:
    op = node.op
    assert isinstance(op, Conv)
    data = _image(lowering, node)
    _, channels, height, width = lowering.shape(node.output)
    common: dict[str, Any] = {
        "stride": op.stride,
        "dilation": op.dilation,
        "pad": op.pads[:2],
        "groups": op.groups,
        "clamp": _clamp(op),
        "output": (height, width, channels),
    }
    if lowering.graph.tensors[node.output].dtype == FLOAT32:
        weights = _float_weights(lowering, node)
        number = lowering.network.conv(node.name, data.number, **weights, **common)
    else:
        weights = _quantized_weights(lowering, node)
        number = lowering.network.quantized_conv(
            node.name, data.number, **weights, **common, scale=lowering.scale(node)
        )
    return _Value(number, is_rows=False)


def _float_weights(lowering: _Lowering, node: Node) -> dict[str, Any]:
    weight = lowering.constant(node, 1)
    bias = _bias(lowering, node, len(weight), np.float32)
    if weight.dtype != FLOAT32 or bias.dtype != FLOAT32:
        raise _unsupported(node, f"its weight is {weight.dtype}, its bias {bias.dtype}")
    return {"weight": weight, "bias": bias}


def _quantized_weights(lowering: _Lowering, node: Node) -> dict[str, Any]:
    """Weights less their zero points, biases in units of input scale * weight scale."""
    weight = lowering.constant(node, 1)
    quantization = lowering.graph.tensors[node.inputs[1]].quantization
    bias = _bias(lowering, node, len(weight), np.int32)
    if quantization is None or weight.dtype.itemsize != 1 or bias.dtype != np.int32:
        raise _unsupported(node, f"its weight is {weight.dtype}, its bias {bias.dtype}")
    scale = np.broadcast_to(quantization.scale, (len(weight),)).astype(np.float32)
    zero_point = np.broadcast_to(quantization.zero_point, (len(weight),))[:, None, None, None]
    _check_bias_units(lowering, node, scale)
    return {
        "weight": np.ascontiguousarray(weight.astype(np.int16) - zero_point, np.int16),
        "bias": np.ascontiguousarray(bias),
        "weight_scale": scale,
    }


def _check_bias_units(lowering: _Lowering, node: Node, weight_scale: np.ndarray) -> None:
    bias = lowering.graph.tensors[node.inputs[2]] if len(node.inputs) > 2 else None
    if bias is None or bias.quantization is None:
        return
    expected = lowering.scale_of(node.inputs[0])[0] * weight_scale.astype(np.float64)
    if bias.quantization.zero_point.any():
        raise _unsupported(node, "its bias has a zero point")
    # Writers round their scales to six decimals; a bias of another network is far off.
    if not np.allclose(bias.quantization.scale, expected, rtol=1e-2, atol=0):
        raise _unsupported(node, "its bias is not in units of input scale times weight scale")


def _bias(lowering: _Lowering, node: Node, channels: int, dtype: type) -> np.ndarray:
    return lowering.constant(node, 2) if len(node.inputs) > 2 else np.zeros(channels, dtype)


def _relu(lowering: _Lowering, node: Node) -> _Value:
    slope = node.op.slope if isinstance(node.op, LeakyRelu) else None
    clamp = (0.0, math.inf, 1.0) if slope is None else (-math.inf, math.inf, slope)
    value = lowering.value(node)
    number = lowering.network.relu(node.name, value.number, clamp=clamp, scale=lowering.scale(node))
    return _Value(number, value.is_rows)


def _sigmoid(lowering: _Lowering, node: Node) -> _Value:
    value = lowering.value(node)
    number = lowering.network.sigmoid(node.name, value.number, scale=lowering.scale(node))
    return _Value(number, value.is_rows)


def _max_pool(lowering: _Lowering, node: Node) -> _Value:
    op = node.op
    assert isinstance(op, MaxPool)
    value = _image(lowering, node)
    lowering.check_same_scale(node)
    size = lowering.shape(node.output)[2:]
    number = lowering.network.max_pool(
        node.name, value.number, kernel=op.kernel, stride=op.stride, pad=op.pads[:2], size=size
    )
    return _Value(number, is_rows=False)


def _upsample(lowering: _Lowering, node: Node) -> _Value:
    value = _image(lowering, node)
    lowering.check_same_scale(node)
    height, width = lowering.shape(node.output)[2:]
    number = lowering.network.upsample(node.name, value.number, height=height, width=width)
    return _Value(number, is_rows=False)


def _add(lowering: _Lowering, node: Node) -> _Value:
    op = node.op
    assert isinstance(op, Add)
    a, b = lowering.value(node, 0), lowering.value(node, 1)
    if a.is_rows != b.is_rows:
        raise _unsupported(node, "its inputs lie in memory in different orders")
    number = lowering.network.add(
        node.name, a.number, b.number, clamp=_clamp(op), scale=lowering.scale(node)
    )
    return _Value(number, a.is_rows)


def _concat(lowering: _Lowering, node: Node) -> _Value:
    op = node.op
    assert isinstance(op, Concat)
    values = [lowering.value(node, i) for i in range(len(node.inputs))]
    shape = lowering.shape(node.output)
    numbers = [value.number for value in values]
    if not any(value.is_rows for value in values) and op.axis == 1:
        number = lowering.network.concat(
            node.name, numbers, axis="channels", scale=lowering.scale(node)
        )
        return _Value(number, is_rows=False)
    # Rows follow one another in memory when nothing but 1 lies before the axis.
    joins_rows = op.axis < len(shape) - 1 and math.prod(shape[: op.axis]) == 1
    if not all(value.is_rows for value in values) or not joins_rows:
        raise _unsupported(node, f"axis {op.axis} of {shape}")
    return _Value(
        lowering.network.concat(node.name, numbers, axis="rows", scale=lowering.scale(node)),
        is_rows=True,
    )


def _softmax(lowering: _Lowering, node: Node) -> _Value:
    op = node.op
    assert isinstance(op, Softmax)
    value = lowering.value(node)
    channel_axis = len(lowering.shape(node.output)) - 1 if value.is_rows else 1
    if op.axis != channel_axis:
        raise _unsupported(node, f"axis {op.axis}")
    return _Value(
        lowering.network.softmax(node.name, value.number, scale=lowering.scale(node)), value.is_rows
    )


def _transpose(lowering: _Lowering, node: Node) -> _Value:
    op = node.op
    assert isinstance(op, Transpose)
    value = lowering.value(node)
    if value.is_rows or op.order != (0, 2, 3, 1):
        raise _unsupported(node, f"order {op.order}")
    lowering.check_same_scale(node)
    columns = lowering.shape(node.output)[-1]
    return _Value(lowering.network.rows(node.name, value.number, columns=columns), is_rows=True)


def _reshape(lowering: _Lowering, node: Node) -> _Value:
    assert isinstance(node.op, Reshape)
    value = lowering.value(node)
    _, *inner = lowering.shape(node.inputs[0])
    # One pixel, or one channel: then the order of an image's values is the tensor's.
    if not value.is_rows and inner[0] != 1 and math.prod(inner[1:]) != 1:
        raise _unsupported(node, "it would need the channels first in memory")
    lowering.check_same_scale(node)
    columns = lowering.shape(node.output)[-1]
    return _Value(lowering.network.rows(node.name, value.number, columns=columns), is_rows=True)


_RULES: dict[type, Callable[[_Lowering, Node], _Value]] = {
    Conv: _conv,
    Relu: _relu,
    LeakyRelu: _relu,
    Sigmoid: _sigmoid,
    MaxPool: _max_pool,
    Upsample: _upsample,
    Add: _add,
    Concat: _concat,
    Softmax: _softmax,
    Transpose: _transpose,
    Reshape: _reshape,
}
