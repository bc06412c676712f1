"""tmfile v2 -> Graph. No field is believed before it has been checked."""

from __future__ import annotations

import dataclasses
import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...errors import ModelError
from ...graph import (
    FLOAT32,
    MAX_ELEMENTS,
    Add,
    Concat,
    Conv,
    Graph,
    LeakyRelu,
    MaxPool,
    Node,
    Quantization,
    Relu,
    Reshape,
    Sigmoid,
    Softmax,
    Tensor,
    Transpose,
    Upsample,
    infer_shape,
    leaky_relu,
    pruned,
)
from .. import upsampling
from .records import (
    ACTIVATIONS,
    AXIS,
    BUFFER,
    CONST_ROLE,
    CONVOLUTION,
    COUNT,
    DTYPES,
    ELTWISE,
    HEADER,
    INT32,
    INTERP,
    MAX_DIMS,
    MAX_ENTRIES,
    MAX_NODES,
    MAXIMUM,
    MODEL,
    NEAREST,
    NEED_SCALE,
    NODE,
    OPERATOR,
    PERMUTE,
    POOLING,
    QUANT_PARAM,
    RESHAPE,
    SLOPE,
    STRING,
    SUBGRAPH,
    SUM,
    TENSOR,
    TRANSPOSE,
    UPSAMPLE,
    VERSION,
    Flavour,
    Kind,
    NodeRecord,
    SubgraphRecord,
    TensorRecord,
)
from .rules import (
    MAX_SIDE,
    bias_units,
    check_operands,
    check_scales,
    check_types,
    equal,
    fused,
    stretched,
    takes_nearest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ...graph import Op, Shape

# In a stock file every byte belongs to one object. Some sharing is harmless, and the writer does
# it, but objects that overlap without end would let a small file ask for unbounded time and memory.
_MAX_READS_PER_BYTE = 4

_ELTWISE_NAMES = {
    0: "PROD",
    1: "PROD_SCALAR",
    3: "SUM_SCALAR",
    4: "SUB",
    6: "MAX",
    10: "DIV",
}


def read(data: bytes) -> Graph:
    """The network in the content of a tmfile, in NCHW and with one input."""
    reader = _Reader(data)
    subgraph = _subgraph(reader)
    outputs = reader.vector(subgraph.outputs, "the list of output nodes")
    network = _Network(reader, subgraph, frozenset(outputs))
    nodes = reader.vector(subgraph.nodes, "the list of nodes")
    if len(nodes) > MAX_NODES:
        raise ModelError(f"the file lists {len(nodes)} nodes; at most {MAX_NODES} are read")
    for index, offset in enumerate(nodes):
        network.append(index, offset)
    source = network.source(reader.vector(subgraph.inputs, "the list of input nodes"))
    settled = upsampling.settled(network.nodes)
    return fused(pruned(settled, network.tensors, source, network.results(outputs)))


class _Reader:
    """The only way to the bytes of the file: whatever it returns lies inside."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._left = _MAX_READS_PER_BYTE * len(data)

    def header(self) -> tuple[int, int]:
        """The format's version and where the model object is."""
        if len(self._data) < HEADER.size:
            raise ModelError(
                f"the file has {len(self._data)} bytes; a tmfile starts with {HEADER.size}"
            )
        version, model = HEADER.unpack_from(self._data)
        return version, model

    def take(self, offset: int, size: int, what: str) -> memoryview:
        if offset == 0:
            raise ModelError(f"{what} is missing: its offset is 0")
        if offset + size > len(self._data):
            raise ModelError(
                f"{what} needs {size} bytes from byte {offset} on, "
                f"but the file has {len(self._data)}: it is cut or damaged"
            )
        self._left -= size
        if self._left < 0:
            raise ModelError(f"{what} overlaps other objects, as do too many: the file is damaged")
        return self._data[offset : offset + size]

    def fields(self, layout: struct.Struct, offset: int, what: str) -> tuple[Any, ...]:
        return layout.unpack(self.take(offset, layout.size, what))

    def vector(self, offset: int, what: str) -> tuple[int, ...]:
        """Indices or offsets."""
        return self._entries(offset, what, "I", MAX_ENTRIES)

    def integers(self, offset: int, what: str) -> tuple[int, ...]:
        """Signed numbers for the dimensions of one tensor."""
        return self._entries(offset, what, "i", MAX_DIMS)

    def string(self, offset: int, what: str) -> str:
        size, start = self.fields(STRING, offset, what)
        characters = self.take(start, size, what).tobytes()
        if size < 2 or characters.find(b"\0") != size - 1:
            raise ModelError(f"{what} is not a text that ends in its only NUL: {characters[:40]!r}")
        try:
            return characters[:-1].decode()
        except UnicodeDecodeError:
            raise ModelError(f"{what} is not UTF-8") from None

    def _entries(self, offset: int, what: str, code: str, limit: int) -> tuple[int, ...]:
        (count,) = self.fields(COUNT, offset, what)
        if count > limit:
            raise ModelError(f"{what} has {count} entries; at most {limit} are read")
        return struct.unpack(f"<{count}{code}", self.take(offset + COUNT.size, 4 * count, what))


def _subgraph(reader: _Reader) -> SubgraphRecord:
    version, model = reader.header()
    if version != VERSION:
        raise ModelError(f"the file is not a tmfile of version 2: it starts with {version}")
    _, vector = reader.fields(MODEL, model, "the model object")
    offsets = reader.vector(vector, "the list of subgraphs")
    if len(offsets) != 1:
        raise ModelError(f"the file has {len(offsets)} subgraphs; expected 1")
    subgraph = SubgraphRecord(*reader.fields(SUBGRAPH, offsets[0], "the subgraph"))
    for field in ("graph_layout", "model_layout"):
        if getattr(subgraph, field) != 0:
            raise ModelError(
                f"{field} is {getattr(subgraph, field)} (1 is NHWC, as from TFLite); expected 0 "
                "(NCHW): convert the network from ONNX"
            )
    return subgraph


class _Declared(NamedTuple):
    """A tensor as the file declares it, its name and type checked."""

    position: int  # in the file's list of tensors
    name: str
    dtype: np.dtype[Any]
    record: TensorRecord


class _Network:
    """Nodes and tensors read so far; each tensor is read when the node that makes it is."""

    def __init__(self, reader: _Reader, subgraph: SubgraphRecord, kept: frozenset[int]) -> None:
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        self._reader = reader
        self._kept = kept  # nodes whose outputs are the network's: their names must stay
        self._records = reader.vector(subgraph.tensors, "the list of tensors")
        self._buffers: tuple[int, ...] = ()
        if subgraph.buffers:
            self._buffers = reader.vector(subgraph.buffers, "the list of buffers")
        self._names: set[str] = set()
        self._made: dict[int, Tensor] = {}  # by position
        self._sources: dict[int, str] = {}  # InputOp nodes
        self._results: dict[int, str] = {}  # all nodes that compute

    def append(self, index: int, offset: int) -> None:
        """Take one node; those before it have made what it reads."""
        record = NodeRecord(*self._reader.fields(NODE, offset, f"node {index}"))
        name = self._reader.string(record.name, f"the name of node {index}")
        operator = f"the operator of node '{name}'"
        _, kind, param = self._reader.fields(OPERATOR, record.operator, operator)
        if kind in (Kind.CONST, Kind.INPUT):
            made = self._output(record, f"node '{name}'")
            shape = self._dims(made)
            data = self._data(made, shape) if kind == Kind.CONST else None
            self._store(made, shape, data)
            if kind == Kind.INPUT:
                self._sources[index] = made.name
        else:
            self._append_operator(index, record, kind, _Param(self._reader, param, name))

    def source(self, listed: tuple[int, ...]) -> str:
        """The input's name."""
        if len(self._sources) != 1:
            found = ", ".join(f"'{name}'" for name in self._sources.values()) or "none"
            raise ModelError(f"the network's inputs are {found}; expected exactly one")
        ((index, name),) = self._sources.items()
        if listed != (index,):
            raise ModelError(
                f"the list of input nodes is {listed}; expected only {index}, which is '{name}'"
            )
        return name

    def results(self, listed: tuple[int, ...]) -> tuple[str, ...]:
        """The outputs' names."""
        if len(set(listed)) != len(listed):
            raise ModelError(f"the list of output nodes names one twice: {listed}")
        for index in listed:
            if index not in self._results:
                raise ModelError(f"the list of output nodes has {index}, which is no operator")
        return tuple(self._results[index] for index in listed)

    def _append_operator(self, index: int, record: NodeRecord, kind: int, param: _Param) -> None:
        operator = _operator(kind, param.node)
        where = f"{operator.name} '{param.node}'"
        inputs = self._inputs(record, where)
        op = operator.read(param, inputs)
        if isinstance(op, Reshape):
            # The second input is the shape as a constant, cut to half the bytes of its 64-bit
            # numbers; Tengine takes the shape from the parameter, too.
            inputs = inputs[:1]
        made = self._output(record, where)
        check_types(where, op, inputs, made.name, made.dtype)
        if kind == Kind.DROPOUT and index not in self._kept and made.dtype == FLOAT32:
            self._made[made.position] = inputs[0]
            return
        if isinstance(op, Conv):
            self._scale_bias(where, inputs)
        names, shapes = [t.name for t in inputs], [t.shape for t in inputs]
        if isinstance(op, Upsample):
            names.append(upsampling.UNKNOWN)
            shapes.append(_upsampled(kind, param, where, shapes[0]))
        node = Node(op, param.node, tuple(names), made.name)
        # The shapes of computed values may be stale in the file: Tengine infers them, too.
        self._store(made, infer_shape(node, shapes))
        self.nodes.append(node)
        self._results[index] = made.name

    def _scale_bias(self, where: str, inputs: list[Tensor]) -> None:
        """Give a bias that is stored without scales those that it is computed with."""
        units = bias_units(*inputs[:2])
        if units is None or len(inputs) == 2 or inputs[2].quantization is not None:
            return
        name = inputs[2].name
        check_scales(f"the bias '{name}' of {where}", INT32, (), units.scale.tolist())
        given = self.tensors[name].quantization
        if given is not None and not equal(given, units):
            raise ModelError(f"{where} shares its bias '{name}' with one of another scale")
        self.tensors[name] = dataclasses.replace(self.tensors[name], quantization=units)

    def _inputs(self, record: NodeRecord, where: str) -> list[Tensor]:
        what = f"the list of inputs of {where}"
        indices = self._reader.vector(record.inputs, what)
        if not indices:
            raise ModelError(f"{what} is empty")
        for index in indices:
            if index >= len(self._records):
                raise ModelError(f"{where} reads tensor {index} of {len(self._records)}")
            if index not in self._made:
                raise ModelError(
                    f"{where} reads tensor {index}, which no node before it makes: "
                    "the nodes are in a wrong order or form a cycle"
                )
        return [self._made[index] for index in indices]

    def _output(self, record: NodeRecord, where: str) -> _Declared:
        indices = self._reader.vector(record.outputs, f"the list of outputs of {where}")
        if len(indices) != 1:
            raise ModelError(f"{where} has {len(indices)} outputs; expected 1")
        (index,) = indices
        if index >= len(self._records):
            raise ModelError(f"{where} makes tensor {index} of {len(self._records)}")
        if index in self._made:
            raise ModelError(f"{where} makes tensor {index}, which another node has made already")
        return self._declared(index)

    def _declared(self, index: int) -> _Declared:
        what = f"tensor {index}"
        record = TensorRecord(*self._reader.fields(TENSOR, self._records[index], what))
        name = self._reader.string(record.name, f"the name of {what}")
        if name in self._names:
            raise ModelError(f"two tensors are named '{name}'")
        self._names.add(name)
        if record.dtype not in DTYPES:
            raise ModelError(
                f"tensor '{name}' has data type {record.dtype}; "
                "expected 0 (fp32), 2 (int8), 3 (uint8) or 4 (int32)"
            )
        return _Declared(index, name, DTYPES[record.dtype], record)

    def _store(
        self, made: _Declared, shape: Shape, data: NDArray[np.generic] | None = None
    ) -> None:
        if data is None and made.dtype == INT32:
            raise ModelError(f"tensor '{made.name}' is int32, which only constants may be")
        quantization = self._quantization(made, channels=1 if data is None else shape[0])
        if quantization is None and made.dtype in NEED_SCALE:
            raise ModelError(f"tensor '{made.name}' is {made.dtype}, but has no scale")
        tensor = Tensor(made.name, shape, made.dtype, data, quantization)
        self.tensors[made.name] = self._made[made.position] = tensor

    def _dims(self, made: _Declared) -> Shape:
        what = f"the shape of tensor '{made.name}'"
        shape = self._reader.integers(made.record.dims, what)
        if not shape or min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
            raise ModelError(f"{what} is {shape}; expected 1 to {MAX_ELEMENTS} values in all")
        return shape

    def _data(self, made: _Declared, shape: Shape) -> NDArray[np.generic]:
        name, buffer = made.name, made.record.buffer
        if made.record.role != CONST_ROLE:
            raise ModelError(
                f"constant '{name}' is of type {made.record.role}; expected {CONST_ROLE}"
            )
        if buffer >= len(self._buffers):
            raise ModelError(f"constant '{name}' is in buffer {buffer} of {len(self._buffers)}")
        what = f"the data of constant '{name}'"
        size, offset = self._reader.fields(BUFFER, self._buffers[buffer], what)
        needed = math.prod(shape) * made.dtype.itemsize
        if size < needed:
            raise ModelError(f"{what} has {size} bytes; {made.dtype} {shape} needs {needed}")
        raw = self._reader.take(offset, size, what)[:needed]
        return np.frombuffer(raw, made.dtype.newbyteorder("<")).astype(made.dtype).reshape(shape)

    def _quantization(self, made: _Declared, *, channels: int) -> Quantization | None:
        if made.dtype == FLOAT32 or made.record.quantization == 0:
            return None
        what = f"the quantisation of tensor '{made.name}'"
        offsets = self._reader.vector(made.record.quantization, what)
        if len(offsets) not in (1, channels):
            raise ModelError(f"{what} has {len(offsets)} scales; expected 1 or {channels}")
        params = [self._reader.fields(QUANT_PARAM, offset, what) for offset in offsets]
        zero_points, scales = zip(*params)
        if made.dtype == INT32 and scales == (0.0,):
            return None  # the quantiser's mark on shapes, which are no quantities
        check_scales(what, made.dtype, zero_points, scales)
        return Quantization(np.array(scales, np.float32), np.array(zero_points, np.int32))


class _Param(NamedTuple):
    """Where an operator's parameters are, and whose they are."""

    reader: _Reader
    offset: int
    node: str

    @property
    def what(self) -> str:
        return f"the parameter of node '{self.node}'"

    def fields(self, layout: struct.Struct) -> tuple[Any, ...]:
        return self.reader.fields(layout, self.offset, self.what)


def _add(param: _Param, _inputs: list[Tensor]) -> Add:
    (kind,) = param.fields(ELTWISE)
    if kind != SUM:
        found = f"{kind} ({_ELTWISE_NAMES.get(kind, 'unknown')})"
        raise ModelError(f"Eltwise '{param.node}' is of type {found}; expected {SUM} (SUM)")
    return Add()


def _concat(param: _Param, inputs: list[Tensor]) -> Concat:
    (axis,) = param.fields(AXIS)
    return Concat(_from_start(axis, inputs))


def _convolution(param: _Param, inputs: list[Tensor]) -> Conv:
    where = f"Convolution '{param.node}'"
    numbers = param.fields(CONVOLUTION)
    kernel, stride, dilation = numbers[:2], numbers[2:4], numbers[4:6]
    channels, groups, activation = numbers[7:10]  # Tengine's loader recomputes input_channel, too
    pads = numbers[10:]
    check_operands(where, inputs)
    _check_kernel(where, (channels, *kernel), inputs[1])
    if activation not in ACTIVATIONS:
        raise ModelError(
            f"{where} has activation {activation}; expected -1 (none), 0 (ReLU) or 6 (ReLU6)"
        )
    if min(pads) < 0:
        raise ModelError(
            f"{where} has pads {pads}; expected numbers from 0 "
            "(-1 and -2 stand for SAME): convert the network with explicit pads"
        )
    return Conv(stride, dilation, pads, groups, ACTIVATIONS[activation])


def _check_kernel(where: str, expected: Shape, weight: Tensor) -> None:
    """The parameter's output channels and kernel size against the weight's."""
    if (weight.shape[0], *weight.shape[2:]) != expected:
        raise ModelError(
            f"{where} declares channels and kernel {expected}; "
            f"its weight '{weight.name}' is {weight.shape}"
        )


def _permute(param: _Param, _inputs: list[Tensor]) -> Transpose:
    flag, *order = param.fields(PERMUTE)
    if flag != 0:
        raise ModelError(f"Permute '{param.node}' has flag {flag}; expected 0")
    return Transpose(tuple(order))


def _pooling(param: _Param, inputs: list[Tensor]) -> MaxPool:
    where = f"Pooling '{param.node}'"
    alg, *numbers = param.fields(POOLING)
    kernel, stride, pads = tuple(numbers[:2]), tuple(numbers[2:4]), numbers[6:8]
    is_global, flavour = numbers[4], numbers[5] & ~_COUNT_PADDING
    if alg != MAXIMUM:
        raise ModelError(f"{where} is of type {alg} (1 is AVG); expected {MAXIMUM} (MAX)")
    if len(inputs[0].shape) != 4:
        raise ModelError(f"{where} reads '{inputs[0].name}' of shape {inputs[0].shape}")
    if is_global:
        return MaxPool((inputs[0].shape[2], inputs[0].shape[3]))
    if flavour not in list(Flavour) or min(pads) < 0:
        raise ModelError(
            f"{where} has caffe_flavor {flavour} and pads {pads}; expected 0, 1 or 2 and numbers from 0"
        )
    ends = list(pads)
    if flavour == Flavour.CEIL:
        ends = [pad + step - 1 for pad, step in zip(pads, stride)]
    if flavour == Flavour.HALVES:
        pads, ends = [pad // 2 for pad in pads], [pad - pad // 2 for pad in pads]
    return MaxPool((kernel[0], kernel[1]), (stride[0], stride[1]), (*pads, *ends))


def _upsample(_param: _Param, inputs: list[Tensor]) -> Upsample:
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise ModelError(
            f"'{_param.node}' upsamples {[t.shape for t in inputs]}; expected one image"
        )
    return Upsample()


def _upsampled(kind: int, param: _Param, where: str, before: Shape) -> Shape:
    """The shape after an Upsample, of which only the size counts."""
    height, width = before[2:]
    if kind == Kind.UPSAMPLE:
        (scale,) = param.fields(UPSAMPLE)
        scales, sizes = (scale, scale), (0, 0)
    else:
        resize_type, *rest = param.fields(INTERP)
        if resize_type != NEAREST:
            raise ModelError(
                f"{where} has resize_type {resize_type} (2 is bilinear); expected 1 (nearest)"
            )
        scales, sizes = (rest[1], rest[0]), (rest[3], rest[2])
    if not all(0 <= scale <= MAX_SIDE for scale in scales):
        raise ModelError(f"{where} has scales {scales}; expected positive numbers")
    if 0 not in scales:
        sizes = (stretched(height, scales[0]), stretched(width, scales[1]))
    if not all(0 < size <= MAX_SIDE for size in sizes):
        raise ModelError(f"{where} makes {sizes} of {(height, width)}")
    if 0 in scales:
        scales = (sizes[0] / height, sizes[1] / width)
    for size, made, scale in zip((height, width), sizes, scales):
        if not takes_nearest(size, made, scale):
            raise ModelError(
                f"{where} makes {made} pixels of {size} by a scale of {scale}, which takes others "
                "than the nearest"
            )
    return (1, 1, *sizes)


def _relu(param: _Param, _inputs: list[Tensor]) -> Relu | LeakyRelu:
    (slope,) = param.fields(SLOPE)
    return leaky_relu(slope)


def _sigmoid(_param: _Param, _inputs: list[Tensor]) -> Sigmoid:
    return Sigmoid()


def _reshape(param: _Param, inputs: list[Tensor]) -> Reshape:
    _, reverse, offset = param.fields(RESHAPE)
    if reverse != 0:
        raise ModelError(f"Reshape '{param.node}' has reverse {reverse}; expected 0")
    shape = param.reader.integers(offset, param.what)
    before = inputs[0].shape
    if 0 in shape[len(before) :]:
        raise ModelError(f"Reshape '{param.node}' to {shape} copies a dimension {before} lacks")
    return Reshape(tuple(size or before[axis] for axis, size in enumerate(shape)))


def _same_shape(_param: _Param, inputs: list[Tensor]) -> Reshape:
    """Dropout does nothing when a network is run."""
    return Reshape(inputs[0].shape)


def _softmax(param: _Param, inputs: list[Tensor]) -> Softmax:
    (axis,) = param.fields(AXIS)
    return Softmax(_from_start(axis, inputs))


def _transpose(param: _Param, inputs: list[Tensor]) -> Transpose:
    (offset,) = param.fields(TRANSPOSE)
    order = param.reader.integers(offset, param.what)
    return Transpose(tuple(_from_start(axis, inputs) for axis in order))


def _from_start(axis: int, inputs: list[Tensor]) -> int:
    """A negative axis counts from the end; infer_shape refuses what is still out of range."""
    return axis + len(inputs[0].shape) if axis < 0 else axis


_COUNT_PADDING = 0x10  # a bit of caffe_flavor that averages know


class _Operator(NamedTuple):
    name: str  # as Tengine spells it
    read: Callable[[_Param, list[Tensor]], Op]


_OPERATORS: dict[int, _Operator] = {
    Kind.CONCAT: _Operator("Concat", _concat),
    Kind.CONVOLUTION: _Operator("Convolution", _convolution),
    Kind.DROPOUT: _Operator("Dropout", _same_shape),
    Kind.ELTWISE: _Operator("Eltwise", _add),
    Kind.INTERP: _Operator("Interp", _upsample),
    Kind.PERMUTE: _Operator("Permute", _permute),
    Kind.POOLING: _Operator("Pooling", _pooling),
    Kind.RELU: _Operator("ReLu", _relu),
    Kind.RESHAPE: _Operator("Reshape", _reshape),
    Kind.SIGMOID: _Operator("Sigmoid", _sigmoid),
    Kind.SOFTMAX: _Operator("Softmax", _softmax),
    Kind.TRANSPOSE: _Operator("Transpose", _transpose),
    Kind.UPSAMPLE: _Operator("Upsample", _upsample),
}
_REFUSED = {
    10: "Flatten",
    11: "FullyConnected",
    21: "ReLu6",
    27: "Slice",
    31: "Gemm",
    59: "Unary",
}


def _operator(kind: int, node: str) -> _Operator:
    if kind not in _OPERATORS:
        known = ", ".join(operator.name for operator in _OPERATORS.values())
        raise ModelError(
            f"node '{node}' is operator {kind} ({_REFUSED.get(kind, 'unknown')}); "
            f"supported are {known}"
        )
    return _OPERATORS[kind]
