"""What the format cannot hold, or stock Tengine 1.5 runs wrong, refused by name.

Nothing in Tengine's loader or kernels checks any of this: past these limits it reads or writes
outside its memory, or gives wrong numbers without a word.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ModelError
from ...graph import (
    FLOAT32,
    Add,
    Concat,
    Conv,
    LeakyRelu,
    MaxPool,
    Relu,
    Softmax,
    Transpose,
    Upsample,
)
from .records import DTYPES, INT8, INT32, MAX_DIMS, MAX_ENTRIES, MAX_NODES, NEED_SCALE, UINT8
from .rules import (
    MAX_SIDE,
    bias_units,
    check_operands,
    check_scales,
    check_types,
    equal,
    pool_padding,
    stretched,
    takes_nearest,
    window_count,
)

if TYPE_CHECKING:
    from ...graph import Graph, Node, Quantization, Shape, Tensor

_MAX_LINKS = 255  # a node's inputs, and a tensor's readers: Tengine counts them in 8 bits
_MAX_ALIVE = 64  # values that are in memory at once: the number of their place has 6 bits
# On whatever machine the file ends up. "ARM": its float32 kernels.
_DIMS = {
    Relu: range(1, 5),  # of more, values are left out on ARM
    LeakyRelu: range(1, 5),
    Add: range(3, 5),  # of fewer, run_graph fails; of more, as Relu
    Softmax: range(1, 5),  # of more, it writes past an array of 4 on ARM
    Concat: range(1, 5),  # of more, it does so everywhere
    Transpose: range(2, 7),  # of others, it leaves its output as it was
}

# Tengine never reads a bias's scales. They may differ from the product by their own rounding and
# that of its two factors.
_BIAS_TOLERANCE = 4 * 2**-24


def check(graph: Graph) -> None:
    """ModelError for the first thing in a graph that a tmfile for stock Tengine cannot have."""
    _check_size(graph)
    _check_outputs(graph)
    _check_memory(graph)
    for name, tensor in graph.tensors.items():
        _check_name(name, "a tensor")
        _check_tensor(name, tensor)
    for node in graph.nodes:
        _check_name(node.name or node.output, "a node")
        _check_node(graph, node)
    _check_biases(graph)


def _check_size(graph: Graph) -> None:
    if len(graph.tensors) > MAX_NODES:
        raise ModelError(
            f"the file would list {len(graph.tensors)} nodes, constants included; "
            f"at most {MAX_NODES} are read"
        )
    for name, count in Counter(name for node in graph.nodes for name in node.inputs).items():
        if count > _MAX_LINKS:
            raise ModelError(f"'{name}' is read {count} times; Tengine counts to {_MAX_LINKS}")


def _check_outputs(graph: Graph) -> None:
    made = {node.output for node in graph.nodes}
    readers = {name: node for node in graph.nodes for name in node.inputs}
    for name, count in Counter(graph.outputs).items():
        if name not in made:
            raise ModelError(f"no node makes the output '{name}'; Tengine's outputs are nodes")
        if count > 1:
            raise ModelError(f"the output '{name}' is listed {count} times; expected once")
        if name in readers:
            raise ModelError(
                f"the output '{name}' is also read by {readers[name].kind} "
                f"'{readers[name].name}', after which Tengine puts something else in its place"
            )


def _check_memory(graph: Graph) -> None:
    left = Counter(name for node in graph.nodes for name in node.inputs)
    alive: set[str] = set()
    for node in graph.nodes:
        alive.add(node.output)
        if len(alive) > _MAX_ALIVE:
            raise ModelError(
                f"{len(alive)} values are alive at {node.kind} '{node.name}'; "
                f"Tengine keeps {_MAX_ALIVE} apart"
            )
        left.subtract(node.inputs)
        alive.difference_update(name for name in node.inputs if not left[name])


def _check_name(name: str, what: str) -> None:
    try:
        if name and b"\0" not in name.encode():
            return
    except UnicodeEncodeError:
        pass
    raise ModelError(f"{what} is named {name!r}; expected a text without NUL")


def _check_tensor(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in DTYPES.values():
        raise ModelError(
            f"tensor '{name}' is {tensor.dtype}; a tmfile holds float32, int8, uint8 and int32"
        )
    if tensor.dtype == INT32 and not tensor.is_constant:
        raise ModelError(f"tensor '{name}' is int32, which only constants may be")
    if not 1 <= len(tensor.shape) <= MAX_DIMS or min(tensor.shape) < 1:
        raise ModelError(
            f"tensor '{name}' has shape {tensor.shape}; "
            f"Tengine takes 1 to {MAX_DIMS} dimensions, none of them 0"
        )
    if tensor.quantization is not None:
        _check_quantization(name, tensor, tensor.quantization)
    elif tensor.dtype in NEED_SCALE:
        raise ModelError(f"tensor '{name}' is {tensor.dtype}, but has no scale")


def _check_quantization(name: str, tensor: Tensor, pairs: Quantization) -> None:
    what = f"the quantisation of tensor '{name}'"
    if tensor.dtype == FLOAT32:
        raise ModelError(f"tensor '{name}' is float32 and has a scale; expected int8 or uint8")
    allowed = {1} if tensor.dtype == UINT8 or not tensor.is_constant else {1, tensor.shape[0]}
    if pairs.scale.ndim != 1 or pairs.scale.size not in allowed or pairs.scale.size > MAX_ENTRIES:
        expected = " or ".join(map(str, sorted(allowed)))
        raise ModelError(f"{what} has {pairs.scale.size} scales; expected {expected}")
    if pairs.zero_point.shape != pairs.scale.shape:
        raise ModelError(f"{what} has {pairs.zero_point.size} zero points; expected one a scale")
    check_scales(what, tensor.dtype, pairs.zero_point.tolist(), pairs.scale.tolist())
    if tensor.dtype != UINT8 and pairs.zero_point.any():
        raise ModelError(f"{what} has a zero point that is not 0, which Tengine passes over")


def _check_node(graph: Graph, node: Node) -> None:
    where = f"{node.kind} '{node.name or node.output}'"
    inputs = [graph.tensors[name] for name in node.inputs]
    output = graph.tensors[node.output]
    if len(inputs) > _MAX_LINKS:
        raise ModelError(f"{where} has {len(inputs)} inputs; Tengine counts to {_MAX_LINKS}")
    check_types(where, node.op, inputs, node.output, output.dtype)
    if isinstance(node.op, Conv):
        check_operands(where, inputs)
        _check_convolution(where, node.op, inputs)
        return
    for name, tensor in zip(node.inputs, inputs):
        if tensor.quantization is not None and tensor.quantization.scale.size != 1:
            found = tensor.quantization.scale.size
            raise ModelError(f"{where} reads '{name}', which has {found} scales; expected 1")
    if isinstance(node.op, MaxPool):
        _check_pool(where, node.op, inputs[0].shape, output.shape)
    if isinstance(node.op, Upsample):
        _check_upsampling(where, graph, node)
    _check_operator(where, node, len(output.shape))


def _check_operator(where: str, node: Node, dims: int) -> None:
    op = node.op
    if isinstance(op, Add) and op.activation != "none":
        raise ModelError(f"{where} has activation {op.activation}, which no tmfile has for a sum")
    allowed = _DIMS.get(type(op), range(1, MAX_DIMS + 1))
    if dims not in allowed:
        raise ModelError(
            f"{where} has {dims} dimensions; Tengine runs it with {allowed[0]} to {allowed[-1]}"
        )


def _check_pool(where: str, op: MaxPool, before: Shape, after: Shape) -> None:
    padding = pool_padding(op)
    if padding is None:
        raise ModelError(
            f"{where} has pads {op.pads}; Tengine pads both ends alike, the end by one more, or as ceil "
            "mode does"
        )
    flavour, pads = padding
    for axis in (0, 1):
        side, kernel, stride = before[2 + axis], op.kernel[axis], op.stride[axis]
        count = window_count(side, kernel, stride, pads[axis], flavour)
        if count != after[2 + axis]:
            raise ModelError(
                f"{where} makes {after[2 + axis]} of {side} pixels; Tengine would make {count}"
            )


def _check_upsampling(where: str, graph: Graph, node: Node) -> None:
    data, like = node.inputs
    readers = [other for other in graph.nodes if node.output in other.inputs]
    adds = [other for other in readers if isinstance(other.op, Add)]
    if not adds or like not in adds[0].inputs:
        raise ModelError(
            f"{where} is made as large as '{like}', but not added to it; only so is it found again"
        )
    before, after = graph.tensors[data].shape, graph.tensors[node.output].shape
    for size, made in zip(before[2:], after[2:]):
        scale = made / size
        fits = made <= MAX_SIDE and stretched(size, scale) == made
        if not fits or not takes_nearest(size, made, scale):
            raise ModelError(
                f"{where} makes {made} of {size} pixels, of which Tengine, rounding the scale {scale}, "
                "takes others"
            )


def _check_convolution(where: str, op: Conv, inputs: list[Tensor]) -> None:
    if op.activation == "leaky_relu":
        raise ModelError(
            f"{where} has a slope below 0 in {inputs[0].dtype}: Tengine rounds the convolution before it "
            "and would round twice; quantise the float32 model for a .tmfile, which gives that value a scale"
        )
    weight = inputs[1]
    if weight.dtype == INT8 and weight.shape[0] == 1:
        raise ModelError(
            f"{where} has one output channel in int8, and Tengine crashes on that: it keeps a "
            "single scale where its kernel expects the address of a list; make it two channels"
        )
    units = bias_units(*inputs[:2])
    for bias in inputs[2:]:
        if bias.quantization is None or units is None:
            continue
        if not np.allclose(bias.quantization.scale, units.scale, rtol=_BIAS_TOLERANCE, atol=0):
            raise ModelError(
                f"{where} has a bias '{bias.name}' whose scale is not that of its input times that "
                "of its weight; Tengine takes it for that"
            )


def _check_biases(graph: Graph) -> None:
    """One without scales is computed, and read back, in those of its convolution."""
    given: dict[str, Quantization | None] = {}
    for node in graph.nodes:
        if isinstance(node.op, Conv):
            units = bias_units(*(graph.tensors[name] for name in node.inputs[:2]))
            for name in node.inputs[2:]:
                alone = graph.tensors[name].quantization is None
                if alone and not equal(given.setdefault(name, units), units):
                    raise ModelError(
                        f"Conv '{node.name or node.output}' shares its bias '{name}' "
                        "with one of another scale"
                    )
