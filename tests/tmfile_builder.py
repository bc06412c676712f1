"""Builds small tmfiles from a description, as Tengine 1.5 writes them, and damages any field of one.

Written from the description of the format, without the reader. Every field that is written gets a
label such as "node:conv.operator", under which a test can overwrite it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

FP32, FP16, INT8, UINT8, INT32 = range(5)
CODES = {"float32": FP32, "float16": FP16, "int8": INT8, "uint8": UINT8, "int32": INT32}
VAR, CONST, INPUT = 1, 2, 3
CONCAT, CONST_OP, CONVOLUTION, DROPOUT, ELTWISE, INPUT_OP = 3, 4, 5, 8, 9, 12
PERMUTE, RELU, RESHAPE, SOFTMAX, TRANSPOSE = 15, 20, 23, 28, 77
POOLING, SIGMOID, UPSAMPLE, INTERP = 16, 37, 51, 71
RUBBISH = 0x6565  # what Tengine leaves in fields that it does not set


@dataclass(frozen=True)
class Built:
    """A file and where its fields are."""

    data: bytes
    at: dict[str, int]

    def patched(self, label: str, value: float | bytes) -> bytes:
        if isinstance(value, float):
            value = struct.pack("<f", value)
        elif isinstance(value, int):
            value = struct.pack("<I", value & 0xFFFFFFFF)
        start = self.at[label]
        return self.data[:start] + value + self.data[start + len(value) :]

    def value(self, label: str) -> int:
        return struct.unpack_from("<I", self.data, self.at[label])[0]


@dataclass
class Tensor:
    name: str
    dims: tuple[int, ...]
    dtype: int
    role: int
    quant: list[tuple[float, int]]
    data: bytes | None = None


@dataclass
class Node:
    name: str
    kind: int
    inputs: list[int]
    output: int
    param: list[int | float | list[int]] | None = None


@dataclass
class FileBuilder:
    """Nodes in the order of the calls; each call returns the index of the tensor that it makes."""

    dtype: int = FP32  # of computed values
    quant: list[tuple[float, int]] = field(default_factory=list)  # (scale, zero point), the same
    subgraph_size: int = 40
    reshape_size: int = 16
    eltwise_size: int = 20
    tensors: list[Tensor] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def const(self, name, array, quant=()):
        array = np.asarray(array)
        dtype = CODES[array.dtype.name]
        tensor = Tensor(name, array.shape, dtype, CONST, list(quant), array.tobytes())
        return self._node(name, CONST_OP, [], tensor)

    def input(self, name="input", dims=(1, 3, 6, 8)):
        return self._node(name, INPUT_OP, [], Tensor(name, dims, self.dtype, INPUT, self.quant))

    def op(self, kind, name, inputs, param=None, quant=None):
        # Shapes of computed values are stale in files, so none is right here.
        quant = self.quant if quant is None else quant
        return self._node(name, kind, inputs, Tensor(name, (1,), self.dtype, VAR, quant), param)

    def conv(self, name, inputs, *, stride=1, dilation=1, group=1, activation=-1, pads=(0,) * 4):
        weight = self.tensors[inputs[1]].dims
        sizes = [*weight[2:], stride, stride, dilation, dilation]
        param = [*sizes, RUBBISH, weight[0], group, activation, *pads]
        return self.op(CONVOLUTION, name, inputs, param)

    def add(self, name, inputs, kind=2):
        param = [kind, RUBBISH, -1.08e28, RUBBISH, float("nan")][: self.eltwise_size // 4]
        return self.op(ELTWISE, name, inputs, param)

    def reshape(self, name, inputs, shape):
        return self.op(RESHAPE, name, inputs, [0, 0, list(shape), 1][: self.reshape_size // 4])

    def build(self, *outputs, inputs=None):
        """The file whose outputs are these tensors; inputs are nodes, unless told the InputOps."""
        if inputs is None:
            inputs = [i for i, node in enumerate(self.nodes) if node.kind == INPUT_OP]
        makers = {node.output: i for i, node in enumerate(self.nodes)}
        return _Writer().file(self, inputs, [makers[output] for output in outputs])

    def _node(self, name, kind, inputs, tensor, param=None):
        self.tensors.append(tensor)
        self.nodes.append(Node(name, kind, list(inputs), len(self.tensors) - 1, param))
        return len(self.tensors) - 1


class _Writer:
    """Appends objects, each 4-aligned and after those it points to, as Tengine's own writer does."""

    def __init__(self):
        self.out = bytearray()
        self.at: dict[str, int] = {}

    def file(self, net, inputs, outputs):
        self.words("header", version=2, sizes=0x4000 << 16, model=0)
        nodes = [self.node(node) for node in net.nodes]
        listed = self.vector("nodes", nodes)
        tensors, buffers = [], []
        for tensor in net.tensors:
            tensors.append(self.tensor(tensor, len(buffers)))
            if tensor.data is not None:
                buffers.append(self.buffer(tensor))
        vectors = [self.vector("tensors", tensors), self.vector("buffers", buffers)]
        ends = [self.vector("inputs", inputs), self.vector("outputs", outputs)]
        fields = {"id": 0, "graph_layout": 0, "model_layout": 0, "inputs": ends[0]}
        fields |= {"outputs": ends[1], "nodes": listed, "tensors": vectors[0]}
        fields |= {"buffers": vectors[1], "name": 0}
        if net.subgraph_size == 40:
            fields["sub_info"] = RUBBISH
        subgraph = self.words("subgraph", **fields)
        subgraphs = self.vector("subgraphs", [subgraph])
        model = self.words("model", orig_format=3, sub_format=0, subgraphs=subgraphs, name=0)
        struct.pack_into("<I", self.out, self.at["header.model"], model)
        return Built(bytes(self.out), self.at)

    def node(self, node):
        label = f"node:{node.name}"
        name = self.string(f"{label}.name", node.name)
        inputs = self.vector(f"{label}.inputs", node.inputs) if node.inputs else 0
        outputs = self.vector(f"{label}.outputs", [node.output])
        param = 0 if node.param is None else self.param(f"{label}.param", node.param)
        operator = self.words(f"{label}.operator", version=1, type=node.kind, param=param)
        fields = {"id": 0, "inputs": inputs, "outputs": outputs, "operator": operator}
        return self.words(label, **fields, name=name, attrs=0, dynamic_shape=0)

    def param(self, label, values):
        lists = {i: v for i, v in enumerate(values) if isinstance(v, list)}
        offsets = {i: self.vector(f"{label}.{i}.vector", v) for i, v in lists.items()}
        return self.words(label, **{str(i): offsets.get(i, v) for i, v in enumerate(values)})

    def tensor(self, tensor, buffer):
        label = f"tensor:{tensor.name}"
        name = self.string(f"{label}.name", tensor.name)
        dims = self.vector(f"{label}.dims", tensor.dims)
        quant = 0
        if tensor.quant:
            params = [
                self.words(f"{label}.quant{i}", zero_point=zero, scale=float(scale), width=RUBBISH)
                for i, (scale, zero) in enumerate(tensor.quant)
            ]
            quant = self.vector(f"{label}.quant", params)
        fields = {"id": 0, "buffer": buffer if tensor.role == CONST else 0x6F, "dims": dims}
        fields |= {"name": name, "quant": quant, "layout": 0, "role": tensor.role}
        return self.words(label, **fields, dtype=tensor.dtype)

    def buffer(self, tensor):
        start = self.raw(f"data:{tensor.name}", tensor.data)
        return self.words(f"buffer:{tensor.name}", size=len(tensor.data), data=start)

    def string(self, label, text):
        characters = text.encode() + b"\0"
        start = self.raw(f"{label}.characters", characters)
        return self.words(f"{label}.string", size=len(characters), start=start)

    def vector(self, label, values):
        return self.words(label, count=len(values), **{str(i): v for i, v in enumerate(values)})

    def words(self, label, **values):
        self.out += b"\0" * (-len(self.out) % 4)
        start = len(self.out)
        for name, value in values.items():
            self.at[f"{label}.{name}"] = len(self.out)
            integer = not isinstance(value, float)
            self.out += (
                struct.pack("<I", value & 0xFFFFFFFF) if integer else struct.pack("<f", value)
            )
        return start

    def raw(self, label, data):
        self.at[label] = len(self.out)
        self.out += data
        return self.at[label]


PARAM_WORDS = {
    CONCAT: 1,
    CONVOLUTION: 14,
    ELTWISE: 5,
    RELU: 1,
    POOLING: 11,
    INTERP: 5,
    RESHAPE: 4,
    SOFTMAX: 1,
    TRANSPOSE: 1,
}


class Walker:
    """Follows every offset of a file as the description of the format tells, without the reader.

    spans are the bytes (start, end) of the objects, unset the values of fields without a meaning,
    tensors (name, shape, words of their QuantParams, role, type).
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.spans: set[tuple[int, int]] = set()
        self.unset: list[int] = []
        self.names: list[str] = []
        self.tensors: list[tuple[str, tuple[int, ...], list[tuple[int, ...]], int, int]] = []
        version, zero, model = self.words(0, 3)
        self.unset += [version >> 16, zero]
        _, sub_format, subgraphs, name = self.words(model, 4)
        self.unset += [sub_format, name]
        (subgraph,) = self.vector(subgraphs)
        *ids, inputs, outputs, nodes, tensors, buffers, name, info = self.words(subgraph, 10)
        self.unset += [*ids, name, info]
        self.vector(inputs)
        self.vector(outputs)
        for node in self.vector(nodes):
            self.node(node)
        for tensor in self.vector(tensors):
            self.tensor(tensor)
        for buffer in self.vector(buffers) if buffers else ():
            size, start = self.words(buffer, 2)
            self.spans.add((start, start + size))

    def gaps(self) -> list[bytes]:
        """What no object covers."""
        gaps, end = [], 0
        for start, stop in sorted(self.spans):
            if start > end:
                gaps.append(self.data[end:start])
            end = max(end, stop)
        return [*gaps, self.data[end:]]

    def node(self, start: int) -> None:
        _, inputs, outputs, operator, name, attrs, dynamic = self.words(start, 7)
        self.unset += [attrs, dynamic]
        self.names.append(self.string(name))
        for vector in filter(None, (inputs, outputs)):
            self.vector(vector)
        _, kind, param = self.words(operator, 3)
        if not param:
            return
        assert param + 4 * PARAM_WORDS[kind] == operator  # tells readers the parameter's size
        values = self.words(param, PARAM_WORDS[kind])
        if kind == RESHAPE:
            self.vector(values[2])
        elif kind == TRANSPOSE:
            self.vector(values[0])
        elif kind == ELTWISE:
            self.unset += values[1:]

    def tensor(self, start: int) -> None:
        _, _, dims, name, quant, layout, role, dtype = self.words(start, 8)
        pairs = [self.words(param, 3) for param in (self.vector(quant) if quant else ())]
        self.unset += [layout, *(width for _, _, width in pairs)]
        self.names.append(self.string(name))
        self.tensors.append((self.names[-1], self.vector(dims), pairs, role, dtype))

    def string(self, start: int) -> str:
        size, characters = self.words(start, 2)
        self.spans.add((characters, characters + size))
        return self.data[characters : characters + size - 1].decode()

    def vector(self, start: int) -> tuple[int, ...]:
        (count,) = self.words(start, 1)
        return self.words(start, 1 + count)[1:]

    def words(self, start: int, count: int) -> tuple[int, ...]:
        assert start % 4 == 0
        self.spans.add((start, start + 4 * count))
        return struct.unpack_from(f"<{count}I", self.data, start)
