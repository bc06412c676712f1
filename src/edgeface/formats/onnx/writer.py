"""Graph -> ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ModelError
from ...graph import Concat, Conv, Graph, Node, Reshape, Softmax, Transpose
from .. import protobuf
from .records import (
    ATTRIBUTE_TYPES,
    DTYPES,
    FLOAT,
    AttributeProto,
    DimensionProto,
    EntryProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetProto,
    ShapeProto,
    TensorProto,
    TensorTypeProto,
    TypeProto,
    ValueInfoProto,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Array = NDArray[Any]

# What onnxruntime 1.10, the oldest we run with, knows and newer ones still do.
WRITTEN_OPSET = 13
WRITTEN_IR = 8


def write(graph: Graph, metadata: Mapping[str, str] | None = None) -> bytes:
    """The graph as an ONNX file; the same graph and metadata give the same bytes."""
    if graph.is_quantized:
        raise ModelError("a quantised network cannot be written as ONNX yet")
    model = ModelProto(
        ir_version=WRITTEN_IR,
        producer_name="edgeface",
        graph=_Export(graph).proto(),
        opset_import=[OperatorSetProto(version=WRITTEN_OPSET)],
        metadata_props=[EntryProto(key, value) for key, value in sorted((metadata or {}).items())],
    )
    return protobuf.encode(model)


class _Export:
    """A graph on its way into a file: activations become nodes, shapes become constants."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.taken = set(graph.tensors)
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.limits: list[str] = []  # names of ReLU6's two

    def proto(self) -> GraphProto:
        for node in self.graph.nodes:
            self.add(node)
        return GraphProto(
            node=self.nodes,
            name="network",
            initializer=list(self.constants.values()),
            input=[self.value(self.graph.input)],
            output=[self.value(name) for name in self.graph.outputs],
        )

    def value(self, name: str) -> ValueInfoProto:
        dims = [DimensionProto(size) for size in self.graph.tensors[name].shape]
        return ValueInfoProto(name, TypeProto(TensorTypeProto(FLOAT, ShapeProto(dims))))

    def add(self, node: Node) -> None:
        for name in node.inputs:
            values = self.graph.tensors[name].data
            if values is not None and name not in self.constants:
                self.constants[name] = _tensor_proto(name, values)
        inputs = list(node.inputs)
        if isinstance(node.op, Reshape):
            inputs.append(self.constant(f"{node.output}/shape", np.array(node.op.shape, np.int64)))
        activation = getattr(node.op, "activation", "none")
        linear = node.output if activation == "none" else self.fresh(f"{node.output}/linear")
        attributes = [_attribute(*pair) for pair in self.attributes(node)]
        self.nodes.append(NodeProto(inputs, [linear], node.name, node.kind, attributes))
        if activation != "none":
            self.activate(activation, linear, node)

    def activate(self, activation: str, linear: str, node: Node) -> None:
        kind, inputs = "Relu", [linear]
        if activation == "relu6":
            if not self.limits:
                bounds = {"relu6/min": np.float32(0), "relu6/max": np.float32(6)}
                self.limits = [self.constant(name, np.array(v)) for name, v in bounds.items()]
            kind, inputs = "Clip", [linear, *self.limits]
        self.nodes.append(NodeProto(inputs, [node.output], f"{node.name}/{activation}", kind))

    def attributes(self, node: Node) -> list[tuple[str, int | tuple[int, ...]]]:
        """Sorted by name."""
        op = node.op
        if isinstance(op, (Concat, Softmax)):
            return [("axis", op.axis)]
        if isinstance(op, Transpose):
            return [("perm", op.order)]
        if not isinstance(op, Conv):
            return []
        return [
            ("dilations", op.dilation),
            ("group", op.groups),
            ("kernel_shape", self.graph.tensors[node.inputs[1]].shape[2:]),
            ("pads", op.pads),
            ("strides", op.stride),
        ]

    def constant(self, name: str, values: Array) -> str:
        name = self.fresh(name)
        self.constants[name] = _tensor_proto(name, values)
        return name

    def fresh(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name


def _tensor_proto(name: str, values: Array) -> TensorProto:
    number = {dtype: number for number, dtype in DTYPES.items()}.get(values.dtype.newbyteorder("<"))
    if number is None:
        raise ModelError(f"constant '{name}' is of type {values.dtype}, which is not written yet")
    raw = values.astype(DTYPES[number], copy=False).tobytes()
    return TensorProto(dims=list(values.shape), data_type=number, name=name, raw_data=raw)


def _attribute(name: str, value: int | tuple[int, ...]) -> AttributeProto:
    if isinstance(value, int):
        return AttributeProto(name, i=value, type=ATTRIBUTE_TYPES["i"])
    return AttributeProto(name, ints=list(value), type=ATTRIBUTE_TYPES["ints"])
