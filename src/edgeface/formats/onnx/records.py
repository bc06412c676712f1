"""The messages of onnx.proto that describe a network, with its field numbers."""

# ruff: noqa: RUF009  (the calls below declare fields, as dataclasses.field does)

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import protobuf

if TYPE_CHECKING:
    from numpy.typing import NDArray

# TensorProto.data_type of the tensors that networks here have, and TensorProto.data_location.
FLOAT, UINT8, INT8, INT32, INT64 = 1, 2, 3, 6, 7
DTYPES: dict[int, np.dtype[Any]] = {
    FLOAT: np.dtype("<f4"),
    UINT8: np.dtype("u1"),
    INT8: np.dtype("i1"),
    INT32: np.dtype("<i4"),
    INT64: np.dtype("<i8"),
}
EXTERNAL = 1


@dataclass
class TensorProto:
    """A constant."""

    dims: list[int] = protobuf.integers(1)
    data_type: int = protobuf.integer(2)
    float_data: NDArray[np.float32] = protobuf.reals(4)
    int32_data: list[int] = protobuf.integers(5)
    int64_data: list[int] = protobuf.integers(7)
    name: str = protobuf.text(8)
    raw_data: bytes = protobuf.blob(9)
    external_data: list[bytes] = protobuf.blobs(13)
    data_location: int = protobuf.integer(14)


@dataclass
class AttributeProto:
    """A named argument of an operator; `type` says which of its values counts."""

    name: str = protobuf.text(1)
    f: float | None = protobuf.real(2, default=None)
    i: int | None = protobuf.integer(3, default=None)
    s: bytes | None = protobuf.blob(4, default=None)
    t: TensorProto | None = protobuf.record(5, TensorProto)
    g: bytes | None = protobuf.blob(6, default=None)
    floats: NDArray[np.float32] = protobuf.reals(7)
    ints: list[int] = protobuf.integers(8)
    graphs: list[bytes] = protobuf.blobs(11)
    type: int = protobuf.integer(20)
    ref_attr_name: str = protobuf.text(21)


@dataclass
class NodeProto:
    """An operator between named values."""

    input: list[str] = protobuf.texts(1)
    output: list[str] = protobuf.texts(2)
    name: str = protobuf.text(3)
    op_type: str = protobuf.text(4)
    attribute: list[AttributeProto] = protobuf.records(5, AttributeProto)
    domain: str = protobuf.text(7)


@dataclass
class DimensionProto:
    """A size, or a name for one that is not known."""

    dim_value: int | None = protobuf.integer(1, default=None)
    dim_param: str = protobuf.text(2)


@dataclass
class ShapeProto:
    """TensorShapeProto."""

    dim: list[DimensionProto] = protobuf.records(1, DimensionProto)


@dataclass
class TensorTypeProto:
    """TypeProto.Tensor."""

    elem_type: int = protobuf.integer(1)
    shape: ShapeProto | None = protobuf.record(2, ShapeProto)


@dataclass
class TypeProto:
    """Of the kinds of value ONNX has, networks here use tensors only."""

    tensor_type: TensorTypeProto | None = protobuf.record(1, TensorTypeProto)


@dataclass
class ValueInfoProto:
    """An input or output."""

    name: str = protobuf.text(1)
    type: TypeProto | None = protobuf.record(2, TypeProto)


@dataclass
class GraphProto:
    """The network."""

    node: list[NodeProto] = protobuf.records(1, NodeProto)
    name: str = protobuf.text(2)
    initializer: list[TensorProto] = protobuf.records(5, TensorProto)
    input: list[ValueInfoProto] = protobuf.records(11, ValueInfoProto)
    output: list[ValueInfoProto] = protobuf.records(12, ValueInfoProto)
    sparse_initializer: list[bytes] = protobuf.blobs(15)


@dataclass
class OperatorSetProto:
    """OperatorSetIdProto: which version of the operators' meanings the file uses."""

    domain: str = protobuf.text(1)
    version: int = protobuf.integer(2)


@dataclass
class EntryProto:
    """StringStringEntryProto."""

    key: str = protobuf.text(1)
    value: str = protobuf.text(2)


@dataclass
class ModelProto:
    """A file."""

    ir_version: int = protobuf.integer(1)
    producer_name: str = protobuf.text(2)
    graph: GraphProto | None = protobuf.record(7, GraphProto)
    opset_import: list[OperatorSetProto] = protobuf.records(8, OperatorSetProto)
    metadata_props: list[EntryProto] = protobuf.records(14, EntryProto)
    functions: list[bytes] = protobuf.blobs(25)


# For each field of AttributeProto that can hold its value, the type that says so.
ATTRIBUTE_TYPES = {"f": 1, "i": 2, "s": 3, "t": 4, "floats": 6, "ints": 7}
