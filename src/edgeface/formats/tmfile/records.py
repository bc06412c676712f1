"""What a tmfile v2 is made of: layouts, numbers and limits, for the reader and the writer.

Everything is little endian; an offset counts from the start of the file, and 0 means "not set".
A vector is a count and as many 32-bit entries; a string object is a size (its NUL included) and
the offset of its characters. Objects start at multiples of 4.

The version number never moved while structs grew, but each grew at its end: Subgraph from 36 to
40 bytes, Eltwise from 8 to 20, Reshape from 12 to 16. The layouts here are the oldest form of
each, which has all that is needed; the writer adds what today's Tengine reads behind it.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from ...graph import FLOAT32

# Fields that nothing needs are padding, read past and written as zeros: attributes, layouts, and
# those that Tengine writes from uninitialised memory (the header's last half-word,
# QuantParam.width, everything in Eltwise behind its type).
HEADER = struct.Struct("<H6xI")  # ver_main, model
MODEL = struct.Struct("<i4xI4x")  # orig_format, subgraphs
SUBGRAPH = struct.Struct("<4x2i5I4x")  # SubgraphRecord
NODE = struct.Struct("<5I8x")  # NodeRecord
OPERATOR = struct.Struct("<3I")  # op_ver, type, param
TENSOR = struct.Struct("<5I4x2i")  # TensorRecord
QUANT_PARAM = struct.Struct("<if4x")  # zero_point, scale
BUFFER = struct.Struct("<2I")  # size, data
STRING = struct.Struct("<2I")  # size, characters
COUNT = struct.Struct("<I")

# kernel, stride and dilation (vertical, horizontal), input_channel, output_channel, group,
# activation and the pads top, left, bottom, right
CONVOLUTION = struct.Struct("<14i")
ELTWISE = struct.Struct("<I4x")  # type
RESHAPE = struct.Struct("<2iI")  # is_mxnet, reverse, re_shape
PERMUTE = struct.Struct("<5i")  # flag, order
TRANSPOSE = struct.Struct("<I")  # order
AXIS = struct.Struct("<i")  # all of Concat and Softmax
SLOPE = struct.Struct("<f")  # all of ReLu
# alg, kernel and stride (vertical, horizontal), global, caffe_flavor and the pads top, left, bottom, right
POOLING = struct.Struct("<11i")
INTERP = struct.Struct(
    "<i2f2i"
)  # resize_type, width_scale, height_scale, output_width, output_height
UPSAMPLE = struct.Struct("<f")  # scale

VERSION = 2
MAX_DIMS = 8  # Tengine's own limit
MAX_ENTRIES = (1 << 16) - 1  # of a vector: Tengine's counts and indices have 16 bits
MAX_NODES = 4096  # RFB-320 has 187, constants included; bounds the time a crafted file can take

VARIABLE_ROLE, CONST_ROLE, INPUT_ROLE = 1, 2, 3
DTYPES: dict[int, np.dtype[Any]] = {
    0: FLOAT32,
    2: np.dtype(np.int8),
    3: np.dtype(np.uint8),
    4: np.dtype(np.int32),
}
INT8, UINT8, INT32 = DTYPES[2], DTYPES[3], DTYPES[4]
NEED_SCALE = (INT8, UINT8)

SUM = 2  # a type of Eltwise
ACTIVATIONS = {-1: "none", 0: "relu", 6: "relu6"}
MAXIMUM = 0  # an alg of Pooling
NEAREST = 1  # a resize_type of Interp


class Flavour(IntEnum):
    """How Pooling counts its windows, by the numbers of caffe_flavor; only the pads at the start matter."""

    FLOOR = 0  # pads are the same at both ends
    CEIL = 1  # and a last window that is not full counts, too
    HALVES = 2  # pads are those of both ends together, the smaller half at the start


class Kind(IntEnum):
    """Operators, by the numbers they have in a file."""

    CONCAT = 3
    CONST = 4
    CONVOLUTION = 5
    DROPOUT = 8
    ELTWISE = 9
    INPUT = 12
    PERMUTE = 15
    POOLING = 16
    RELU = 20
    RESHAPE = 23
    SOFTMAX = 28
    SIGMOID = 37
    UPSAMPLE = 51
    INTERP = 71
    TRANSPOSE = 77


class SubgraphRecord(NamedTuple):
    """What the file calls a subgraph is the whole network."""

    graph_layout: int
    model_layout: int
    inputs: int
    outputs: int
    nodes: int
    tensors: int
    buffers: int


class NodeRecord(NamedTuple):
    """An operator between tensors. Its position in the list is its identity, the id in it for show."""

    position: int
    inputs: int
    outputs: int
    operator: int
    name: int


class TensorRecord(NamedTuple):
    """A value; for a constant, in which buffer it is."""

    position: int
    buffer: int
    dims: int
    name: int
    quantization: int
    role: int
    dtype: int
