"""ONNX -> Graph.

In order: the file is checked, its nodes become calls with resolved names, and one walk over the calls
folds what is constant, sets a box decoder's steps aside and makes nodes of the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...errors import ModelError
from ...graph import (
    FLOAT32,
    MAX_ELEMENTS,
    Add,
    Concat,
    Conv,
    Graph,
    MaxPool,
    Node,
    Op,
    Relu,
    Reshape,
    Shape,
    Sigmoid,
    Softmax,
    Tensor,
    Transpose,
    Upsample,
    fuse_activations,
    infer_shape,
    leaky_relu,
    pruned,
)
from .. import protobuf, upsampling
from . import quantization
from .decoding import Decoding, Step, identify
from .folding import CONSTANTS, FOLDS, slices
from .records import (
    ATTRIBUTE_TYPES,
    FLOAT,
    AttributeProto,
    DimensionProto,
    GraphProto,
    ModelProto,
    NodeProto,
)
from .tensors import MAX_RANK, array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from .quantization import Rounded, Stored

    Array = NDArray[Any]

OPSETS = range(7, 25)  # BatchNormalization's and Dropout's inference form .. what 2026's onnx knows
FIRST_IR = 3  # older files do not say which operator set they mean
MAX_NODES = 4096  # RFB-320 has 290, most of them shape arithmetic
MAX_INPUTS = 64  # of one node; a detector's widest Concat has fewer than ten


@dataclass(frozen=True, eq=False)
class Imported:
    """What an ONNX file holds; where it decodes boxes, that output of `graph` gives raw offsets."""

    graph: Graph
    decoding: Decoding | None  # what was cut off, None where the file has none
    metadata: dict[str, str]  # its metadata_props


def read(data: bytes) -> Graph:
    """The network in an ONNX file; where the file decodes boxes, that output gives raw offsets."""
    return load(data).graph


def load(data: bytes, size: tuple[int, int] | None = None) -> Imported:
    """All that is wanted of an ONNX file, which is parsed once.

    Args:
        data: The file.
        size: The width and height of an input that has none of its own.
    """
    model = _model(data)
    graph, decoding = _network(model, size)
    return Imported(graph, decoding, _metadata(model))


def _network(model: ModelProto, size: tuple[int, int] | None) -> tuple[Graph, Decoding | None]:
    graph = cast("GraphProto", model.graph)
    constants = _initializers(graph)
    source, shape = _input(graph, constants, size)
    calls, names = _calls(graph, [source, *constants])
    outputs = _outputs(graph)
    walk = Walk(source, shape, constants, _uses(calls, names, outputs), _opset(model))
    for call in calls:
        walk.visit(call)
    return walk.finish({name: names.get(name, name) for name in outputs})


def _metadata(model: ModelProto) -> dict[str, str]:
    metadata: dict[str, str] = {}
    for entry in model.metadata_props:
        if entry.key in metadata:
            raise ModelError(f"the file's metadata has '{entry.key}' twice")
        metadata[entry.key] = entry.value
    return metadata


def _model(data: bytes) -> ModelProto:
    model = protobuf.parse(ModelProto, data)
    if model.ir_version < FIRST_IR:
        raise ModelError(f"this is no ONNX file, or one older than IR version {FIRST_IR}")
    if model.functions:
        raise ModelError("the file defines functions of its own, which are not supported")
    _opset(model)
    if model.graph is None:
        raise ModelError("the file has no graph")
    return model


def _opset(model: ModelProto) -> int:
    versions = [entry.version for entry in model.opset_import if _is_onnx(entry.domain)]
    if len(versions) != 1:
        raise ModelError(f"the file names {len(versions)} versions of ONNX's operators, not one")
    if versions[0] not in OPSETS:
        supported = f"{OPSETS[0]} to {OPSETS[-1]}"
        raise ModelError(f"the file uses operator set {versions[0]}; {supported} are supported")
    return versions[0]


def _is_onnx(domain: str) -> bool:
    return domain in ("", "ai.onnx")


def _initializers(graph: GraphProto) -> dict[str, Array]:
    if graph.sparse_initializer:
        raise ModelError("the file has sparse constants, which are not supported")
    constants: dict[str, Array] = {}
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in constants:
            raise ModelError(f"the constant '{tensor.name}' has no name of its own")
        constants[tensor.name] = array(tensor, f"constant '{tensor.name}'")
    return constants


def _input(
    graph: GraphProto, constants: Mapping[str, Array], size: tuple[int, int] | None
) -> tuple[str, Shape]:
    """The name and shape of the one input that is not merely a constant's declaration."""
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or not inputs[0].name:
        names = ", ".join(f"'{value.name}'" for value in inputs[:8]) or "none"
        raise ModelError(f"a detector has one input, this network has {len(inputs)}: {names}")
    name, kind = inputs[0].name, inputs[0].type
    tensor = kind.tensor_type if kind is not None else None
    if tensor is None or tensor.shape is None or tensor.elem_type != FLOAT:
        raise ModelError(f"input '{name}' is not declared as a float tensor with a shape")
    return name, _input_shape(name, tensor.shape.dim, size)


def _input_shape(name: str, dims: list[DimensionProto], given: tuple[int, int] | None) -> Shape:
    if len(dims) != 4:
        raise ModelError(
            f"input '{name}' has {len(dims)} dimensions, not batch, channels, height, width"
        )
    sizes = [dim.dim_value or 0 for dim in dims]
    if given is not None and sizes[2:] == [0, 0]:
        sizes[2:] = given[::-1]
    for what, size, dim in zip(("channels", "height", "width"), sizes[1:], dims[1:]):
        if size < 1:
            found = dim.dim_param or size
            raise ModelError(
                f"input '{name}' has no fixed {what} but '{found}'; export the model for one size"
            )
    if sizes[0] > 1:
        raise ModelError(f"input '{name}' has batch size {sizes[0]}, not 1")
    if math.prod(sizes[1:]) > MAX_ELEMENTS:
        raise ModelError(f"input '{name}' is too large: {sizes}")
    return (1, *sizes[1:])


def _outputs(graph: GraphProto) -> list[str]:
    names = [value.name for value in graph.output]
    if not names or not all(names) or len(set(names)) != len(names):
        raise ModelError(f"the network's outputs have no names of their own: {names[:8]}")
    return names


# --- From nodes of the file to calls with resolved names -----------------------------------------


@dataclass(frozen=True, eq=False)
class Call:
    """A node of the file, checked: one output, every input made before it, "" for an absent one."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, AttributeProto]

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'"

    def input(self, index: int) -> str:
        """The input's name, "" where the call does not give it."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def integer(self, name: str, default: int) -> int:
        return cast("int", self.value(name, "i", default))

    def real(self, name: str, default: float) -> float:
        return cast("float", self.value(name, "f", default))

    def integers(self, name: str, default: Iterable[int]) -> tuple[int, ...]:
        values = tuple(self.value(name, "ints", default))
        self.require(len(values) <= MAX_RANK, f"has {len(values)} {name}")
        return values

    def pair(self, name: str) -> tuple[int, int]:
        first, second = self._sized(name, 2, (1, 1))
        return first, second

    def pads(self) -> tuple[int, int, int, int]:
        top, left, bottom, right = self._sized("pads", 4, (0, 0, 0, 0))
        return top, left, bottom, right

    def text(self, name: str, default: str) -> str:
        value = cast("bytes", self.value(name, "s", default.encode()))
        return value.decode("ascii", "replace")

    def require(self, condition: bool, message: str) -> None:
        if not condition:
            raise ModelError(f"{self} {message}")

    def _sized(self, name: str, count: int, default: tuple[int, ...]) -> tuple[int, ...]:
        values = self.integers(name, default)
        self.require(len(values) == count, f"has {len(values)} {name}; 2-D needs {count}")
        return values

    def value(self, name: str, field: str, default: Any) -> Any:
        if name not in self.attributes:
            return default
        attribute = self.attributes[name]
        value = getattr(attribute, field)
        fits = attribute.type == ATTRIBUTE_TYPES[field] and value is not None
        self.require(fits, f"has attribute '{name}' of the wrong type")
        return value


def _calls(graph: GraphProto, given: list[str]) -> tuple[list[Call], dict[str, str]]:
    """The nodes that compute something, and the names that merely stand for others."""
    if len(graph.node) > MAX_NODES:
        raise ModelError(f"the network has {len(graph.node)} nodes, over the limit of {MAX_NODES}")
    calls: list[Call] = []
    names: dict[str, str] = {}
    made = set(given)
    for node in graph.node:
        call = _call(node, names)
        for name in call.inputs:
            call.require(not name or name in made, f"reads '{name}' before anything makes it")
        call.require(call.output not in made, f"writes to '{call.output}', which is taken")
        made.add(call.output)
        if call.kind in ("Identity", "Dropout"):
            names[call.output] = _passed_through(call)
        else:
            calls.append(call)
    return calls, names


def _call(node: NodeProto, names: Mapping[str, str]) -> Call:
    label = f"{node.op_type} '{node.name or ''.join(node.output[:1])}'"
    if not _is_onnx(node.domain):
        raise ModelError(f"{label} is of domain '{node.domain}', not one of ONNX's operators")
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if len(attributes) != len(node.attribute):
        raise ModelError(f"{label} has an attribute twice")
    for attribute in node.attribute:
        if attribute.g is not None or attribute.graphs or attribute.ref_attr_name:
            raise ModelError(f"{label} has a graph of its own, which is not supported")
    if node.op_type not in _ATTRIBUTES:
        raise ModelError(f"{label} is not supported")
    for name in attributes:
        if name not in _ATTRIBUTES[node.op_type]:
            raise ModelError(f"{label} has the unknown attribute '{name}'")
    named = sum(map(bool, node.output))
    # Dropout's mask and BatchNormalization's statistics matter in training only.
    if not node.output or not node.output[0] or (named > 1 and node.op_type != "Dropout"):
        raise ModelError(f"{label} has {named} named outputs; one, the first, is supported")
    if len(node.input) > MAX_INPUTS:
        raise ModelError(f"{label} has {len(node.input)} inputs, over the limit of {MAX_INPUTS}")
    inputs = tuple(names.get(name, name) for name in node.input)
    return Call(node.op_type, node.name or node.output[0], inputs, node.output[0], attributes)


def _passed_through(call: Call) -> str:
    trains = call.kind == "Dropout" and bool(call.input(2))
    call.require(bool(call.input(0)) and not trains, "does not simply pass its input on")
    return call.inputs[0]


def _uses(calls: list[Call], names: Mapping[str, str], outputs: list[str]) -> Counter[str]:
    """How often each value is read; asking for its shape does not count."""
    uses = Counter(names.get(name, name) for name in outputs)
    for call in calls:
        uses.update(call.inputs if call.kind != "Shape" else ())
    return uses


# --- From calls to the graph ---------------------------------------------------------------------


class Walk:
    """What is known while the calls are visited in order."""

    def __init__(
        self, source: str, shape: Shape, constants: dict[str, Array], uses: Counter[str], opset: int
    ) -> None:
        self.source = source
        self.constants = constants
        self.uses = uses
        self.opset = opset
        self.nodes: list[Node] = []
        self.makers: dict[str, int] = {}  # value -> index of its node
        self.late: dict[str, Step] = {}
        self.rounded: dict[str, Rounded] = {}  # QuantizeLinear's outputs
        self.stored: dict[str, Stored] = {}  # of the quantised among the graph's values
        self.aliases: dict[str, str] = {}  # what else DequantizeLinear calls those
        self.shapes = {name: values.shape for name, values in constants.items()}
        self.shapes[source] = shape
        # Folding makes weights anew at most once each; shape arithmetic is tiny. A file that wants
        # more is one that grows a small constant into the machine's memory.
        self.budget = (1 << 20) + sum(values.size for values in constants.values())

    def visit(self, call: Call) -> None:
        inputs = tuple(self.aliases.get(name, name) for name in call.inputs)
        call = dataclasses.replace(call, inputs=inputs)
        if call.kind in FOLDS and self.is_known(call):
            is_stored = any(name in self.stored for name in call.inputs)
            call.require(call.kind == "Shape" or not is_stored, "reads a quantised constant")
            self.define(call.output, FOLDS[call.kind](self, call))
        elif self.is_late(call):
            self.late[call.output] = _LATE[call.kind](self, call)
        else:
            call.require(call.kind in _OPS, "is not supported on values that are not constant")
            _OPS[call.kind](self, call)

    def is_known(self, call: Call) -> bool:
        known = all(name in self.constants for name in call.inputs if name)
        return known or call.kind == "Shape"

    def is_late(self, call: Call) -> bool:
        if call.kind == "Concat":
            return any(name in self.late for name in call.inputs)
        if call.kind == "Add":
            return any(name in self.late or name in self.constants for name in call.inputs)
        return call.kind in _LATE

    def spend(self, call: Call, count: int) -> None:
        """Called before memory is taken."""
        self.budget -= count
        call.require(self.budget >= 0, "folds constants into more values than the file holds")

    def define(self, name: str, values: Array) -> None:
        self.constants[name] = values
        self.shapes[name] = values.shape

    def constant(self, call: Call, index: int, dtype: type[np.generic] | None) -> Array:
        values = self.constants.get(call.input(index))
        if values is None or dtype not in (None, values.dtype):
            kind = "" if dtype is None else f"{np.dtype(dtype).name} "
            raise ModelError(f"{call} needs a {kind}constant as input {index}")
        return values

    def parameter(self, call: Call, index: int) -> Array:
        """A constant of floats, or one of which DequantizeLinear makes them."""
        name = call.input(index)
        is_stored = name in self.constants and name in self.stored
        return self.constants[name] if is_stored else self.constant(call, index, np.float32)

    def indices(self, call: Call, index: int) -> list[int]:
        """A constant list of integers."""
        values = self.constants.get(call.input(index))
        if values is None or values.dtype.kind != "i" or values.ndim > 1:
            raise ModelError(f"{call} needs a constant list of integers as input {index}")
        call.require(values.size <= MAX_RANK, f"lists {values.size} axes or sizes")
        return [int(value) for value in values.reshape(-1)]

    def data(self, call: Call, index: int = 0) -> Shape:
        """The shape of an input that the network computes."""
        name = call.input(index)
        if name in self.late:
            raise ModelError(f"{self.late[name].label} is supported only in SSD box decoding")
        call.require(name not in self.rounded, f"reads '{name}' before DequantizeLinear")
        call.require(bool(name) and name not in self.constants, f"needs data as input {index}")
        return self.shapes[name]

    def axis(self, call: Call, axis: int, rank: int) -> int:
        call.require(-rank <= axis < rank, f"has axis {axis} of {rank}")
        return axis % rank

    def concat(self, call: Call) -> Concat:
        call.require("axis" in call.attributes and len(call.inputs) > 0, "needs an axis and inputs")
        rank = len(self.shapes[call.inputs[0]]) if call.inputs[0] else 0
        return Concat(self.axis(call, call.integer("axis", 0), rank))

    def emit(self, call: Call, op: Op, inputs: tuple[str, ...]) -> None:
        call.require(all(inputs), "lacks an input")
        node = Node(op, call.name, inputs, call.output)
        self.shapes[call.output] = infer_shape(node, [self.shapes[name] for name in inputs])
        self.makers[call.output] = len(self.nodes)
        self.nodes.append(node)

    def maker(self, call: Call, kinds: tuple[type[Op], ...]) -> Node:
        """The node before `call`, when it can absorb it."""
        self.data(call)
        value = call.inputs[0]
        call.require(value not in self.stored, f"changes '{value}', which is quantised already")
        return self.plain(call, value, kinds)

    def plain(self, call: Call, value: str, kinds: tuple[type[Op], ...]) -> Node:
        """The node that makes `value`: one of these kinds, without activation, read by nothing else."""
        index = self.makers.get(value)
        node = None if index is None else self.nodes[index]
        fits = node is not None and isinstance(node.op, kinds) and self.uses[node.output] == 1
        names = " or ".join(kind.__name__ for kind in kinds)
        call.require(fits, f"must follow a {names} whose output nothing else reads")
        assert node is not None
        plain = cast("Conv | Add", node.op).activation == "none"
        call.require(plain, f"follows {node.kind} '{node.name}', which has an activation already")
        return node

    def absorb(self, call: Call, node: Node, **changes: Any) -> None:
        """`node` now also does the work of `call`."""
        index = self.makers[node.output]
        self.nodes[index] = dataclasses.replace(node, output=call.output, **changes)
        self.makers[call.output] = index
        self.shapes[call.output] = self.shapes[node.output]

    def fresh(self, name: str) -> str:
        while name in self.shapes or name in self.uses:
            name += "_"
        return name

    def finish(self, outputs: Mapping[str, str]) -> tuple[Graph, Decoding | None]:
        """The graph; `outputs` maps the names of outputs to those of the values behind them."""
        decoding: Decoding | None = None
        renamed: dict[str, str] = {}
        for name, value in outputs.items():
            value = self.aliases.get(value, value)  # noqa: PLW2901
            if value in self.late:
                if decoding is not None:
                    raise ModelError(f"output '{name}' is a second one with box decoding")
                value, decoding = identify(  # noqa: PLW2901
                    name, value, self.late.values(), self.constants, self.shapes
                )
            if value in self.rounded:
                raise ModelError(f"output '{name}' is not dequantised")
            if value not in self.makers:
                raise ModelError(f"no operator makes the output '{name}'")
            if value in renamed:
                raise ModelError(f"outputs '{renamed[value]}' and '{name}' are one value")
            renamed[value] = name
        return self.graph(renamed), decoding

    def graph(self, renamed: Mapping[str, str]) -> Graph:
        nodes = [
            dataclasses.replace(
                node,
                inputs=tuple(renamed.get(name, name) for name in node.inputs),
                output=renamed.get(node.output, node.output),
            )
            for node in upsampling.settled(self.nodes)
        ]
        tensors = {}
        for name, shape in self.shapes.items():
            if name in self.late:  # its name may be that of the offsets now
                continue
            tensors[renamed.get(name, name)] = self.tensor(name, renamed.get(name, name), shape)
        outputs = tuple(renamed.values())
        return _fused(pruned(nodes, tensors, self.source, outputs))

    def tensor(self, name: str, new: str, shape: Shape) -> Tensor:
        values = self.constants.get(name)
        if name in self.stored:
            stored = self.stored[name]
            return Tensor(new, shape, stored.dtype, values, stored.quantization)
        return Tensor(new, shape, FLOAT32 if values is None else values.dtype, values)


def _fused(graph: Graph) -> Graph:
    """With activations fused, but not across rounding: an output is never fused away."""
    if not graph.is_quantized:
        return fuse_activations(graph)
    relus = (node.inputs[0] for node in graph.nodes if isinstance(node.op, Relu))
    rounded = tuple(name for name in relus if graph.tensors[name].quantization is not None)
    fused = fuse_activations(dataclasses.replace(graph, outputs=graph.outputs + rounded))
    quantization.check(fused)
    return dataclasses.replace(fused, outputs=graph.outputs)


# --- Operators of the graph ----------------------------------------------------------------------


def _conv(walk: Walk, call: Call) -> None:
    data = walk.data(call)
    weight = walk.parameter(call, 1)
    call.require(len(data) == 4 and weight.ndim == 4, "is not two-dimensional")
    kernel = call.integers("kernel_shape", weight.shape[2:])
    call.require(
        kernel == weight.shape[2:], f"has kernel_shape {kernel} for a weight of {weight.shape}"
    )
    if call.input(2):
        walk.parameter(call, 2)
    inputs = tuple(name for name in call.inputs if name)
    op = Conv(
        stride=call.pair("strides"),
        dilation=call.pair("dilations"),
        pads=_pads(call, weight.shape[2:]),
        groups=call.integer("group", 1),
    )
    walk.emit(call, op, inputs)


def _pads(call: Call, kernel: tuple[int, ...]) -> tuple[int, int, int, int]:
    auto, pads = call.text("auto_pad", "NOTSET"), call.pads()
    if auto == "NOTSET":
        return pads
    call.require(not any(pads), f"has both pads and auto_pad {auto}")
    if auto == "VALID":
        return pads
    call.require(auto in ("SAME_UPPER", "SAME_LOWER"), f"has unknown auto_pad {auto}")
    # With a stride it would depend on the input's size, and a graph can be resized.
    call.require(call.pair("strides") == (1, 1), f"has auto_pad {auto} and strides; give pads")
    total = [dilation * (size - 1) for dilation, size in zip(call.pair("dilations"), kernel)]
    small, large = [size // 2 for size in total], [size - size // 2 for size in total]
    first, last = (small, large) if auto == "SAME_UPPER" else (large, small)
    return first[0], first[1], last[0], last[1]


def _batch_normalization(walk: Walk, call: Call) -> None:
    """Folded into the convolution before it, in double precision."""
    trains = call.integer("training_mode", 0) != 0 or call.integer("spatial", 1) != 1
    call.require(not trains, "is not a plain one, made for inference")
    node = walk.maker(call, (Conv,))
    is_stored = any(name in walk.stored for name in node.inputs[1:])
    call.require(not is_stored, f"follows Conv '{node.name}', whose weights are quantised already")
    weight = walk.constants[node.inputs[1]]
    factor, shift = _affine(walk, call, weight.shape[0])
    walk.spend(call, weight.size + factor.size)
    with np.errstate(over="ignore", invalid="ignore"):  # Graph refuses what is not finite
        if len(node.inputs) == 3:
            shift = shift + factor * walk.constants[node.inputs[2]]
        scaled = (weight * factor[:, None, None, None]).astype(np.float32)
        bias = shift.astype(np.float32)
    names = walk.fresh(f"{call.output}/weight"), walk.fresh(f"{call.output}/bias")
    walk.define(names[0], scaled)
    walk.define(names[1], bias)
    walk.absorb(call, node, inputs=(node.inputs[0], *names))


def _affine(walk: Walk, call: Call, channels: int) -> tuple[Array, Array]:
    """BatchNormalization as x * factor + shift, in float64."""
    parts = [walk.constant(call, index, np.float32) for index in (1, 2, 3, 4)]
    fits = all(part.shape == (channels,) for part in parts)
    call.require(fits, f"needs four constants with {channels} values")
    gamma, beta, mean, variance = (part.astype(np.float64) for part in parts)
    spread = variance + call.real("epsilon", 1e-5)
    call.require(bool((spread > 0).all()), "has a variance that is not positive")
    with np.errstate(over="ignore", invalid="ignore"):
        factor = gamma / np.sqrt(spread)
        return factor, beta - mean * factor


def _relu(walk: Walk, call: Call) -> None:
    walk.data(call)
    walk.emit(call, Relu(), call.inputs)


def _leaky_relu(walk: Walk, call: Call) -> None:
    walk.data(call)
    walk.emit(call, leaky_relu(call.real("alpha", 0.01)), call.inputs)


def _sigmoid(walk: Walk, call: Call) -> None:
    walk.data(call)
    walk.emit(call, Sigmoid(), call.inputs)


def _max_pool(walk: Walk, call: Call) -> None:
    walk.data(call)
    kernel = call.integers("kernel_shape", ())
    call.require(len(kernel) == 2, f"has kernel_shape {kernel}; 2-D needs 2")
    call.require(call.pair("dilations") == (1, 1), "is dilated, which is not supported")
    stride, pads = call.pair("strides"), _pads(call, kernel)
    if call.integer("ceil_mode", 0):
        pads = (*pads[:2], pads[2] + stride[0] - 1, pads[3] + stride[1] - 1)
    walk.emit(call, MaxPool((kernel[0], kernel[1]), stride, pads), call.inputs)


def _resize(walk: Walk, call: Call) -> None:
    """The size is known here; whose it is, from the Add that reads the result."""
    data = walk.data(call)
    call.require(len(data) == 4, "is not two-dimensional")
    _check_nearest(walk, call)
    size = _resized(walk, call, data)
    call.require(size[:2] == data[:2], f"makes {size} of {data}; only height and width may change")
    call.require(min(size) >= 1 and math.prod(size) <= MAX_ELEMENTS, f"makes {size}")
    walk.makers[call.output] = len(walk.nodes)
    inputs = (call.inputs[0], upsampling.UNKNOWN)
    walk.nodes.append(Node(Upsample(), call.name, inputs, call.output))
    walk.shapes[call.output] = size


def _check_nearest(walk: Walk, call: Call) -> None:
    """Whether it takes Upsample's pixels, as all did before operator set 11."""
    found = [("mode", call.text("mode", "nearest"), "nearest")]
    if walk.opset >= 11:
        mode = "coordinate_transformation_mode"
        found += [
            (mode, call.text(mode, "half_pixel"), "asymmetric"),
            ("nearest_mode", call.text("nearest_mode", "round_prefer_floor"), "floor"),
        ]
    policy = "keep_aspect_ratio_policy"
    found.append((policy, call.text(policy, "stretch"), "stretch"))
    for name, value, wanted in found:
        call.require(value == wanted, f"has {name} {value}; only {wanted} is supported")
    call.require(call.integer("antialias", 0) == 0, "has antialias, which is not supported")


def _resized(walk: Walk, call: Call, data: Shape) -> Shape:
    if call.input(3):
        sizes = walk.indices(call, 3)
        call.require(len(sizes) == len(data), f"has sizes {sizes} for {len(data)} dimensions")
        return tuple(sizes)
    if "scales" in call.attributes:
        scales = np.array(call.value("scales", "floats", ()), np.float32)
    else:
        scales = walk.constant(call, 2 if walk.opset >= 11 else 1, np.float32).reshape(-1)
    fits = scales.size == len(data) and bool((scales > 0).all() and (scales <= MAX_ELEMENTS).all())
    call.require(fits, f"has scales {scales[:MAX_RANK].tolist()} for {len(data)} dimensions")
    return tuple(math.floor(size * float(scale)) for size, scale in zip(data, scales))


def _clip(walk: Walk, call: Call) -> None:
    if call.input(0) in walk.rounded:
        quantization.clip(walk, call)
        return
    limits = [call.real("min", math.nan), call.real("max", math.nan)]
    for index in (1, 2):
        if call.input(index):
            value = walk.constant(call, index, np.float32)
            call.require(value.size == 1, "has limits that are not single numbers")
            limits[index - 1] = float(value.reshape(-1)[0])
    call.require(limits == [0, 6], f"has limits {limits}; only 0 and 6, ReLU6, are supported")
    node = walk.maker(call, (Conv, Add))
    op = dataclasses.replace(cast("Conv | Add", node.op), activation="relu6")
    walk.absorb(call, node, op=op)


def _add(walk: Walk, call: Call) -> None:
    for index in range(len(call.inputs)):
        walk.data(call, index)
    walk.emit(call, Add(), call.inputs)


def _concat(walk: Walk, call: Call) -> None:
    for index in range(len(call.inputs)):
        walk.data(call, index)
    walk.emit(call, walk.concat(call), call.inputs)


def _softmax(walk: Walk, call: Call) -> None:
    rank = len(walk.data(call))
    axis = walk.axis(call, call.integer("axis", -1 if walk.opset >= 13 else 1), rank)
    # Before 13 it ran over all axes from this one on, taken as one.
    flattens = walk.opset < 13 and axis != rank - 1
    call.require(not flattens, f"runs over several axes, from {axis} to {rank - 1}")
    walk.emit(call, Softmax(axis), call.inputs)


def _transpose(walk: Walk, call: Call) -> None:
    rank = len(walk.data(call))
    walk.emit(call, Transpose(call.integers("perm", reversed(range(rank)))), call.inputs)


def _reshape(walk: Walk, call: Call) -> None:
    data, sizes = walk.data(call), walk.indices(call, 1)
    call.require(call.integer("allowzero", 0) == 0 or 0 not in sizes, "makes an empty tensor")
    for index, size in enumerate(sizes):
        if size == 0:  # "as in the input"
            call.require(index < len(data), f"copies dimension {index} of {data}")
            sizes[index] = data[index]
    inputs = call.inputs[:1]
    walk.emit(call, Reshape(tuple(sizes)), inputs)
    made = walk.shapes[call.output]
    if len(made) == 3 and data[0] == made[0] == 1:
        # Simplifiers fix the number of priors; open, the same graph serves other input sizes.
        last = walk.nodes[-1]
        walk.nodes[-1] = dataclasses.replace(last, op=Reshape((1, -1, made[2])))


# --- Steps of a box decoder ----------------------------------------------------------------------


def _late_arithmetic(walk: Walk, call: Call) -> Step:
    function: Callable[..., Array] = _ARITHMETIC[call.kind]
    count = 1 if call.kind == "Exp" else 2
    call.require(len(call.inputs) == count and all(call.inputs), f"needs {count} inputs")
    for name in call.inputs:
        values = walk.constants.get(name)
        call.require(values is None or values.dtype == np.float32, f"reads '{name}', no floats")
    walk.shapes[call.output] = _broadcast(call, [walk.shapes[name] for name in call.inputs])
    return _step(call, call.inputs, function)


def _broadcast(call: Call, shapes: list[Shape]) -> Shape:
    rank = max(map(len, shapes))
    call.require(rank <= MAX_RANK, f"makes {rank} dimensions")
    result = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes)):
        other = {size for size in sizes if size != 1}
        call.require(len(other) <= 1, f"got shapes that do not fit: {shapes}")
        result.append(other.pop() if other else 1)
    call.require(math.prod(result) <= MAX_ELEMENTS, f"would make a tensor of shape {result}")
    return tuple(result)


def _late_slice(walk: Walk, call: Call) -> Step:
    where = slices(walk, call)
    shape = walk.shapes[call.inputs[0]]
    sizes = [range(size)[part] for size, part in zip(shape, where)]
    walk.shapes[call.output] = tuple(map(len, sizes))
    return _step(call, call.inputs[:1], lambda data: data[where])


def _late_concat(walk: Walk, call: Call) -> Step:
    op = walk.concat(call)
    node = Node(op, call.name, call.inputs, call.output)
    walk.shapes[call.output] = infer_shape(
        node, [walk.shapes.get(name, ()) for name in call.inputs]
    )
    return _step(call, call.inputs, lambda *parts: np.concatenate(parts, axis=op.axis))


def _step(call: Call, inputs: tuple[str, ...], evaluate: Callable[..., Array]) -> Step:
    return Step(call.kind, str(call), inputs, call.output, evaluate)


# --- Tables --------------------------------------------------------------------------------------

_ARITHMETIC: dict[str, Callable[..., Array]] = {
    "Mul": np.multiply,
    "Add": np.add,
    "Sub": np.subtract,
    "Div": np.divide,
    "Exp": np.exp,
}

_LATE: dict[str, Callable[[Walk, Call], Step]] = {
    **dict.fromkeys(_ARITHMETIC, _late_arithmetic),
    "Slice": _late_slice,
    "Concat": _late_concat,
}

_OPS: dict[str, Callable[[Walk, Call], None]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_normalization,
    "Relu": _relu,
    "LeakyRelu": _leaky_relu,
    "Sigmoid": _sigmoid,
    "MaxPool": _max_pool,
    "Resize": _resize,
    "Upsample": _resize,
    "Clip": _clip,
    "Add": _add,
    "Concat": _concat,
    "Softmax": _softmax,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "QuantizeLinear": quantization.quantize,
    "DequantizeLinear": quantization.dequantize,
}

# Every supported operator, and the attributes it has in any supported operator set.
_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_ARITHMETIC, ()),
    "BatchNormalization": ("epsilon", "momentum", "spatial", "training_mode"),
    "Cast": ("to", "saturate", "round_mode"),
    "Clip": ("min", "max"),
    "Concat": ("axis",),
    "Constant": tuple(CONSTANTS),
    "Conv": ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"),
    "DequantizeLinear": ("axis", "block_size"),
    "Dropout": ("ratio", "seed"),
    "Gather": ("axis",),
    "Identity": (),
    "LeakyRelu": ("alpha",),
    "MaxPool": (
        "auto_pad",
        "ceil_mode",
        "dilations",
        "kernel_shape",
        "pads",
        "storage_order",
        "strides",
    ),
    "QuantizeLinear": ("axis", "block_size", "saturate"),
    "Relu": (),
    "Reshape": ("allowzero",),
    "Resize": (
        *("antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside"),
        *("extrapolation_value", "keep_aspect_ratio_policy", "mode", "nearest_mode"),
    ),
    "Shape": ("start", "end"),
    "Sigmoid": (),
    "Slice": ("starts", "ends", "axes"),
    "Softmax": ("axis",),
    "Transpose": ("perm",),
    "Unsqueeze": ("axes",),
    "Upsample": ("mode", "scales"),
}
