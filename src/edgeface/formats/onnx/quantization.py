"""Quantised networks in ONNX's QDQ form: QuantizeLinear and DequantizeLinear around float operators.

A Graph's tensor is its stored values and their scale. In a file it is the floats that a
DequantizeLinear makes of those: of a constant, or of what a QuantizeLinear has just rounded.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from ...errors import ModelError
from ...graph import FLOAT32, Add, Conv, Quantization

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...graph import Graph, Node, Tensor
    from .reader import Call, Walk

    Array = NDArray[Any]

INT32 = np.dtype(np.int32)
BYTES = (np.dtype(np.int8), np.dtype(np.uint8))
LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}  # of stored values
# A bias's scale is the input's times the weight's, perhaps rounded to float32 in another order.
PRODUCT_TOLERANCE = 2.0**-20


class Stored(NamedTuple):
    """The type and scale of values that are no floats."""

    dtype: np.dtype[Any]
    quantization: Quantization

    def same(self, other: Stored) -> bool:
        one, two = self.quantization, other.quantization
        pairs = ((one.scale, two.scale), (one.zero_point, two.zero_point))
        return self.dtype == other.dtype and all(np.array_equal(a, b) for a, b in pairs)


@dataclass
class Rounded:
    """What a QuantizeLinear makes, until a DequantizeLinear has made a tensor of it."""

    value: str  # the graph's name for it: at first that of the floats before rounding
    stored: Stored
    is_named: bool  # whether that is its name for good


# --- Reading -------------------------------------------------------------------------------------


def quantize(walk: Walk, call: Call) -> None:
    shape, value = walk.data(call), call.inputs[0]
    call.require(value not in walk.stored, f"quantises '{value}', which is quantised already")
    # In a Graph a value is either rounded or not.
    call.require(walk.uses[value] == 1, f"shares '{value}' with others, which read it unrounded")
    stored = _parameters(walk, call, None)
    call.require(stored.quantization.scale.size == 1, "has several scales for an activation")
    walk.rounded[call.output] = Rounded(value, stored, is_named=value == walk.source)
    walk.shapes[call.output] = shape


def dequantize(walk: Walk, call: Call) -> None:
    name = call.input(0)
    if name in walk.constants:
        value, stored = name, _of_constant(walk, call, walk.constants[name])
        known = walk.stored.setdefault(name, stored)
    else:
        call.require(name in walk.rounded, f"reads '{name}', which nothing quantises")
        known = walk.rounded[name].stored
        stored = _parameters(walk, call, known.dtype)
        value = _named(walk, call, walk.rounded[name])
    call.require(known.same(stored), f"reads '{name}' with another scale or zero point than others")
    if value != call.output:
        walk.aliases[call.output] = value


def clip(walk: Walk, call: Call) -> None:
    """A Relu that the writer has put behind rounding."""
    name = call.inputs[0]
    rounded = walk.rounded[name]
    dtype, quantization = rounded.stored
    limits = [_limit(walk, call, index, dtype) for index in (1, 2)]
    relu = [int(quantization.zero_point[0]), LIMITS[dtype.name][1]]
    call.require(limits == relu, f"has limits {limits}; only {relu}, Relu, is supported here")
    call.require(walk.uses[name] == 1, f"shares '{name}' with others, which read it unclipped")
    node = walk.plain(call, rounded.value, (Conv, Add))
    op = dataclasses.replace(cast("Conv | Add", node.op), activation="relu")
    walk.nodes[walk.makers[node.output]] = dataclasses.replace(node, op=op)
    walk.rounded[call.output] = rounded
    walk.shapes[call.output] = walk.shapes[name]


def _limit(walk: Walk, call: Call, index: int, dtype: np.dtype[Any]) -> int | None:
    if not call.input(index):
        return None
    value = walk.constant(call, index, dtype.type)
    call.require(value.size == 1, "has limits that are not single numbers")
    return int(value.reshape(-1)[0])


def _named(walk: Walk, call: Call, rounded: Rounded) -> str:
    """The value's name in the graph, which the first DequantizeLinear gives it."""
    if not rounded.is_named:
        walk.absorb(call, walk.nodes[walk.makers[rounded.value]])
        rounded.value, rounded.is_named = call.output, True
    walk.stored[rounded.value] = rounded.stored
    return rounded.value


def _of_constant(walk: Walk, call: Call, values: Array) -> Stored:
    stored = _parameters(walk, call, values.dtype)
    count = stored.quantization.scale.size
    if count != 1:
        axis = walk.axis(call, call.integer("axis", 1), values.ndim)
        fits = axis == 0 and count == values.shape[0]
        call.require(fits, f"has {count} scales along axis {axis} of {values.shape}, not axis 0's")
    return stored


def _parameters(walk: Walk, call: Call, dtype: np.dtype[Any] | None) -> Stored:
    """The scale and zero point; without a type, the zero point's is that of the stored values."""
    call.require(call.integer("block_size", 0) == 0, "quantises in blocks, which is not supported")
    scale = walk.constant(call, 1, np.float32)
    walk.spend(call, 2 * scale.size)
    zero = np.zeros(scale.shape, np.uint8 if dtype is None else dtype)
    if call.input(2):
        zero = walk.constant(call, 2, None if dtype is None else dtype.type)
    known = (*BYTES, INT32)
    call.require(zero.dtype in known, f"stores {zero.dtype} values, not int8, uint8 or int32")
    if dtype is None:
        call.require(zero.dtype in BYTES, f"stores {zero.dtype} values, not int8 or uint8")
    fits = scale.ndim <= 1 and zero.size == scale.size
    call.require(fits, f"has scales of shape {scale.shape} and zero points of {zero.shape}")
    return Stored(zero.dtype, Quantization(scale.reshape(-1), zero.reshape(-1).astype(np.int32)))


# --- What both sides rely on ---------------------------------------------------------------------


def check(graph: Graph) -> None:
    """ModelError names what is not quantised as runtimes expect it."""
    for tensor in graph.tensors.values():
        _check_tensor(tensor)
    for node in graph.nodes:
        inputs = [graph.tensors[name] for name in node.inputs]
        _check_types(node, inputs[:1] if isinstance(node.op, Conv) else inputs, graph)
        if isinstance(node.op, Conv):
            _check_conv(node, *inputs)


def _check_tensor(tensor: Tensor) -> None:
    what, quantization = f"tensor '{tensor.name}'", tensor.quantization
    allowed = (*BYTES, INT32) if tensor.is_constant else BYTES
    if tensor.dtype not in (allowed if quantization is not None else (FLOAT32,)):
        scales = "no scale" if quantization is None else "a scale"
        raise ModelError(f"{what} is {tensor.dtype} and has {scales}")
    if quantization is None:
        return
    scale, zero_point = quantization.scale, quantization.zero_point
    counts = {1, *tensor.shape[:1]} if tensor.is_constant else {1}
    if scale.ndim != 1 or scale.shape != zero_point.shape or scale.size not in counts:
        raise ModelError(f"{what} has {scale.size} scales; expected {max(counts)} and zero points")
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ModelError(f"{what} has a scale that is not a positive number")
    least, largest = LIMITS.get(tensor.dtype.name, (0, 0))
    if zero_point.min() < least or zero_point.max() > largest:
        raise ModelError(f"{what} has a zero point that is no {tensor.dtype}")


def _check_types(node: Node, inputs: list[Tensor], graph: Graph) -> None:
    """One type all through the network."""
    made = graph.tensors[node.output]
    for tensor in inputs:
        if tensor.dtype != made.dtype:
            raise ModelError(
                f"{node.kind} '{node.name}' makes {made.dtype} '{made.name}' "
                f"from {tensor.dtype} '{tensor.name}'; expected one type"
            )


def _check_conv(node: Node, data: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
    where = f"Conv '{node.name}'"
    one, two = data.quantization, weight.quantization
    if (one is None) != (two is None) or weight.dtype == INT32:
        raise ModelError(f"{where} has {data.dtype} data and a {weight.dtype} weight")
    if bias is None:
        return
    if one is None or two is None or bias.quantization is None:
        if one is not None or bias.quantization is not None:
            raise ModelError(f"{where} has {data.dtype} data and a {bias.dtype} bias")
        return
    product = one.scale.astype(np.float64) * two.scale
    off = np.abs(bias.quantization.scale / product - 1).max()
    # onnxruntime takes the product whatever the file says.
    if bias.dtype != INT32 or off > PRODUCT_TOLERANCE:
        raise ModelError(f"{where} has a bias that is not int32 with scale input times weight")
