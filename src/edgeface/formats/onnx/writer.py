"""Graph -> ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

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
    Reshape,
    Softmax,
    Transpose,
    Upsample,
)
from .. import protobuf
from . import quantization
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

    from ...graph import Quantization, Tensor

    Array = NDArray[Any]

Attribute = Union[int, float, str, tuple[int, ...]]

# What onnxruntime 1.10, the oldest we run with, knows and newer ones still do.
WRITTEN_OPSET = 13
WRITTEN_IR = 8


def write(graph: Graph, metadata: Mapping[str, str] | None = None) -> bytes:
    """The graph as an ONNX file; the same graph and metadata give the same bytes.

    A quantised network is written in QDQ form. Its input and outputs are float32 and mean what the
    fp32 network's do: the file rounds the one and scales the others itself, so that preprocessing
    and decoding are the same. Its weights and biases are stored as they are.

    Saturation is ONNX's: at -128 for int8, where Tengine stops at -127.

    Raises:
        ModelError: A tensor or operator is not quantised as runtimes expect it; names it.
    """
    if graph.is_quantized:
        quantization.check(graph)
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
        self.bounds: dict[str, str] = {}  # names of the largest stored value of each type
        self.floats: dict[str, str] = {}  # names of dequantised constants, and of the input

    def proto(self) -> GraphProto:
        source = self.graph.tensors[self.graph.input]
        if source.quantization is not None:
            self.floats[source.name] = self.fresh(f"{source.name}/float")
            self.round(source, source.name, self.floats[source.name])
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
        made = self.graph.tensors[node.output]
        activation: str = getattr(node.op, "activation", "none")
        if made.quantization is None:
            self.compute(node, node.output, activation)
            return
        clips = activation == "relu" and not _starts_at_zero(made)
        floats = self.fresh(f"{made.name}/unrounded")
        self.compute(node, floats, "none" if clips else activation)
        self.round(made, floats, made.name, clips=clips)

    def compute(self, node: Node, output: str, activation: str) -> None:
        """The operator on floats."""
        inputs = [self.read(self.graph.tensors[name]) for name in node.inputs]
        kind = node.kind
        if isinstance(node.op, Upsample):  # by its size: no version of ONNX knows "as large as"
            size = np.array(self.graph.tensors[node.output].shape, np.int64)
            kind, inputs = "Resize", [inputs[0], "", "", self.constant(f"{node.output}/size", size)]
        if isinstance(node.op, Reshape):
            inputs.append(self.constant(f"{node.output}/shape", np.array(node.op.shape, np.int64)))
        linear = output if activation == "none" else self.fresh(f"{node.output}/linear")
        attributes = [_attribute(*pair) for pair in self.attributes(node)]
        self.nodes.append(NodeProto(inputs, [linear], node.name, kind, attributes))
        if activation != "none":
            self.activate(activation, linear, node, output)

    def read(self, tensor: Tensor) -> str:
        """The name under which an operator finds the tensor's floats."""
        if tensor.data is not None and tensor.name not in self.constants:
            self.constants[tensor.name] = _tensor_proto(tensor.name, tensor.data)
            if tensor.quantization is not None:
                self.floats[tensor.name] = self.fresh(f"{tensor.name}/float")
                parameters = self.parameters(tensor, tensor.quantization)
                self.dequantize(tensor, [tensor.name, *parameters], self.floats[tensor.name])
        return self.floats.get(tensor.name, tensor.name)

    def round(self, tensor: Tensor, floats: str, output: str, *, clips: bool = False) -> None:
        """From floats to floats that the tensor can store.

        Relu clips stored values, unless they start at zero anyway: onnxruntime computes in integers only
        where rounding comes right after the operator, and drops a Relu between only when it changes nothing.
        """
        assert tensor.quantization is not None
        parameters = self.parameters(tensor, tensor.quantization)
        stored = self.fresh(f"{tensor.name}/stored")
        inputs = [floats, *parameters]
        self.nodes.append(NodeProto(inputs, [stored], op_type="QuantizeLinear"))
        if clips:
            limits = [parameters[1], self.largest(tensor.dtype)]
            unclipped, stored = stored, self.fresh(f"{tensor.name}/clipped")
            self.nodes.append(NodeProto([unclipped, *limits], [stored], op_type="Clip"))
        self.dequantize(tensor, [stored, *parameters], output)

    def dequantize(self, tensor: Tensor, inputs: list[str], output: str) -> None:
        assert tensor.quantization is not None
        many = tensor.quantization.scale.size > 1
        attributes = [_attribute("axis", 0)] if many else []
        # Without a name, as all of these: onnxruntime refuses one that another node has.
        node = NodeProto(inputs, [output], op_type="DequantizeLinear", attribute=attributes)
        self.nodes.append(node)

    def parameters(self, tensor: Tensor, given: Quantization) -> list[str]:
        """The names of scale and zero point: single numbers, or one for each channel."""
        shape = given.scale.shape if given.scale.size > 1 else ()
        zero_point = given.zero_point.astype(tensor.dtype).reshape(shape)
        scale = self.constant(f"{tensor.name}/scale", given.scale.reshape(shape))
        return [scale, self.constant(f"{tensor.name}/zero_point", zero_point)]

    def largest(self, dtype: np.dtype[Any]) -> str:
        name = dtype.name
        if name not in self.bounds:
            bound = np.array(quantization.LIMITS[name][1], dtype)
            self.bounds[name] = self.constant(f"{name}/max", bound)
        return self.bounds[name]

    def activate(self, activation: str, linear: str, node: Node, output: str) -> None:
        kind, inputs, attributes = "Relu", [linear], []
        if activation == "leaky_relu":
            assert isinstance(node.op, (Conv, Add))
            kind, attributes = "LeakyRelu", [_attribute("alpha", node.op.slope)]
        if activation == "relu6":
            if not self.limits:
                bounds = {"relu6/min": np.float32(0), "relu6/max": np.float32(6)}
                self.limits = [self.constant(name, np.array(v)) for name, v in bounds.items()]
            kind, inputs = "Clip", [linear, *self.limits]
        name = f"{node.name}/{activation}"
        self.nodes.append(NodeProto(inputs, [output], name, kind, attributes))

    def attributes(self, node: Node) -> list[tuple[str, Attribute]]:
        """Sorted by name."""
        op = node.op
        if isinstance(op, LeakyRelu):
            return [("alpha", op.slope)]
        if isinstance(op, Upsample):
            asymmetric = ("coordinate_transformation_mode", "asymmetric")
            return [asymmetric, ("mode", "nearest"), ("nearest_mode", "floor")]
        if isinstance(op, MaxPool):
            return [("kernel_shape", op.kernel), ("pads", op.pads), ("strides", op.stride)]
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


def _starts_at_zero(tensor: Tensor) -> bool:
    """Whether the least stored value is 0."""
    assert tensor.quantization is not None
    least, _ = quantization.LIMITS[tensor.dtype.name]
    return bool(tensor.quantization.zero_point[0] == least)


def _tensor_proto(name: str, values: Array) -> TensorProto:
    number = {dtype: number for number, dtype in DTYPES.items()}.get(values.dtype.newbyteorder("<"))
    if number is None:
        raise ModelError(f"constant '{name}' is of type {values.dtype}, which is not written yet")
    raw = values.astype(DTYPES[number], copy=False).tobytes()
    return TensorProto(dims=list(values.shape), data_type=number, name=name, raw_data=raw)


def _attribute(name: str, value: Attribute) -> AttributeProto:
    if isinstance(value, int):
        return AttributeProto(name, i=value, type=ATTRIBUTE_TYPES["i"])
    if isinstance(value, float):
        return AttributeProto(name, f=value, type=ATTRIBUTE_TYPES["f"])
    if isinstance(value, str):
        return AttributeProto(name, s=value.encode(), type=ATTRIBUTE_TYPES["s"])
    return AttributeProto(name, ints=list(value), type=ATTRIBUTE_TYPES["ints"])
