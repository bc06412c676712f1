"""Operators' shapes and activations; the formats' and backends' tests have the rest."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edgeface.errors import ModelError
from edgeface.graph import (
    Add,
    Conv,
    LeakyRelu,
    MaxPool,
    Node,
    Quantization,
    Sigmoid,
    Upsample,
    fuse_activations,
    infer_shape,
)
from reference import Builder


def shape_of(op, *inputs):
    names = tuple(f"v{i}" for i in range(len(inputs)))
    return infer_shape(Node(op, "it", names, "made"), list(inputs))


def ceil_mode(size, kernel, stride, pad):
    """PyTorch's count of windows: one more where the last is not full, if it starts inside."""
    count = -(-(size + 2 * pad - kernel) // stride) + 1
    return count - 1 if (count - 1) * stride >= size + pad else count


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (3, 2, 0), (3, 3, 0)])
def test_ceil_mode_is_padding_at_the_end_for_every_size(kernel, stride, pad):
    op = MaxPool((kernel, kernel), (stride, stride), (pad, pad) + (pad + stride - 1,) * 2)
    sizes = range(kernel, 40)
    made = [shape_of(op, (1, 4, size, 7 + kernel))[2] for size in sizes]
    assert made == [ceil_mode(size, kernel, stride, pad) for size in sizes]


def test_upsample_takes_channels_from_data_and_the_size_from_like():
    assert shape_of(Upsample(), (1, 8, 5, 7), (1, 3, 9, 14)) == (1, 8, 9, 14)
    assert shape_of(Upsample(), (1, 8, 5, 7), (1, 3, 2, 1)) == (1, 8, 2, 1)


@pytest.mark.parametrize(
    ("op", "inputs", "message"),
    [
        (LeakyRelu(0.0), [(1, 4)], "the slope is 0.0; expected more than 0 and less than 1"),
        (LeakyRelu(float("nan")), [(1, 4)], "the slope is nan"),
        (LeakyRelu(1e-60), [(1, 4)], "the slope is 1e-60"),  # 0 in float32
        (LeakyRelu(0.1), [], "it takes one input"),
        (Sigmoid(), [(1, 4), (1, 4)], "it takes one input"),
        (Add("leaky_relu"), [(1, 4), (1, 4)], "the slope is 0.0"),
        (Add("relu", 0.1), [(1, 4), (1, 4)], "activation 'relu' has no slope"),
        (MaxPool((2, 2)), [(4, 4)], "it takes one image"),
        (MaxPool((0, 2)), [(1, 1, 4, 4)], "the kernel is empty"),
        (MaxPool((5, 2)), [(1, 1, 4, 4)], "a kernel 5 wide does not fit into 4"),
        (MaxPool((2, 2), pads=(0, 0, 2, 0)), [(1, 1, 4, 4)], "padding is as large as the kernel"),
        (MaxPool((2, 2), (0, 1)), [(1, 1, 4, 4)], "stride and dilation start at 1"),
        (Upsample(), [(1, 1, 4, 4)], "it takes data and a tensor of the size wanted"),
        (Upsample(), [(1, 4, 4), (1, 1, 4, 4)], "both need four dimensions"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(op, inputs, message):
    with pytest.raises(ModelError, match=f"'it' got inputs of shape .*: {message}"):
        shape_of(op, *inputs)


def pyramid():
    """Two levels, of which the coarse one is added to the fine one."""
    b = Builder(3, 20, 12)
    fine = b.conv("input", 4, 3, stride=2)
    coarse = b.node(MaxPool((3, 3), (2, 2), (1, 1, 1, 1)), fine)
    merged = b.node(Add("leaky_relu", 0.1), fine, b.node(Upsample(), coarse, fine))
    return b.graph(merged)


@pytest.mark.parametrize("size", [(20, 12), (40, 24), (33, 19), (31, 22)])
def test_a_pyramid_follows_the_size_of_its_input(size):
    resized = pyramid().resized(*size)
    (merged,) = resized.outputs
    assert resized.tensors[merged].shape == (1, 4, (size[1] + 1) // 2, (size[0] + 1) // 2)


def test_leaky_relu_is_fused_with_its_slope():
    b = Builder(3, 8, 8)
    x = b.node(LeakyRelu(0.1), b.conv("input", 4))
    y = b.node(LeakyRelu(0.25), b.add(x, x))
    graph = fuse_activations(b.graph(b.node(LeakyRelu(0.5), b.node(Sigmoid(), y))))
    assert [node.op for node in graph.nodes] == [
        Conv(activation="leaky_relu", slope=0.1),
        Add("leaky_relu", 0.25),
        Sigmoid(),
        LeakyRelu(0.5),
    ]


def test_leaky_relu_of_a_rounded_value_is_not_fused():
    """It would round once what the graph rounds twice."""
    b = Builder(3, 8, 8)
    x = b.conv("input", 4, name="x")
    graph = b.graph(b.node(LeakyRelu(0.1), x, name="y"))
    pair = Quantization(np.ones(1, np.float32), np.zeros(1, np.int32))
    rounded = {
        name: dataclasses.replace(graph.tensors[name], dtype=np.dtype(np.int8), quantization=pair)
        for name in ("x", "y")
    }
    graph = dataclasses.replace(graph, tensors={**graph.tensors, **rounded})
    assert [node.kind for node in fuse_activations(graph).nodes] == ["Conv", "LeakyRelu"]
