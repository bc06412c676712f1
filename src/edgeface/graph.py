"""The one in-memory form of a network: what every reader makes and every backend takes.

Batch is 1 everywhere. A four-dimensional tensor is (1, channels, height, width), whatever a
backend makes of it in memory. Operators carry their own typed attributes and have ONNX's meaning.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from .errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

Shape = tuple[int, ...]
FLOAT32 = np.dtype(np.float32)
ACTIVATIONS = ("none", "relu", "relu6", "leaky_relu")

# Beyond any detector for a board (RetinaFace-ResNet50 at 1080p stays under 2**28); keeps a crafted
# file from asking for the machine's memory.
MAX_ELEMENTS = 1 << 30
# Of all tensors, constants too, as if no two shared memory: no backend takes more for them, however it
# plans. RetinaFace-ResNet50 at 1080p has 4.6 GiB of float32 with each Relu and Add a tensor of its own,
# counted from its layers; RFB at 1080p 0.4 GiB.
MAX_BYTES = 1 << 33
# Of a window's stride, dilation and pads: the engine counts positions in int.
MAX_WINDOW = 1 << 16


@dataclass(frozen=True)
class Conv:
    """2-D convolution with an activation: inputs are data, weight (out, in/groups, kh, kw), [bias]."""

    stride: tuple[int, int] = (1, 1)  # vertical, horizontal
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    groups: int = 1
    activation: str = "none"
    slope: float = 0.0  # of leaky_relu, 0 for every other


@dataclass(frozen=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True)
class LeakyRelu:
    """x where it is positive, slope * x elsewhere; 0 < slope < 1, so max(x, slope * x).

    Backends take the slope as a float32. Readers give the shortest decimal number that is that float32.
    """

    slope: float


@dataclass(frozen=True)
class Sigmoid:
    """1 / (1 + exp(-x))."""


@dataclass(frozen=True)
class MaxPool:
    """The largest value of every window, by channel; what lies beyond the edges is never it.

    Ceil mode is stride - 1 more of padding at the bottom and at the right, for every input size.
    """

    kernel: tuple[int, int]  # height, width
    stride: tuple[int, int] = (1, 1)  # vertical, horizontal
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right


@dataclass(frozen=True)
class Upsample:
    """Inputs are data and like: data's channels at like's height and width, the nearest pixel of data each.

    Row y of the output is row floor(y * data's height / like's height) of data, columns alike: PyTorch's
    interpolate(mode="nearest", size=...). A size that is another tensor's follows the network's input.
    """


@dataclass(frozen=True)
class Add:
    """Sum of two tensors of one shape, with an activation."""

    activation: str = "none"
    slope: float = 0.0  # of leaky_relu, 0 for every other


@dataclass(frozen=True)
class Concat:
    """Tensors one after another along an axis."""

    axis: int


@dataclass(frozen=True)
class Softmax:
    """Along one axis."""

    axis: int


@dataclass(frozen=True)
class Transpose:
    """Axes in a new order."""

    order: tuple[int, ...]


@dataclass(frozen=True)
class Reshape:
    """The same values in row-major order under another shape; one entry may be -1."""

    shape: tuple[int, ...]


Op = Union[
    Conv, Relu, LeakyRelu, Sigmoid, MaxPool, Upsample, Add, Concat, Softmax, Transpose, Reshape
]


@dataclass(frozen=True, eq=False)
class Quantization:
    """real = (stored - zero_point) * scale, with one pair for the tensor or one for each channel of axis 0."""

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Tensor:
    """A value that flows through the graph, or a constant when it has data."""

    name: str
    shape: Shape
    dtype: np.dtype[np.generic] = FLOAT32
    data: NDArray[np.generic] | None = None
    quantization: Quantization | None = None

    @property
    def is_constant(self) -> bool:
        return self.data is not None


@dataclass(frozen=True)
class Node:
    """One operator between named tensors; every operator here has a single output."""

    op: Op
    name: str
    inputs: tuple[str, ...]
    output: str

    @property
    def kind(self) -> str:
        """The operator's name, as ONNX spells it."""
        return type(self.op).__name__


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which they can run, and every tensor they name."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    input: str
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        _check(self)

    @property
    def input_size(self) -> tuple[int, int]:
        """(width, height) of the network's input."""
        _, _, height, width = self.tensors[self.input].shape
        return width, height

    @property
    def constants(self) -> Iterator[Tensor]:
        return (tensor for tensor in self.tensors.values() if tensor.is_constant)

    @property
    def is_quantized(self) -> bool:
        return any(tensor.quantization is not None for tensor in self.tensors.values())

    def multiply_adds(self, node: Node) -> int:
        """Multiply-adds of one convolution, counted as the papers do: padding included; 0 for the rest."""
        if not isinstance(node.op, Conv):
            return 0
        weight = self.tensors[node.inputs[1]].shape
        return math.prod(self.tensors[node.output].shape) * math.prod(weight[1:])

    def resized(self, width: int, height: int) -> Graph:
        """The same network for another input size; ModelError where an operator does not allow it."""
        channels = self.tensors[self.input].shape[1]
        tensors = dict(self.tensors)
        tensors[self.input] = dataclasses.replace(
            tensors[self.input], shape=(1, channels, height, width)
        )
        for node in self.nodes:
            shape = infer_shape(node, [tensors[name].shape for name in node.inputs])
            tensors[node.output] = dataclasses.replace(tensors[node.output], shape=shape)
        return dataclasses.replace(self, tensors=tensors)


def infer_shape(node: Node, inputs: list[Shape]) -> Shape:
    """The output's shape; ModelError names the node when its inputs do not fit its operator."""
    try:
        shape = _RULES[type(node.op)](node.op, inputs)
    except _MisfitError as misfit:
        found = ", ".join(map(str, inputs)) or "nothing"
        raise ModelError(
            f"{node.kind} '{node.name}' got inputs of shape {found}: {misfit}"
        ) from None
    if not shape or min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
        raise ModelError(f"{node.kind} '{node.name}' would make a tensor of shape {shape}")
    return shape


def leaky_relu(slope: float) -> Relu | LeakyRelu:
    """What a file's float32 slope means: the operator, with the shortest decimal number that is that float32."""
    return LeakyRelu(float(str(np.float32(slope)))) if slope else Relu()


def fuse_activations(graph: Graph) -> Graph:
    """Relu and LeakyRelu merged into the Conv or Add before, where nothing else reads the value between.

    Of a quantised value only a Relu, which must keep its scale and zero point.
    """
    reads = Counter(name for node in graph.nodes for name in node.inputs)
    relu_after = {
        node.inputs[0]: node
        for node in graph.nodes
        if isinstance(node.op, (Relu, LeakyRelu)) and node.inputs[0] not in graph.outputs
        if reads[node.inputs[0]] == 1
    }
    nodes: list[Node] = []
    dropped: set[str] = set()
    for node in graph.nodes:
        relu = relu_after.get(node.output)
        if node.output in dropped:
            continue
        if relu is not None and _can_absorb(node, relu, graph.tensors):
            assert isinstance(node.op, (Conv, Add))
            op = _activated(node.op, relu.op)
            node = dataclasses.replace(node, op=op, output=relu.output)  # noqa: PLW2901
            dropped.add(relu.output)
        nodes.append(node)
    return pruned(nodes, graph.tensors, graph.input, graph.outputs)


def _activated(op: Conv | Add, activation: Op) -> Conv | Add:
    if isinstance(activation, LeakyRelu):
        return dataclasses.replace(op, activation="leaky_relu", slope=activation.slope)
    return dataclasses.replace(op, activation="relu")


def _can_absorb(node: Node, relu: Node, tensors: Mapping[str, Tensor]) -> bool:
    """Not where merging would round once instead of twice: a slope, or a scale of the Relu's own."""
    if not isinstance(node.op, (Conv, Add)) or node.op.activation != "none":
        return False
    before, after = tensors[node.output].quantization, tensors[relu.output].quantization
    if before is None:  # not rounded before the Relu
        return True
    if after is None or isinstance(relu.op, LeakyRelu):
        return False
    return bool(
        np.array_equal(before.scale, after.scale)
        and np.array_equal(before.zero_point, after.zero_point)
    )


def with_slopes_apart(graph: Graph) -> Graph:
    """A float32 network with every leaky ReLU a node of its own: what `fuse_activations` merges, undone."""
    nodes: list[Node] = []
    tensors = dict(graph.tensors)
    for node in graph.nodes:
        if not isinstance(node.op, (Conv, Add)) or node.op.activation != "leaky_relu":
            nodes.append(node)
            continue
        name = f"{node.output}/linear"
        while name in tensors:
            name += "_"
        tensors[name] = dataclasses.replace(tensors[node.output], name=name)
        plain = dataclasses.replace(node.op, activation="none", slope=0.0)
        relu = LeakyRelu(node.op.slope)
        nodes.append(dataclasses.replace(node, op=plain, output=name))
        nodes.append(Node(relu, f"{node.name or node.output}/relu", (name,), node.output))
    return dataclasses.replace(graph, nodes=tuple(nodes), tensors=tensors)


def pruned(
    nodes: list[Node], tensors: Mapping[str, Tensor], source: str, outputs: tuple[str, ...]
) -> Graph:
    """A graph of the nodes that the outputs need, and of no tensor that they do not."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if node.output in needed:
            needed.update(node.inputs)
            kept.append(node)
    needed.add(source)
    used = {name: tensor for name, tensor in tensors.items() if name in needed}
    return Graph(nodes=tuple(reversed(kept)), tensors=used, input=source, outputs=outputs)


class _MisfitError(Exception):
    """Why inputs do not fit an operator; infer_shape adds which node it was."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise _MisfitError(message)


def _check_activation(op: Conv | Add) -> None:
    _require(op.activation in ACTIVATIONS, f"unknown activation '{op.activation}'")
    if op.activation == "leaky_relu":
        _check_slope(op.slope)
    else:
        _require(op.slope == 0, f"activation '{op.activation}' has no slope")


def _check_slope(slope: float) -> None:
    as_float32 = float(np.float32(slope))
    _require(0 < as_float32 < 1, f"the slope is {slope}; expected more than 0 and less than 1")


def _windows(
    size: Shape,
    kernel: Iterable[int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> tuple[int, int]:
    """How many windows fit into an image of that height and width, down and across."""
    _require(min(stride) >= 1 and min(dilation) >= 1, "stride and dilation start at 1")
    _require(min(pads) >= 0, "pads cannot be negative")
    counts = []
    for axis, taps in enumerate(kernel):
        reach = dilation[axis] * (taps - 1) + 1
        padded = size[axis] + pads[axis] + pads[axis + 2]
        _require(reach <= padded, f"a kernel {reach} wide does not fit into {padded}")
        _require(max(pads[axis], pads[axis + 2]) < reach, "padding is as large as the kernel")
        counts.append((padded - reach) // stride[axis] + 1)
    far = max(*stride, *dilation, *pads)
    _require(far <= MAX_WINDOW, f"stride, dilation and pads end at {MAX_WINDOW}")
    return counts[0], counts[1]


def _conv_shape(op: Conv, inputs: list[Shape]) -> Shape:
    _require(len(inputs) in (2, 3), "it takes data, weight and an optional bias")
    data, weight = inputs[:2]
    _require(len(data) == 4 and len(weight) == 4, "data and weight need four dimensions")
    out_channels, group_channels = weight[:2]
    _require(
        op.groups >= 1 and out_channels % op.groups == 0,
        f"{op.groups} groups do not divide the output",
    )
    _require(
        group_channels * op.groups == data[1],
        f"the weight is for {group_channels * op.groups} channels",
    )
    _require(
        len(inputs) == 2 or inputs[2] == (out_channels,),
        "the bias needs one value per output channel",
    )
    _check_activation(op)
    size = _windows(data[2:], weight[2:], op.stride, op.dilation, op.pads)
    return (data[0], out_channels, *size)


def _relu_shape(_op: Relu | Sigmoid, inputs: list[Shape]) -> Shape:
    _require(len(inputs) == 1, "it takes one input")
    return inputs[0]


def _leaky_relu_shape(op: LeakyRelu, inputs: list[Shape]) -> Shape:
    _require(len(inputs) == 1, "it takes one input")
    _check_slope(op.slope)
    return inputs[0]


def _max_pool_shape(op: MaxPool, inputs: list[Shape]) -> Shape:
    _require(len(inputs) == 1 and len(inputs[0]) == 4, "it takes one image")
    _require(min(op.kernel) >= 1, "the kernel is empty")
    return (*inputs[0][:2], *_windows(inputs[0][2:], op.kernel, op.stride, (1, 1), op.pads))


def _upsample_shape(_op: Upsample, inputs: list[Shape]) -> Shape:
    _require(len(inputs) == 2, "it takes data and a tensor of the size wanted")
    data, like = inputs
    _require(len(data) == 4 and len(like) == 4, "both need four dimensions")
    return (*data[:2], *like[2:])


def _add_shape(op: Add, inputs: list[Shape]) -> Shape:
    _require(len(inputs) == 2, "it takes two inputs")
    _require(inputs[0] == inputs[1], "both need one shape (no broadcasting)")
    _check_activation(op)
    return inputs[0]


def _concat_shape(op: Concat, inputs: list[Shape]) -> Shape:
    _require(len(inputs) >= 1, "it needs an input")
    first = inputs[0]
    _require(0 <= op.axis < len(first), f"there is no axis {op.axis}")
    for shape in inputs:
        same = len(shape) == len(first)
        same = same and all(a == b for i, (a, b) in enumerate(zip(first, shape)) if i != op.axis)
        _require(same, f"they differ beside axis {op.axis}")
    joined = sum(shape[op.axis] for shape in inputs)
    return (*first[: op.axis], joined, *first[op.axis + 1 :])


def _softmax_shape(op: Softmax, inputs: list[Shape]) -> Shape:
    _require(len(inputs) == 1, "it takes one input")
    _require(0 <= op.axis < len(inputs[0]), f"there is no axis {op.axis}")
    return inputs[0]


def _transpose_shape(op: Transpose, inputs: list[Shape]) -> Shape:
    _require(len(inputs) == 1, "it takes one input")
    _require(sorted(op.order) == list(range(len(inputs[0]))), f"{op.order} does not order its axes")
    return tuple(inputs[0][axis] for axis in op.order)


def _reshape_shape(op: Reshape, inputs: list[Shape]) -> Shape:
    _require(len(inputs) == 1, "it takes one input")
    count = math.prod(inputs[0])
    _require(all(size >= 1 or size == -1 for size in op.shape), f"bad shape {op.shape}")
    _require(op.shape.count(-1) <= 1, f"more than one -1 in {op.shape}")
    known = math.prod(size for size in op.shape if size != -1)
    shape = tuple(count // known if size == -1 else size for size in op.shape)
    _require(math.prod(shape) == count, f"{count} values do not fill {op.shape}")
    return shape


_RULES: dict[type[Any], Callable[[Any, list[Shape]], Shape]] = {
    Conv: _conv_shape,
    Relu: _relu_shape,
    LeakyRelu: _leaky_relu_shape,
    Sigmoid: _relu_shape,
    MaxPool: _max_pool_shape,
    Upsample: _upsample_shape,
    Add: _add_shape,
    Concat: _concat_shape,
    Softmax: _softmax_shape,
    Transpose: _transpose_shape,
    Reshape: _reshape_shape,
}


def _check(graph: Graph) -> None:
    """Everything a backend relies on: names, order, shapes, constants."""
    if graph.input not in graph.tensors:
        raise ModelError(f"the network's input '{graph.input}' is not among its tensors")
    shape = graph.tensors[graph.input].shape
    if len(shape) != 4 or shape[0] != 1 or min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
        raise ModelError(
            f"input '{graph.input}' has shape {shape}; expected (1, channels, height, width)"
        )
    known = {graph.input}
    for tensor in graph.constants:
        _check_constant(tensor)
        known.add(tensor.name)
    for node in graph.nodes:
        for name in node.inputs:
            if name not in known:
                raise ModelError(
                    f"{node.kind} '{node.name}' reads '{name}' before anything makes it"
                )
        if node.output in known or node.output not in graph.tensors:
            raise ModelError(f"{node.kind} '{node.name}' cannot write to '{node.output}'")
        inferred = infer_shape(node, [graph.tensors[name].shape for name in node.inputs])
        declared = graph.tensors[node.output].shape
        if inferred != declared:
            raise ModelError(
                f"'{node.output}' is declared {declared}, but {node.kind} makes it {inferred}"
            )
        known.add(node.output)
    if not graph.outputs:
        raise ModelError("the network has no output")
    for name in graph.outputs:
        if name not in known:
            raise ModelError(f"nothing makes the output '{name}'")
    _check_size(graph.tensors[name] for name in known)


def _check_size(tensors: Iterable[Tensor]) -> None:
    """What is declared, before anybody allocates it."""
    total = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in tensors)
    if total > MAX_BYTES:
        raise ModelError(
            f"the network's tensors are {total / 2**30:.1f} GiB together; expected at most "
            f"{MAX_BYTES >> 30} GiB; a smaller input size takes less"
        )


def _check_constant(tensor: Tensor) -> None:
    assert tensor.data is not None
    if tensor.data.shape != tensor.shape or tensor.data.dtype != tensor.dtype:
        held = f"{tensor.data.dtype} {tensor.data.shape}"
        raise ModelError(
            f"constant '{tensor.name}' is declared {tensor.dtype} {tensor.shape}, but holds {held}"
        )
    if tensor.dtype.kind == "f" and not np.isfinite(tensor.data).all():
        raise ModelError(f"constant '{tensor.name}' holds values that are not finite")
