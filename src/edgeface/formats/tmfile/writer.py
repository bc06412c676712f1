"""Graph -> tmfile v2, as stock Tengine 1.5 loads it.

Small, because these files go on small boards: names, shapes, parameters and scales that are the
same are stored once, and what Tengine computes by itself (a bias's scales) is left out.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ModelError
from ...graph import (
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
    pruned,
    with_slopes_apart,
)
from .limits import check
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
    INPUT_ROLE,
    INT8,
    INTERP,
    MAXIMUM,
    MODEL,
    NEAREST,
    NODE,
    OPERATOR,
    POOLING,
    QUANT_PARAM,
    RESHAPE,
    SLOPE,
    STRING,
    SUBGRAPH,
    SUM,
    TENSOR,
    TRANSPOSE,
    VARIABLE_ROLE,
    VERSION,
    Kind,
    NodeRecord,
    SubgraphRecord,
    TensorRecord,
)
from .rules import bias_units, equal, fused, pool_padding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MAX_BYTES = (1 << 31) - 1  # Tengine keeps a file's length in an int
_ORIGIN = 1  # Tengine itself, as its own quantiser says; the others are foreign formats
_OPERATOR_VERSION = 1

_KINDS = {
    Conv: Kind.CONVOLUTION,
    Relu: Kind.RELU,
    LeakyRelu: Kind.RELU,
    Sigmoid: Kind.SIGMOID,
    MaxPool: Kind.POOLING,
    Upsample: Kind.INTERP,
    Add: Kind.ELTWISE,
    Concat: Kind.CONCAT,
    Softmax: Kind.SOFTMAX,
    Transpose: Kind.TRANSPOSE,
    Reshape: Kind.RESHAPE,
}
_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
_ACTIVATION_NUMBERS = {name: number for number, name in ACTIVATIONS.items()}


def write(graph: Graph) -> bytes:
    """The network as a tmfile that stock Tengine loads; the same graph gives the same bytes.

    Only what the outputs need is written. A graph that was read comes back as it was,
    but for an int8 weight's single scale, which becomes one for each channel.

    Raises:
        ModelError: The format cannot hold the network, or stock Tengine would run it wrong.
    """
    needed = pruned(list(graph.nodes), graph.tensors, graph.input, graph.outputs)
    merged = fused(needed)
    # Tengine rounds before a slope, if at all: limits.py refuses a network that was rounded behind it alone.
    apart = merged if merged.is_quantized else with_slopes_apart(merged)
    stored = _with_stored_scales(_with_relu_nodes(apart))
    check(stored)
    return _File(stored).content()


def _with_relu_nodes(graph: Graph) -> Graph:
    """Eltwise has no activation: a Relu of its own follows a sum, in the scale of the result."""
    nodes: list[Node] = []
    tensors = dict(graph.tensors)
    for node in graph.nodes:
        if node.op != Add("relu"):
            nodes.append(node)
            continue
        name = f"{node.output}/sum"
        while name in tensors:
            name += "_"
        tensors[name] = dataclasses.replace(tensors[node.output], name=name)
        nodes.append(dataclasses.replace(node, op=Add(), output=name))
        nodes.append(Node(Relu(), f"{node.name or node.output}/relu", (name,), node.output))
    return dataclasses.replace(graph, nodes=tuple(nodes), tensors=tensors)


def _with_stored_scales(graph: Graph) -> Graph:
    """Scales as Tengine wants them: one for each channel of an int8 weight, none for a bias.

    A bias's own stay where they are not the product, however little they differ.
    """
    tensors, differing = dict(graph.tensors), set()
    for node in graph.nodes:
        if not isinstance(node.op, Conv):
            continue
        data, weight = (graph.tensors[name] for name in node.inputs[:2])
        tensors[node.inputs[1]] = _per_channel(weight)
        for name in node.inputs[2:]:
            if equal(graph.tensors[name].quantization, bias_units(data, weight)):
                tensors[name] = dataclasses.replace(graph.tensors[name], quantization=None)
            else:
                differing.add(name)
    tensors.update((name, graph.tensors[name]) for name in differing)
    return dataclasses.replace(graph, tensors=tensors)


def _per_channel(weight: Tensor) -> Tensor:
    pairs = weight.quantization
    if weight.dtype != INT8 or pairs is None or pairs.scale.size != 1:
        return weight
    channels = weight.shape[0]
    repeated = Quantization(np.repeat(pairs.scale, channels), np.repeat(pairs.zero_point, channels))
    return dataclasses.replace(weight, quantization=repeated)


class _Output:
    """Bytes so far. Objects are 4-aligned, what lies between is zero."""

    def __init__(self) -> None:
        self.data = bytearray(HEADER.size)
        self._shared: dict[bytes, int] = {}
        self._texts: dict[str, int] = {}

    def append(self, content: bytes) -> int:
        """Where the content was put."""
        self.data += bytes(-len(self.data) % 4)
        start = len(self.data)
        self.data += content
        return start

    def share(self, content: bytes) -> int:
        """Where the content is; equal contents are put there once."""
        if content not in self._shared:
            self._shared[content] = self.append(content)
        return self._shared[content]

    def text(self, text: str) -> int:
        if text not in self._texts:
            self._texts[text] = self.own_text(text)
        return self._texts[text]

    def own_text(self, text: str) -> int:
        characters = text.encode() + b"\0"
        return self.append(STRING.pack(len(characters), self.append(characters)))

    def vector(self, entries: Sequence[int]) -> int:
        return self.append(_vector(entries))

    def shared_vector(self, entries: Sequence[int]) -> int:
        return self.share(_vector(entries))


def _vector(entries: Sequence[int]) -> bytes:
    words = [entry & 0xFFFFFFFF for entry in entries]  # -1, too
    return COUNT.pack(len(words)) + struct.pack(f"<{len(words)}I", *words)


class _File:
    """A graph on its way into a file: every tensor has one node that makes it, at its own index."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._makers = {node.output: node for node in graph.nodes}
        constants = _constants(graph)
        self._buffers = {name: index for index, name in enumerate(constants)}
        self._order = [*constants, graph.input, *self._makers]
        self._index = {name: index for index, name in enumerate(self._order)}
        self._operators: dict[tuple[Kind, bytes], int] = {}
        self._out = _Output()

    def content(self) -> bytes:
        out = self._out
        nodes = out.vector([self._node(name) for name in self._order])
        tensors = out.vector([self._tensor(name) for name in self._order])
        buffers = out.vector([self._buffer(name) for name in self._buffers]) if self._buffers else 0
        inputs = self._indices([self._graph.input])
        outputs = self._indices(self._graph.outputs)
        record = SubgraphRecord(0, 0, inputs, outputs, nodes, tensors, buffers)
        subgraph = out.append(SUBGRAPH.pack(*record) + bytes(4))  # sub_info: none
        model = out.append(MODEL.pack(_ORIGIN, out.vector([subgraph])))
        HEADER.pack_into(out.data, 0, VERSION, model)
        if len(out.data) > _MAX_BYTES:
            raise ModelError(f"the file would have {len(out.data)} bytes; at most {_MAX_BYTES}")
        return bytes(out.data)

    def _indices(self, names: Iterable[str]) -> int:
        return self._out.shared_vector([self._index[name] for name in names])

    def _node(self, name: str) -> int:
        out, index = self._out, self._index[name]
        node = self._makers.get(name)
        if node is None:
            kind = Kind.INPUT if name == self._graph.input else Kind.CONST
            operator, inputs, text = self._operator(kind), 0, out.text(name)
        else:
            operator = self._operator(_KINDS[type(node.op)], self._param(node))
            # Not shared: to read what many nodes share must not cost much more than the file's size.
            # Nor has a file a name for what an upsampling is made as large as.
            reads = node.inputs[:1] if isinstance(node.op, Upsample) else node.inputs
            inputs = out.vector([self._index[read] for read in reads])
            text = out.text(name) if node.name in ("", name) else out.own_text(node.name)
        return out.append(
            NODE.pack(*NodeRecord(index, inputs, self._indices([name]), operator, text))
        )

    def _operator(self, kind: Kind, param: bytes = b"") -> int:
        """The parameter lies right before its operator, so that the offsets tell its size."""
        if (kind, param) not in self._operators:
            start = self._out.append(param) if param else 0
            record = OPERATOR.pack(_OPERATOR_VERSION, kind, start)
            self._operators[kind, param] = self._out.append(record)
        return self._operators[kind, param]

    def _param(self, node: Node) -> bytes:
        op = node.op
        if isinstance(op, Conv):
            return self._convolution(op, node)
        if isinstance(op, (Concat, Softmax)):
            return AXIS.pack(op.axis)
        if isinstance(op, Transpose):
            return TRANSPOSE.pack(self._out.shared_vector(op.order))
        if isinstance(op, Reshape):
            is_onnx = (1).to_bytes(4, "little")
            return RESHAPE.pack(0, 0, self._out.shared_vector(op.shape)) + is_onnx
        if isinstance(op, Add):
            return ELTWISE.pack(SUM) + bytes(12)  # shift, power and scale of other types
        if isinstance(op, MaxPool):
            return self._pooling(op)
        if isinstance(op, Upsample):
            return self._interp(node)
        if isinstance(op, Sigmoid):
            return b""
        return SLOPE.pack(op.slope if isinstance(op, LeakyRelu) else 0.0)

    def _pooling(self, op: MaxPool) -> bytes:
        found = pool_padding(op)
        assert found is not None  # limits.py has checked
        flavour, pads = found
        return POOLING.pack(MAXIMUM, *op.kernel, *op.stride, 0, flavour, *pads, *pads)

    def _interp(self, node: Node) -> bytes:
        height, width = self._graph.tensors[node.output].shape[2:]
        in_height, in_width = self._graph.tensors[node.inputs[0]].shape[2:]
        return INTERP.pack(NEAREST, width / in_width, height / in_height, width, height)

    def _convolution(self, op: Conv, node: Node) -> bytes:
        out_channels, group_channels, *kernel = self._graph.tensors[node.inputs[1]].shape
        channels = (group_channels * op.groups, out_channels)
        activation = _ACTIVATION_NUMBERS[op.activation]
        sizes = (*kernel, *op.stride, *op.dilation)
        return CONVOLUTION.pack(*sizes, *channels, op.groups, activation, *op.pads)

    def _tensor(self, name: str) -> int:
        out, tensor = self._out, self._graph.tensors[name]
        role = CONST_ROLE if tensor.is_constant else VARIABLE_ROLE
        record = TensorRecord(
            position=self._index[name],
            buffer=self._buffers.get(name, 0),
            dims=out.shared_vector(tensor.shape),
            name=out.text(name),
            quantization=self._scales(tensor),
            role=INPUT_ROLE if name == self._graph.input else role,
            dtype=_NUMBERS[tensor.dtype],
        )
        return out.append(TENSOR.pack(*record))

    def _scales(self, tensor: Tensor) -> int:
        pairs = tensor.quantization
        if pairs is None:
            return 0
        both = zip(pairs.zero_point.tolist(), pairs.scale.tolist())
        params = [self._out.share(QUANT_PARAM.pack(*pair)) for pair in both]
        return self._out.shared_vector(params) if len(params) == 1 else self._out.vector(params)

    def _buffer(self, name: str) -> int:
        values = self._graph.tensors[name].data
        assert values is not None
        raw = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        return self._out.append(BUFFER.pack(len(raw), self._out.append(raw)))


def _constants(graph: Graph) -> list[str]:
    """In the order of their first use."""
    read = dict.fromkeys(name for node in graph.nodes for name in node.inputs)
    return [name for name in read if graph.tensors[name].is_constant]
