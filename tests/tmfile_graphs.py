"""Small graphs for the tmfile writer's tests, and what makes two graphs equal."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.testing import assert_array_equal

from edgeface.graph import (
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
)

FLOAT32, INT8, UINT8, INT32 = (np.dtype(t) for t in (np.float32, np.int8, np.uint8, np.int32))


def pairs(scales, zero_point=0):
    scales = np.atleast_1d(np.asarray(scales, np.float32))
    return Quantization(scales, np.full(scales.shape, zero_point, np.int32))


class Maker:
    """Nodes in the order of the calls; each call returns the name of the tensor that it makes.

    In int8 and uint8 every computed tensor has the scale and zero point of the maker, unless told
    another, weights one scale for each channel or one in all, biases the product.
    """

    def __init__(self, dtype=FLOAT32, scale=0.05, zero_point=None, shape=(1, 4, 6, 8), seed=0):
        self.dtype = np.dtype(dtype)
        self.rng = np.random.default_rng(seed)
        self.nodes = []
        self.tensors = {}
        zero_point = zero_point if zero_point is not None else 128 * (self.dtype == UINT8)
        self.quantization = None if self.dtype == FLOAT32 else pairs(scale, zero_point)
        self.add_tensor("input", shape)

    def add_tensor(self, name, shape, data=None, quantization=None):
        dtype = self.dtype if data is None else data.dtype
        if data is None:
            quantization = quantization or self.quantization
        self.tensors[name] = Tensor(name, tuple(shape), dtype, data, quantization)
        return name

    def constant(self, name, values, quantization=None):
        return self.add_tensor(name, values.shape, values, quantization)

    def weight(self, name, shape):
        if self.dtype == FLOAT32:
            return self.constant(name, self.rng.normal(size=shape).astype(np.float32))
        if self.dtype == INT8:
            values = self.rng.integers(-127, 128, shape).astype(np.int8)
            return self.constant(name, values, pairs(self.rng.uniform(0.001, 0.01, shape[0])))
        values = self.rng.integers(0, 256, shape).astype(np.uint8)
        return self.constant(name, values, pairs(0.005, 120))

    def bias(self, name, data, weight):
        channels = self.tensors[weight].shape[0]
        if self.dtype == FLOAT32:
            return self.constant(name, self.rng.normal(size=channels).astype(np.float32))
        scale = self.tensors[data].quantization.scale * self.tensors[weight].quantization.scale
        values = self.rng.integers(-2000, 2000, channels).astype(np.int32)
        return self.constant(name, values, pairs(scale))

    def op(self, op, name, *inputs, quantization=None, node_name=None):
        node = Node(op, name if node_name is None else node_name, inputs, name)
        shape = infer_shape(node, [self.tensors[i].shape for i in inputs])
        self.nodes.append(node)
        return self.add_tensor(name, shape, quantization=quantization)

    def conv(self, name, data, channels, kernel=(3, 3), *, bias=True, quantization=None, **fields):
        groups = fields.get("groups", 1)
        shape = (channels, self.tensors[data].shape[1] // groups, *kernel)
        inputs = [data, self.weight(f"{name}.weight", shape)]
        if bias:
            inputs.append(self.bias(f"{name}.bias", *inputs))
        return self.op(Conv(**fields), name, *inputs, quantization=quantization)

    def graph(self, *outputs):
        outputs = outputs or (self.nodes[-1].output,)
        return Graph(tuple(self.nodes), dict(self.tensors), "input", outputs)

    def change(self, name, **fields):
        """Another value of a tensor's field, without a look at whether it fits."""
        self.tensors[name] = dataclasses.replace(self.tensors[name], **fields)


def detector(dtype=FLOAT32):
    """Two heads over one stem, with every operator that real detectors have, in little."""
    make = Maker(dtype, shape=(1, 3, 12, 16))
    ones = {"pads": (1, 1, 1, 1)}
    stem = make.conv("stem", "input", 8, stride=(2, 2), activation="relu", **ones)
    deep = make.conv("deep", stem, 8, groups=8, activation="relu6", **ones)
    wide = make.conv("wide", stem, 8, dilation=(2, 2), pads=(2, 2, 2, 2))
    total = make.op(Add("relu"), "total", deep, wide)
    parts = [make.conv(f"part{i}", total, 2 + 2 * i, kernel=(1, 1)) for i in range(2)]
    joined = make.op(Concat(1), "joined", *parts)
    again = make.op(Relu(), "again", joined, quantization=make.quantization and pairs(0.1, 0))
    heads = []
    for name, data, size in (("scores", again, 2), ("boxes", total, 4)):
        rows = make.op(Transpose((0, 2, 3, 1)), f"{name}.rows", data)
        heads.append(make.op(Reshape((1, -1, size)), f"{name}.flat", rows))
    make.op(Softmax(2), "scores", heads[0], quantization=make.quantization and pairs(1 / 127))
    return make.graph("scores", heads[1])


def pyramid(dtype=FLOAT32, size=(18, 22)):
    """What RetinaFace and YuNet have besides: slopes, pools of each flavour, an upsampled level, a sigmoid."""
    make = Maker(dtype, shape=(1, 3, *size))
    is_float = make.quantization is None
    leaky = {"activation": "leaky_relu", "slope": 0.1} if is_float else {}
    stem = make.conv("stem", "input", 4, stride=(2, 2), pads=(1, 1, 1, 1), **leaky)
    fine = make.op(LeakyRelu(0.25), "fine", stem, quantization=make.quantization and pairs(0.04, 0))
    value = fine
    for name, op in {
        "floor": MaxPool((3, 3), (1, 1), (1, 1, 1, 1)),
        "ceil": MaxPool((2, 2), (2, 2), (0, 0, 1, 1)),
        "halves": MaxPool((3, 2), (1, 1), (1, 0, 1, 1)),
    }.items():
        value = make.op(op, name, value, quantization=make.quantization and pairs(0.04, 0))
    larger = make.op(
        Upsample(), "larger", value, fine, quantization=make.quantization and pairs(0.04, 0)
    )
    total = make.op(Add(**leaky), "merged", larger, fine)
    make.op(Sigmoid(), "share", total, quantization=make.quantization and pairs(1 / 127, 0))
    return make.graph("share")


def assert_equal_graphs(one, other):
    """Same nodes in the same order, same tensors, constants and scales to the bit."""
    assert one.nodes == other.nodes
    assert one.input == other.input
    assert one.outputs == other.outputs
    assert set(one.tensors) == set(other.tensors)
    for name, tensor in one.tensors.items():
        assert_equal_tensors(tensor, other.tensors[name])


def assert_equal_tensors(one, other):
    assert (one.name, one.shape, one.dtype) == (other.name, other.shape, other.dtype)
    assert one.is_constant == other.is_constant
    if one.is_constant:
        assert one.data.dtype == other.data.dtype
        assert one.data.tobytes() == other.data.tobytes()  # -0.0 is not 0.0
    assert (one.quantization is None) == (other.quantization is None), one.name
    if one.quantization is not None:
        assert_array_equal(one.quantization.scale, other.quantization.scale)
        assert_array_equal(one.quantization.zero_point, other.quantization.zero_point)
