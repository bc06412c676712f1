from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from edgeface import _core
from edgeface.backends import native
from edgeface.errors import BackendError
from edgeface.graph import Add, Concat, Conv, Graph, Node, Quantization, Reshape, Tensor, Transpose
from reference import ISAS, ROUNDING, Builder, run_graph

THREADS = (1, 2, 3)
ACTIVATIONS = ("none", "relu", "relu6", "leaky_relu")
REAL = (1.0, 0)  # the scale and zero point of values that are stored as they are
every_isa = pytest.mark.parametrize("isa", ISAS)
every_count = pytest.mark.parametrize("threads", THREADS)


def engine(graph, isa="", threads=1):
    return _core.Engine(native.lower(graph), num_threads=threads, isa=isa)


def image_for(graph, seed, scale=1.0):
    shape = graph.tensors[graph.input].shape
    return np.float32(np.random.default_rng(seed).normal(scale=scale, size=shape))


def as_rows(graph, name, values):
    """A value as the engine gives it: rows of channels, pixel after pixel."""
    reads_rows = {graph.input: False}
    for node in graph.nodes:
        known = [reads_rows[i] for i in node.inputs if i in reads_rows]
        reads_rows[node.output] = any(known) or isinstance(node.op, (Transpose, Reshape))
    if reads_rows[name]:
        return values.reshape(-1, values.shape[-1])
    return values[0].reshape(values.shape[1], -1).T


def outputs(runner, graph, image):
    runner.input()[:] = image
    runner.run()
    return {name: runner.output(name).copy() for name in graph.outputs}


def assert_runs(graph, isa="", threads=1):
    """Right on one image, on another, and on the first again with rubbish left behind in between."""
    runner = engine(graph, isa, threads)
    images = [image_for(graph, 1), image_for(graph, 2), image_for(graph, 3, scale=1e6)]
    wants = [run_graph(graph, image) for image in images]
    for i in (0, 1, 2, 0):
        got = outputs(runner, graph, images[i])
        for name in graph.outputs:
            want, bound = (as_rows(graph, name, values) for values in wants[i][name])
            assert got[name].shape == want.shape
            excess = np.abs(got[name] - want) - bound
            assert (excess <= 0).all(), f"image {i}, {name}: {excess.max()} beyond the bound"


# --- One operator at a time -------------------------------------------------------------------------------

# channels in, height, width; then what Builder.conv takes
CONVOLUTIONS = {
    "1x1": (3, 5, 7, {"channels": 8}),
    "1x1 of one pixel": (5, 1, 1, {"channels": 3}),
    "1x1 of one channel": (1, 4, 4, {"channels": 1}),
    "1x1 stride 2": (6, 7, 9, {"channels": 10, "stride": 2}),
    "3x3": (3, 9, 11, {"channels": 17, "kernel": 3}),
    "3x3 stride 2, even": (4, 8, 10, {"channels": 6, "kernel": 3, "stride": 2}),
    "3x3 stride 2, odd": (4, 9, 11, {"channels": 6, "kernel": 3, "stride": 2}),
    "3x3 dilation 2": (5, 9, 9, {"channels": 4, "kernel": 3, "dilation": 2}),
    "3x3 dilation 3": (5, 9, 8, {"channels": 4, "kernel": 3, "dilation": 3}),
    "3x3 dilation 5 in a smaller image": (5, 4, 3, {"channels": 4, "kernel": 3, "dilation": 5}),
    "5x5": (3, 6, 7, {"channels": 9, "kernel": 5}),
    "7x7 stride 2": (3, 15, 13, {"channels": 16, "kernel": 7, "stride": 2}),
    "11x11": (2, 12, 12, {"channels": 3, "kernel": 11}),
    "1x7": (4, 5, 9, {"channels": 5, "kernel": (1, 7)}),
    "7x1": (4, 9, 5, {"channels": 5, "kernel": (7, 1)}),
    "stride 2x1": (4, 9, 5, {"channels": 5, "kernel": 3, "stride": (2, 1)}),
    "dilation 1x3": (4, 9, 8, {"channels": 5, "kernel": 3, "dilation": (1, 3)}),
    "no padding": (3, 7, 8, {"channels": 5, "kernel": 3, "pads": (0, 0, 0, 0)}),
    "padding at the end": (
        3,
        8,
        8,
        {"channels": 5, "kernel": 3, "stride": 2, "pads": (0, 0, 1, 1)},
    ),
    "padding at the start": (3, 8, 8, {"channels": 5, "kernel": 3, "pads": (2, 1, 0, 0)}),
    "padding on one side": (3, 8, 8, {"channels": 5, "kernel": 3, "pads": (0, 2, 1, 0)}),
    "one padded pixel": (3, 1, 1, {"channels": 5, "kernel": 3}),
    "2 groups": (6, 5, 6, {"channels": 8, "kernel": 3, "groups": 2}),
    "4 groups": (16, 5, 6, {"channels": 36, "kernel": 3, "groups": 4}),
    "4 groups 1x1": (8, 5, 6, {"channels": 4, "groups": 4}),
    "a group a channel, two outputs each": (5, 6, 5, {"channels": 10, "kernel": 3, "groups": 5}),
    "depthwise": (7, 6, 9, {"channels": 7, "kernel": 3, "groups": 7}),
    "depthwise stride 2": (33, 7, 9, {"channels": 33, "kernel": 3, "groups": 33, "stride": 2}),
    "depthwise dilation 2": (9, 7, 9, {"channels": 9, "kernel": 3, "groups": 9, "dilation": 2}),
    "depthwise 5x5": (19, 7, 20, {"channels": 19, "kernel": 5, "groups": 19}),
    "depthwise 11x11": (3, 12, 12, {"channels": 3, "kernel": 11, "groups": 3}),
    "depthwise 1x9": (48, 3, 12, {"channels": 48, "kernel": (1, 9), "groups": 48}),
    "depthwise 9x1": (48, 12, 5, {"channels": 48, "kernel": (9, 1), "groups": 48}),
    "depthwise of 8 channels": (8, 7, 9, {"channels": 8, "kernel": 3, "groups": 8}),
    "depthwise of 4 channels": (4, 7, 11, {"channels": 4, "kernel": 3, "groups": 4}),
    "depthwise of 8, dilation 2": (
        8,
        7,
        9,
        {"channels": 8, "kernel": 3, "groups": 8, "dilation": 2},
    ),
    "depthwise of two channels": (2, 3, 3, {"channels": 2, "kernel": 3, "groups": 2}),
}


@every_isa
@every_count
@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution(case, isa, threads):
    channels, height, width, options = case
    b = Builder(channels, height, width)
    assert_runs(b.graph(b.conv("input", **options)), isa, threads)


@every_isa
@pytest.mark.parametrize("channels", range(1, 68))
def test_convolution_of_every_number_of_channels(channels, isa):
    # 7 pixels fill no tile; in and out go through every remainder of a vector.
    b = Builder(channels, 1, 7, seed=channels)
    outputs = (
        b.conv("input", 68 - channels),
        b.conv("input", channels, 3, activation="relu"),
        b.depthwise("input", activation="relu6"),
    )
    assert_runs(b.graph(*outputs), isa)


@every_isa
@pytest.mark.parametrize("pixels", range(1, 40))
def test_convolution_of_every_number_of_pixels(pixels, isa):
    b = Builder(3, 1, pixels)
    assert_runs(b.graph(b.conv("input", 5, 3), b.depthwise("input")), isa, threads=2)


@every_isa
@pytest.mark.parametrize("pixels", [1, 2, 4, 5, 8, 9, 15, 16, 17, 24, 31, 40])
@pytest.mark.parametrize("channels", [1, 3, 4, 7, 8])
def test_few_channels_of_every_number_of_pixels_in_a_wider_image(channels, pixels, isa):
    b = Builder(9, 2, pixels, seed=channels)
    parts = [
        b.conv("input", channels, kernel, activation=a) for kernel in (1, 3) for a in ACTIVATIONS
    ]
    assert_runs(b.graph(b.node(Concat(axis=1), *parts)), isa)


@every_isa
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 20])
def test_bias_and_activation(groups, bias, activation, isa):
    b = Builder(20, 6, 7)
    data = b.conv("input", 20, 3, groups=groups, bias=bias, activation=activation)
    graph = b.graph(data)
    assert_runs(graph, isa)
    values = outputs(engine(graph, isa), graph, image_for(graph, 0, scale=10))[data]
    low = {"none": -10, "leaky_relu": -1, "relu": 0, "relu6": 0}[activation]
    high = 6 if activation == "relu6" else 7
    # The clamp is exact, and on this image it is needed.
    assert values.min() == 0 if low == 0 else 10 * low < values.min() < low
    assert values.max() == 6 if activation == "relu6" else values.max() > high


# --- Convolutions of three rows and columns by Winograd's products ---------------------------------------


@every_isa
@pytest.mark.parametrize("width", range(1, 18))
def test_winograd_of_every_width(width, isa):
    # As high as it has to be for two patches, of which the last of each row has every number of pixels.
    b = Builder(16, 7, width, seed=width)
    assert_runs(b.graph(b.conv("input", 5, 3), b.conv("input", 18, 3, pads=(1, 0, 1, 2))), isa)


@every_isa
@pytest.mark.parametrize("channels", [*range(16, 34), 47, 49, 65])
def test_winograd_of_every_number_of_channels(channels, isa):
    b = Builder(channels, 5, 9, seed=channels)
    outputs = [b.conv("input", count, 3) for count in (channels, 66 - channels)]
    assert_runs(b.graph(*outputs), isa, threads=2)


@every_isa
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (2, 1, 0, 0), (1, 1, 1, 1), (0, 2, 2, 1)])
def test_winograd_beyond_every_edge(pads, activation, isa):
    b = Builder(17, 7, 10)
    data = b.conv("input", 19, 3, pads=pads, activation=activation)
    assert_runs(b.graph(data), isa)


@every_isa
@every_count
def test_winograd_a_block_of_rows_at_a_time(isa, threads):
    # 40 pixels of 96 channels and more: some rows fill the scratch.
    b = Builder(96, 21, 40)
    first = b.conv("input", 32, 3, activation="leaky_relu")
    assert_runs(b.graph(b.conv(first, 20, 3)), isa, threads)


@every_isa
def test_winograd_into_a_part_of_a_joined_image_and_out_of_it(isa):
    b = Builder(16, 6, 11)
    parts = [b.conv("input", channels, 3, activation="relu") for channels in (5, 16, 12)]
    joined = b.concat(*parts)
    assert_runs(b.graph(b.conv(joined, 7, 3), b.conv(parts[1], 3, 3)), isa, threads=2)


@every_isa
def test_winograd_reads_no_pixel_of_the_next_row(isa):
    # What the last patch lacks counts as 0, whatever lies there.
    b = Builder(16, 4, 6)
    data = b.conv("input", 16, 3)
    graph = b.graph(data)
    image = image_for(graph, 0)
    image[..., 0] = 1e30
    want, bound = (values[0, :, :, 4:] for values in run_graph(graph, image)[data])
    got = outputs(engine(graph, isa), graph, image)[data].reshape(want.shape[1], -1, len(want))
    assert (np.abs(got.transpose(2, 0, 1)[..., 4:] - want) <= bound).all()
    assert bound.max() < 1


@every_isa
def test_padding_is_zero_and_not_the_neighbouring_row(isa):
    b = Builder(1, 3, 3)
    weight = b.constant(np.ones((1, 1, 3, 3)))
    data = b.node(Conv(pads=(1, 1, 1, 1)), "input", weight)
    graph = b.graph(data)
    got = outputs(engine(graph, isa), graph, np.ones((1, 1, 3, 3), np.float32))[data]
    assert got.ravel().tolist() == [4, 6, 4, 6, 9, 6, 4, 6, 4]


@every_isa
@every_count
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("channels", [1, 5, 16, 67])
def test_add(channels, activation, isa, threads):
    b = Builder(channels, 9, 15)
    total = b.add(b.conv("input", channels), b.depthwise("input"), activation)
    twice = b.add("input", "input", activation)
    assert_runs(b.graph(total, twice, b.add(total, twice, activation)), isa, threads)


@every_isa
@every_count
@pytest.mark.parametrize("channels", [1, 5, 16, 67])
def test_leaky_relu_and_sigmoid_of_images_and_of_rows(channels, isa, threads):
    b = Builder(channels, 9, 15)
    bent, share = b.leaky_relu("input"), b.sigmoid("input")
    rows = b.rows(b.conv("input", 2 * channels), channels)
    assert_runs(b.graph(bent, share, b.leaky_relu(rows), b.sigmoid(rows)), isa, threads)


@every_isa
def test_sigmoid_of_huge_values_is_0_or_1(isa):
    b = Builder(1, 1, 6)
    graph = b.graph(b.sigmoid("input", name="y"))
    image = np.float32([-1e38, -200, 0, 200, 1e38, -np.inf]).reshape(1, 1, 1, 6)
    got = outputs(engine(graph, isa), graph, image)["y"].ravel()
    assert got.tolist() == [0, 0, 0.5, 1, 1, 0]


# channels, height, width; then what Builder.max_pool takes
POOLS = {
    "2x2": (16, 8, 10, {}),
    "2x2 of an odd size": (17, 9, 11, {}),
    "2x2 in ceil mode": (5, 9, 11, {"pads": (0, 0, 1, 1)}),
    "3x3 stride 2": (33, 15, 13, {"kernel": 3, "pads": (1, 1, 1, 1)}),
    "3x3 stride 2 in ceil mode": (4, 14, 16, {"kernel": 3, "pads": (1, 1, 2, 2)}),
    "3x3 stride 1": (1, 5, 6, {"kernel": 3, "stride": 1, "pads": (1, 1, 1, 1)}),
    "more stride than kernel": (6, 9, 8, {"kernel": 2, "stride": 3}),
    "wide": (3, 4, 9, {"kernel": (1, 5), "stride": (1, 2), "pads": (0, 4, 0, 2)}),
    "all of an image": (7, 4, 5, {"kernel": (4, 5), "stride": 1}),
    "more than an image": (7, 2, 3, {"kernel": 5, "stride": 1, "pads": (4, 2, 4, 4)}),
    "one pixel": (20, 1, 1, {"kernel": 3, "pads": (1, 1, 1, 1)}),
}


@every_isa
@every_count
@pytest.mark.parametrize("case", POOLS.values(), ids=POOLS)
def test_max_pool(case, isa, threads):
    channels, height, width, options = case
    b = Builder(channels, height, width)
    assert_runs(b.graph(b.max_pool("input", **options)), isa, threads)


@every_isa
def test_max_pool_of_negative_values_never_sees_the_padding(isa):
    b = Builder(2, 3, 3)
    x = b.conv("input", 2, 3, name="x")  # whose margins of zeros the pool must not look at
    y = b.max_pool("input", 3, 2, (1, 1, 1, 1), name="y")
    z = b.max_pool(x, 3, 2, (1, 1, 1, 1), name="z")
    graph = b.graph(y, z, b.depthwise(x))
    image = np.full((1, 2, 3, 3), -5, np.float32)
    assert (outputs(engine(graph, isa), graph, image)["y"] == -5).all()
    assert_runs(graph, isa)


# By how much an image of 20x20 is thinned out, down and across: the data, and what it becomes like.
UPSAMPLINGS = {
    "10x7 to 20x20": ((2, 3), (1, 1)),
    "5x7 to 10x10": ((4, 3), (2, 2)),
    "4x4 to 7x7, halves of an odd size": (5, 3),
    "3x2 to 7x20": ((7, 10), (3, 1)),
    "1x1 to 4x10": (20, (5, 2)),
    "5x5 to itself": (4, 4),
    "20x20 to 7x10": (1, (3, 2)),
}


@every_isa
@every_count
@pytest.mark.parametrize("strides", UPSAMPLINGS.values(), ids=UPSAMPLINGS)
def test_upsample(strides, isa, threads):
    b = Builder(5, 20, 20)
    data = b.conv("input", 7, stride=strides[0])
    y = b.upsample(data, b.conv("input", 3, stride=strides[1]))
    assert_runs(b.graph(y, b.conv(y, 3, 3)), isa, threads)


@every_isa
@every_count
@pytest.mark.parametrize("columns", [1, 2, 3, 17])
def test_softmax_of_channels_and_of_rows(columns, isa, threads):
    b = Builder(columns, 9, 15)
    of_channels = b.softmax("input", 1)
    of_rows = b.softmax(b.rows(b.conv("input", 2 * columns), columns), 2)
    assert_runs(b.graph(of_channels, of_rows), isa, threads)


@every_isa
def test_softmax_of_huge_logits_does_not_overflow(isa):
    b = Builder(2, 1, 3)
    data = b.softmax("input", 1)
    graph = b.graph(data)
    image = np.float32([[1e38, -1e38, 1000], [-1e38, 1e38, 1000]]).reshape(1, 2, 1, 3)
    got = outputs(engine(graph, isa), graph, image)[data]
    assert got.tolist() == [[1, 0], [0, 1], [0.5, 0.5]]


# --- Memory that operators share --------------------------------------------------------------------------


def concat_of_two(b):
    return b.concat(b.conv("input", 5, 3), b.conv("input", 6)), ()


def concat_with_the_input(b):
    return b.concat("input", b.conv("input", 6), "input"), ()


def nested_concat(b):
    x, y, z = (b.conv("input", n, 3) for n in (5, 3, 6))
    return b.conv(b.concat(b.concat(z, b.concat(x, y)), b.conv("input", 4)), 9), ()


def the_same_value_twice(b):
    x = b.conv("input", 5)
    return b.concat(x, b.conv("input", 2), x), ()


def concatenated_and_read_elsewhere(b):
    x, y = b.conv("input", 5), b.conv("input", 6)
    before = b.conv(x, 4, 3)
    joined = b.concat(x, y)
    return b.conv(joined, 4), (before, b.depthwise(x), b.relu(y))


def in_two_concats(b):
    x, y = b.conv("input", 5), b.conv("input", 6)
    return b.concat(x, y), (b.concat(y, x), b.concat(b.concat(x, x), y))


def an_output_that_is_also_concatenated(b):
    x = b.conv("input", 5)
    return b.concat(b.conv("input", 6), x), (x,)


def a_nested_concat_that_is_an_output(b):
    inner = b.concat(b.conv("input", 5), b.conv("input", 6))
    return b.concat(inner, b.conv("input", 3)), (inner,)


def concat_of_one(b):
    x = b.concat(b.conv("input", 5))
    return b.relu(x), (b.conv(x, 3),)


def relu_with_readers_before_and_after(b):
    x = b.conv("input", 5, 3)
    before = b.conv(x, 4)
    y = b.relu(x)
    return b.conv(y, 6, 3), (before, b.conv(x, 3), b.add(x, y))


def relu_of_the_input(b):
    y = b.relu("input")
    return b.conv(y, 6, 3), (b.depthwise("input"),)


def relu_of_an_output(b):
    x = b.conv("input", 5)
    return b.relu(x), (x,)


def relu_twice_of_one_value(b):
    x = b.conv("input", 5)
    return b.relu(x), (b.relu(x), b.relu(b.relu(x)))


def relu_of_a_concat(b):
    x, y = b.conv("input", 5), b.conv("input", 6)
    return b.relu(b.concat(x, y)), (b.conv(x, 3), b.relu(y))


def relu_into_a_concat(b):
    x = b.conv("input", 5)
    return b.concat(b.relu(x), b.relu(b.conv("input", 6)), x), ()


def softmax_of_a_concat(b):
    x = b.conv("input", 2)
    return b.softmax(b.concat(x, b.conv("input", 3)), 1), (b.softmax(x, 1), b.softmax(x, 1))


def softmax_into_a_concat(b):
    x = b.conv("input", 2)
    return b.concat(b.conv("input", 3), b.softmax(x, 1)), (x,)


def heads(b):
    fine, coarse = b.conv("input", 12, 3), b.conv("input", 6, 3, stride=2)
    rows = [b.rows(fine, 2), b.rows(coarse, 2)]
    return b.softmax(b.concat(*rows, axis=1), 2), (b.concat(b.rows(fine, 4), axis=1),)


def rows_read_as_image_and_as_rows(b):
    x = b.conv("input", 6, 3)
    rows = b.rows(x, 2)
    return b.softmax(rows, 2), (b.concat(rows, rows, axis=1), b.relu(rows), b.conv(x, 3), x)


def rows_of_a_part_of_a_concat(b):
    x = b.conv("input", 6)
    joined = b.concat(b.conv("input", 3), x)
    return joined, (b.rows(x, 2), b.relu(b.rows(joined, 9)))


def rows_of_rows(b):
    rows = b.rows(b.conv("input", 12), 4)
    again = b.node(Reshape((1, -1, 2)), rows)
    return b.softmax(again, 2), (b.relu(rows),)


def rows_of_the_input(b):
    rows = b.rows("input", b.shape("input")[1])
    return b.relu(rows), (b.concat(rows, rows, axis=1), b.conv("input", 2))


def nested_concat_of_rows(b):
    x, y = b.rows(b.conv("input", 4), 4), b.rows(b.conv("input", 8, stride=2), 4)
    inner = b.concat(x, y, axis=1)
    return b.relu(b.concat(y, inner, x, axis=1)), (x, b.softmax(inner, 2))


def input_feeds_two_branches(b):
    return b.add(b.conv("input", 6, 3), b.conv(b.depthwise("input"), 6)), ("v0",)


def one_value_under_two_shapes(b):
    x = b.conv("input", 8)
    return b.rows(x, 2), (b.rows(x, 4), b.rows(x, 8))


def pyramid(b):
    fine = b.conv("input", 6, 3, activation="leaky_relu")
    coarse = b.conv(b.max_pool(fine, 3, 2, (1, 1, 1, 1)), 6)
    merged = b.add(fine, b.upsample(coarse, fine))
    return b.conv(b.leaky_relu(merged), 4, 3), (b.conv(coarse, 3),)


def upsampled_and_pooled_into_a_concat(b):
    x = b.conv("input", 6, 3)
    pooled = b.max_pool(x, 3, 1, (1, 1, 1, 1))
    joined = b.concat(b.upsample(b.conv(x, 5, stride=2), x), pooled, b.sigmoid(x))
    return b.conv(joined, 4, 3), (b.max_pool(joined), b.leaky_relu(x))


def sigmoid_of_rows(b):
    rows = b.rows(b.conv("input", 4, 3), 1)
    return b.sigmoid(rows), (b.sigmoid(b.concat(rows, rows, axis=1)),)


SHARING = [
    concat_of_two,
    concat_with_the_input,
    nested_concat,
    the_same_value_twice,
    concatenated_and_read_elsewhere,
    in_two_concats,
    an_output_that_is_also_concatenated,
    a_nested_concat_that_is_an_output,
    concat_of_one,
    relu_with_readers_before_and_after,
    relu_of_the_input,
    relu_of_an_output,
    relu_twice_of_one_value,
    relu_of_a_concat,
    relu_into_a_concat,
    softmax_of_a_concat,
    softmax_into_a_concat,
    heads,
    rows_read_as_image_and_as_rows,
    rows_of_a_part_of_a_concat,
    rows_of_rows,
    rows_of_the_input,
    nested_concat_of_rows,
    input_feeds_two_branches,
    one_value_under_two_shapes,
    pyramid,
    upsampled_and_pooled_into_a_concat,
    sigmoid_of_rows,
]


@every_isa
@every_count
@pytest.mark.parametrize("build", SHARING, ids=lambda build: build.__name__)
def test_values_that_share_memory_do_not_disturb_one_another(build, isa, threads):
    b = Builder(3, 9, 11)
    last, others = build(b)
    assert_runs(b.graph(last, *others), isa, threads)
    # Without the others as outputs, their memory may be used again.
    used = {name for node in b.nodes for name in node.inputs} | {last}
    if used >= {node.output for node in b.nodes}:
        assert_runs(b.graph(last), isa, threads)


@every_isa
def test_rows_joined_along_their_columns_are_copied(isa):
    # No graph comes to this; the core allows it. Rows that are part of wider rows are not one dense block.
    subject = network(2, 3, 4)
    one = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    identity = {"weight": one, "bias": np.zeros(4), "pad": (0, 0), "output": (2, 3, 4)}
    a, b = (subject.rows("it", conv(subject, **identity), columns=2) for _ in range(2))
    subject.output("y", subject.concat("it", [a, b], axis="channels", scale=REAL))
    runner = _core.Engine(subject, num_threads=1, isa=isa)
    image = np.random.default_rng(0).normal(size=(1, 4, 2, 3)).astype(np.float32)
    runner.input()[:] = image
    runner.run()
    rows = image[0].transpose(1, 2, 0).reshape(-1, 2)
    assert_array_equal(runner.output("y"), np.hstack([rows, rows]))


def test_a_chain_shares_the_memory_of_two_of_its_values():
    b = Builder(8, 16, 16)
    x = "input"
    for _ in range(10):
        x = b.relu(b.conv(x, 8, 3))
    with_margins = 8 * (
        1 + 16 * (16 + 1)
    )  # a pixel between rows, before the first and after the last
    lines = math.ceil(with_margins / 64)
    assert engine(b.graph(x)).arena_bytes == 2 * lines * 64 * 4


def test_joining_and_looking_at_values_copies_nothing():
    b = Builder(3, 16, 16)
    joined = b.concat(*(b.conv("input", 4, 3) for _ in range(3)))
    heads = [b.rows(b.conv(joined, 4), 2), b.rows(b.conv(joined, 8), 2)]
    graph = b.graph(b.softmax(b.concat(*heads, axis=1), 2))
    kinds = [step.kind for step in engine(graph).steps]
    assert kinds == ["conv"] * 5 + ["softmax"]


# --- Chains ------------------------------------------------------------------------------------------------


def deep_graph():
    """Windows of all kinds one after another, in sizes that divide nothing."""
    b = Builder(3, 43, 57)
    x = b.conv("input", 9, 3, stride=2)
    x = b.conv(b.depthwise(x), 33, 1)
    x = b.max_pool(b.conv(b.depthwise(x, stride=2), 20, 1), 3, 1, (1, 1, 1, 1))
    x = b.conv(x, 18, 3, activation="leaky_relu")
    x = b.conv(b.upsample(b.max_pool(x), "input"), 16, 3, dilation=3, activation="leaky_relu")
    x = b.conv(b.depthwise(b.upsample(x, x)), 6, 1, activation="none")
    return b.graph(x)


def chain_of(graph, isa, threads, level2_bytes):
    runner = _core.Engine(
        native.lower(graph), num_threads=threads, isa=isa, level2_bytes=level2_bytes
    )
    return runner, {step.chain for step in runner.steps}


@every_count
@every_isa
def test_a_chain_gives_the_bytes_that_its_operations_give_one_by_one(isa, threads):
    graph = deep_graph()
    together, chains = chain_of(graph, isa, threads, 0)
    apart, more_chains = chain_of(graph, isa, threads, 1 << 30)
    assert len(chains) == 1 < len(more_chains)
    for seed in (1, 2):
        image = image_for(graph, seed)
        want, got = outputs(apart, graph, image), outputs(together, graph, image)
        for name in graph.outputs:
            np.testing.assert_array_equal(got[name], want[name])


@every_isa
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 1, 0, 1), (2, 1, 1, 1)])
def test_winograd_makes_rows_in_the_same_patches_in_every_chain_and_thread(pads, isa):
    b = Builder(16, 27, 13)
    data = b.conv(b.conv(b.conv("input", 16, 3, pads=pads), 17, 3), 16, 3, pads=pads)
    graph = b.graph(b.conv(b.depthwise(data), 18, 3, activation="leaky_relu"))
    image = image_for(graph, 0)
    want = outputs(chain_of(graph, isa, 1, 1 << 30)[0], graph, image)
    for threads in (1, 2, 3, 5, 9):
        got = outputs(chain_of(graph, isa, threads, 0)[0], graph, image)
        for name in graph.outputs:
            np.testing.assert_array_equal(got[name], want[name])


@every_isa
def test_a_chain_is_right(isa):
    graph = deep_graph()
    image = image_for(graph, 5)
    runner, _ = chain_of(graph, isa, 2, 0)
    got = outputs(runner, graph, image)
    wants = run_graph(graph, image)
    for name in graph.outputs:
        want, bound = (as_rows(graph, name, values) for values in wants[name])
        assert (np.abs(got[name] - want) <= bound).all()


def test_a_chain_holds_only_the_rows_that_its_next_step_reads():
    runner, _ = chain_of(deep_graph(), "", 1, 0)
    rows = [(step.kind, step.rows, step.shape[0]) for step in runner.steps]
    assert rows[0][1] < rows[0][2]
    assert rows[-1][1] == rows[-1][2]


def test_an_output_in_the_middle_is_dense_and_ends_the_chain():
    b = Builder(3, 20, 20)
    middle = b.conv("input", 8, 3)
    graph = b.graph(b.conv(b.depthwise(middle), 4, 3), middle)
    assert_runs(graph)


def test_a_window_that_reaches_far_beyond_the_image_is_refused():
    b = Builder(2, 4, 200)
    x = b.conv("input", 2, 3, dilation=100)
    native.lower(b.graph(x))
    b = Builder(2, 4, 20)
    with pytest.raises(BackendError, match="reaches too far beyond the image"):
        native.lower(b.graph(b.conv("input", 2, 3, dilation=100)))


@st.composite
def networks(draw):
    """Any small graph of the engine's operators, with any of its values as outputs."""
    b = Builder(draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    images, rows = ["input"], []

    def joinable(values, axis):
        first = draw(st.sampled_from(values))

        def but_axis(name):
            return [n for i, n in enumerate(b.shape(name)) if i != axis]

        alike = [v for v in values if but_axis(v) == but_axis(first)]
        return draw(st.lists(st.sampled_from(alike), min_size=1, max_size=3))

    for _ in range(draw(st.integers(1, 12))):
        kinds = ["conv", "conv", "depthwise", "relu", "add", "concat", "concat", "softmax", "rows"]
        kinds += ["leaky relu", "sigmoid", "max pool", "upsample"]
        if rows:
            kinds += ["row relu", "row concat", "row softmax", "row add", "row rows"]
            kinds += ["row leaky relu", "row sigmoid"]
        kind = draw(st.sampled_from(kinds))
        image = draw(st.sampled_from(images))
        row = draw(st.sampled_from(rows)) if rows else None
        activation = draw(st.sampled_from(ACTIVATIONS))
        if kind == "conv":
            kernel = draw(st.sampled_from([1, 3]))
            made = b.conv(image, draw(st.integers(1, 6)), kernel, activation=activation)
        elif kind == "depthwise":
            made = b.depthwise(image, activation=activation)
        elif kind == "relu":
            made = b.relu(image)
        elif kind.endswith("leaky relu"):
            made = b.leaky_relu(row if "row" in kind else image)
        elif kind.endswith("sigmoid"):
            made = b.sigmoid(row if "row" in kind else image)
        elif kind == "max pool":
            kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
            pads = tuple(draw(st.integers(n // 2, n - 1)) for n in kernel * 2)
            made = b.max_pool(image, kernel, draw(st.integers(1, 3)), pads)
        elif kind == "upsample":
            made = b.upsample(image, draw(st.sampled_from(images)))
        elif kind == "add":
            alike = [v for v in images if b.shape(v) == b.shape(image)]
            made = b.add(image, draw(st.sampled_from(alike)), activation)
        elif kind == "concat":
            made = b.concat(*joinable(images, 1))
        elif kind == "softmax":
            made = b.softmax(image, 1)
        elif kind == "rows":
            values = int(np.prod(b.shape(image)))
            made = b.rows(image, draw(st.sampled_from([n for n in range(1, 9) if values % n == 0])))
        elif kind == "row relu":
            made = b.relu(row)
        elif kind == "row concat":
            made = b.concat(*joinable(rows, 1), axis=1)
        elif kind == "row softmax":
            made = b.softmax(row, 2)
        elif kind == "row add":
            alike = [v for v in rows if b.shape(v) == b.shape(row)]
            made = b.add(row, draw(st.sampled_from(alike)), activation)
        else:
            values = int(np.prod(b.shape(row)))
            columns = draw(st.sampled_from([n for n in range(1, 9) if values % n == 0]))
            made = b.node(Reshape((1, -1, columns)), row)
        (rows if "row" in kind else images).append(made)
        # Doubling by Concat must not get out of hand.
        if np.prod(b.shape(made)) > 5000:
            break
    values = [v for v in [*images, *rows] if v != "input"]
    chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True))
    return b.graph(*chosen)


@given(graph=networks(), isa=st.sampled_from(_core.isas()), threads=st.sampled_from(THREADS))
@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_random_networks(graph, isa, threads):
    assert_runs(graph, isa, threads)


@pytest.mark.slow
@given(graph=networks(), isa=st.sampled_from(_core.isas()), threads=st.sampled_from(THREADS))
@settings(
    max_examples=4000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_many_random_networks(graph, isa, threads):
    assert_runs(graph, isa, threads)


# --- Instruction sets -------------------------------------------------------------------------------------


def small_graph():
    b = Builder(3, 20, 24)
    x = b.conv("input", 16, 3, stride=2, activation="relu")
    x = b.conv(b.depthwise(x, activation="relu"), 20, activation="relu")
    return b.graph(b.softmax(b.rows(b.conv(x, 6, 3), 2), 2, name="y"))


@every_isa
def test_a_forced_isa_is_the_one_that_runs(isa):
    assert engine(small_graph(), isa).isa == isa


def test_the_best_isa_is_the_default_and_scalar_always_there():
    assert engine(small_graph()).isa == _core.isas()[0]
    assert _core.isas()[-1] == "scalar"


@pytest.mark.parametrize("isa", ["sse9", "SCALAR", "scalar "])
def test_an_unknown_isa_is_refused_and_says_what_there_is(isa):
    with pytest.raises(BackendError, match=f"no kernels for '{isa}'; it has .*scalar"):
        engine(small_graph(), isa)


@every_isa
def test_the_environment_forces_an_isa(isa, monkeypatch):
    monkeypatch.setenv("EDGEFACE_ISA", isa)
    assert native.open_graph(small_graph(), 1).isa == isa


def test_an_isa_in_the_environment_never_falls_back(monkeypatch):
    monkeypatch.setenv("EDGEFACE_ISA", "neon9")
    with pytest.raises(BackendError, match="neon9"):
        native.open_graph(small_graph(), 1)


@every_isa
def test_the_number_of_threads_changes_no_bit(isa):
    graph = small_graph()
    image = image_for(graph, 0)
    first, *others = (
        outputs(engine(graph, isa, threads), graph, image)["y"] for threads in (1, 2, 3, 7)
    )
    for other in others:
        assert_array_equal(first, other)


# --- The engine as a backend ------------------------------------------------------------------------------


def test_input_and_output_are_views_that_keep_the_engine_alive():
    graph = small_graph()
    runner = engine(graph)
    given, found = runner.input(), runner.output("y")
    assert given.shape == (1, 3, 20, 24)
    assert given.dtype == found.dtype == np.float32
    given[:] = image_for(graph, 0)
    runner.run()
    want = found.copy()
    del runner
    assert_array_equal(found, want)
    with pytest.raises(ValueError, match="read-only"):
        found[:] = 0


def test_an_unknown_output_is_named():
    with pytest.raises(BackendError, match="no output 'z'"):
        engine(small_graph()).output("z")


def test_steps_name_the_graphs_nodes_in_order():
    graph = small_graph()
    steps = engine(graph).steps
    assert [step.kind for step in steps] == ["conv", "depthwise", "conv", "conv", "softmax"]
    assert (steps[0].name, steps[0].shape) == ("node_v0", (10, 12, 16))


def refused(build):
    b = Builder(4, 4, 5)
    with pytest.raises(BackendError) as caught:
        native.lower(b.graph(build(b)))
    return str(caught.value)


REFUSALS = {
    "concat along the rows of an image": (
        lambda b: b.concat("input", "input", axis=2, name="bad"),
        "Concat 'node_bad': axis 2",
    ),
    "concat of the columns of rows": (
        lambda b: b.concat(b.rows("input", 4), b.rows("input", 4), axis=2, name="bad"),
        "Concat 'node_bad': axis 2",
    ),
    "softmax along a row of pixels": (
        lambda b: b.softmax("input", 3, name="bad"),
        "Softmax 'node_bad': axis 3",
    ),
    "softmax over all rows": (
        lambda b: b.softmax(b.rows("input", 4), 1, name="bad"),
        "Softmax 'node_bad': axis 1",
    ),
    "another transpose": (
        lambda b: b.node(Transpose((0, 1, 3, 2)), "input", name="bad"),
        r"Transpose 'node_bad': order",
    ),
    "a second transpose": (
        lambda b: b.node(
            Transpose((0, 2, 3, 1)), b.node(Transpose((0, 2, 3, 1)), "input"), name="bad"
        ),
        "Transpose 'node_bad'",
    ),
    "reshape with the channels first": (
        lambda b: b.node(Reshape((1, 4, 20)), "input", name="bad"),
        "Reshape 'node_bad': it would need the channels first",
    ),
    "add of a constant": (
        lambda b: b.node(
            Add(),
            "input",
            b.constant(np.ones((1, 4, 4, 5))),
            name="bad",
        ),
        "Add 'node_bad': its input 'c1' is a constant",
    ),
    "convolution of rows": (
        # In memory these rows are 40 pixels of 2 channels, not an image of 20 x 2.
        lambda b: b.conv(b.node(Reshape((1, 2, 20, 2)), b.rows("input", 4)), 3, 3, name="bad"),
        "Conv 'node_bad'",
    ),
    "a kernel beyond 11 x 11": (
        lambda b: b.node(
            Conv(pads=(6, 6, 6, 6)), "input", b.constant(np.ones((1, 4, 13, 13))), name="bad"
        ),
        "Conv 'node_bad'.*11 x 11",
    ),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_what_it_cannot_run_is_named(case):
    build, message = case
    assert re.search(message, refused(build))


def test_a_float_value_with_a_scale_is_refused():
    graph = small_graph()
    scale = Quantization(np.float32([0.5]), np.int32([0]))
    tensors = dict(graph.tensors)
    tensors["input"] = Tensor("input", tensors["input"].shape, quantization=scale)
    with pytest.raises(BackendError, match="bad scale or zero point"):
        native.lower(Graph(graph.nodes, tensors, graph.input, graph.outputs))


def test_an_output_that_is_the_input_is_refused_as_such():
    graph = Graph((), {"input": Tensor("input", (1, 3, 4, 4))}, "input", ("input",))
    with pytest.raises(BackendError, match="input"):
        native.lower(graph)


def test_an_output_that_is_a_constant_is_refused_as_such():
    tensors = {
        "input": Tensor("input", (1, 3, 4, 4)),
        "fixed": Tensor("fixed", (1, 2), data=np.zeros((1, 2), np.float32)),
    }
    with pytest.raises(BackendError, match="fixed"):
        native.lower(Graph((), tensors, "input", ("fixed",)))


def test_a_computed_weight_is_refused():
    shapes = {"input": (1, 4, 4, 5), "weight": (5, 4, 4, 1), "y": (1, 5, 1, 5)}
    nodes = (
        Node(Reshape((5, 4, 4, 1)), "reshape", ("input",), "weight"),
        Node(Conv(), "bad", ("input", "weight"), "y"),
    )
    tensors = {name: Tensor(name, shape) for name, shape in shapes.items()}
    with pytest.raises(BackendError, match=r"Reshape 'reshape'|Conv 'bad'"):
        native.lower(Graph(nodes, tensors, "input", ("y",)))


def network(height=4, width=4, channels=2):
    return _core.Network(height, width, channels, dtype="float32", scale=REAL)


def conv(subject, data=0, **changes):
    options = {
        "weight": np.ones((3, 2, 3, 3), np.float32),
        "bias": np.zeros(3, np.float32),
        "stride": (1, 1),
        "dilation": (1, 1),
        "pad": (1, 1),
        "groups": 1,
        "clamp": (-np.inf, np.inf, 1.0),
        "output": (4, 4, 3),
    }
    return subject.conv("it", data, **{**options, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"data": 1},
        {"data": -1},
        {"weight": np.ones((3, 2, 3), np.float32)},
        {"weight": np.ones((3, 1, 3, 3), np.float32)},
        {"weight": np.ones((3, 2, 0, 3), np.float32)},
        {"bias": np.zeros(2, np.float32)},
        {"stride": (0, 1)},
        {"dilation": (1, 0)},
        {"pad": (-1, 0)},
        {"groups": 0},
        {"groups": 2},
        {"output": (6, 4, 3)},
        {"output": (4, 6, 3)},
        {"output": (0, 4, 3)},
        {"output": (4, 4, 0)},
        {"weight": np.ones((0, 2, 1, 1), np.float32), "bias": np.zeros(0), "output": (4, 4, 0)},
        {"output": (1 << 29, 1, 3), "pad": (1 << 29, 0)},
        {"clamp": (1.0, 0.0, 1.0)},
        {"clamp": (np.nan, 1.0, 1.0)},
        {"clamp": (0.0, 1.0, 0.0)},
        {"clamp": (0.0, 1.0, 1.5)},
        {"clamp": (0.0, 1.0, np.nan)},
    ],
)
def test_the_core_checks_a_convolution_itself(changes):
    with pytest.raises(ValueError, match="native engine"):
        conv(network(), **changes)


def test_the_core_checks_the_other_operators_itself():
    subject = network()
    x = conv(subject)
    for call in (
        lambda: network(0, 4, 4),
        lambda: network(1 << 15, 1 << 15, 2),
        lambda: subject.add("it", x, x, clamp=(1, 0, 1), scale=REAL),
        lambda: subject.add("it", 0, x, clamp=(0, 1, 1), scale=REAL),
        lambda: subject.relu("it", x, clamp=(0, 1, -1), scale=REAL),
        lambda: subject.max_pool("it", x, kernel=(2, 2), stride=(2, 2), pad=(2, 0), size=(2, 2)),
        lambda: subject.max_pool("it", x, kernel=(2, 2), stride=(2, 2), pad=(0, 0), size=(3, 2)),
        lambda: subject.max_pool("it", x, kernel=(0, 2), stride=(2, 2), pad=(0, 0), size=(2, 2)),
        lambda: subject.max_pool("it", x, kernel=(2, 2), stride=(0, 2), pad=(0, 0), size=(2, 2)),
        lambda: subject.max_pool("it", 99, kernel=(2, 2), stride=(2, 2), pad=(0, 0), size=(2, 2)),
        lambda: subject.upsample("it", x, height=0, width=4),
        lambda: subject.upsample("it", x, height=1 << 16, width=1 << 15),
        lambda: subject.upsample("it", 99, height=4, width=4),
        lambda: subject.relu("it", 99, clamp=(0, 1, 1), scale=REAL),
        lambda: subject.concat("it", [], axis="channels", scale=REAL),
        lambda: subject.concat("it", [0, x], axis="rows", scale=REAL),
        lambda: subject.concat("it", [0, 99], axis="channels", scale=REAL),
        lambda: subject.concat("it", [0, 0], axis="columns", scale=REAL),
        lambda: subject.rows("it", 0, columns=5),
        lambda: subject.rows("it", 0, columns=0),
        lambda: subject.softmax("it", -1, scale=REAL),
        lambda: subject.output("y", 0),
        lambda: subject.output("y", 99),
    ):
        with pytest.raises(ValueError, match=r"native engine|axis is 'columns'"):
            call()


@every_isa
@every_count
def test_a_pointwise_convolution_of_only_some_columns_begins_every_row_on_its_own(isa, threads):
    subject = network(5, 4, 2)
    weight, bias = np.eye(2)[:, :, None, None].astype(np.float32), np.zeros(2, np.float32)
    subject.output("y", conv(subject, weight=weight, bias=bias, pad=(0, 0), output=(5, 3, 2)))
    runner = _core.Engine(subject, num_threads=threads, isa=isa)
    image = np.arange(40, dtype=np.float32).reshape(1, 2, 5, 4)
    runner.input()[:] = image
    runner.run()
    assert_array_equal(runner.output("y"), image[0, :, :, :3].reshape(2, -1).T)


def test_the_core_joins_no_more_values_than_it_can_count():
    subject = network(1 << 15, 1 << 14, 1)  # half of 2**30
    twice = subject.concat("it", [0, 0], axis="channels", scale=REAL)
    for values in ([twice, 0], [twice] * 4):  # 4 times 2**30 pass as 0 in 32 bits
        with pytest.raises(ValueError, match=r"more than 2\^30 values"):
            subject.concat("it", values, axis="channels", scale=REAL)
    rows = network(1 << 29, 1, 2)
    with pytest.raises(ValueError, match=r"more than 2\^30 values"):
        rows.concat("it", [0] * 4, axis="rows", scale=REAL)


# --- Threads ----------------------------------------------------------------------------------------------


def in_a_process(code):
    """Runs Python that may hang or crash where that cannot take the test run with it."""
    ending = "import signal; signal.alarm(60)"  # an emulated CPU takes ten seconds for the imports
    source = f"{ending}; import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}"
    return subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(sys.maxsize > 2**32, reason="64 bits address it")
def test_a_network_that_32_bits_cannot_address_is_refused():
    b = Builder(1, 1, 1024)
    # 2**30 values between two steps of a chain: 4 GiB, of which 32 bits would count none.
    graph = b.graph(b.conv(b.conv("input", 1 << 20, 1), 1, 1))
    with pytest.raises(BackendError, match="more memory than there is"):
        native.open_graph(graph, 1)


@pytest.mark.parametrize("threads", [0, -1])
def test_no_threads_is_an_error_and_not_a_crash(threads):
    done = in_a_process(
        "from test_native import engine, small_graph\n"
        "try:\n"
        f"    engine(small_graph(), threads={threads}).run()\n"
        "except ValueError:\n"
        "    print('refused')\n"
    )
    assert (done.returncode, done.stdout.strip()) == (0, "refused"), done.stderr


def os_threads():
    return len(list(Path("/proc/self/task").iterdir()))


def settles(count):
    """Whether this process comes to have that many threads: the system removes an ended one a little later."""
    end = time.monotonic() + 5
    while os_threads() != count and time.monotonic() < end:
        time.sleep(0.01)
    return os_threads() == count


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="there is no /proc here"
)


@needs_proc
@every_count
def test_threads_come_with_the_first_run_and_go_with_the_engine(threads):
    before = os_threads()
    graph = small_graph()
    runner = engine(graph, threads=threads)
    outputs(runner, graph, image_for(graph, 0))
    assert settles(before + threads - 1)
    outputs(runner, graph, image_for(graph, 0))
    assert settles(before + threads - 1)
    del runner
    assert settles(before)


@pytest.mark.parametrize("threads", [2, 4])
def test_waiting_for_the_next_frame_costs_no_cpu(threads):
    graph = small_graph()
    runner = engine(graph, threads=threads)
    outputs(runner, graph, image_for(graph, 0))
    before = time.process_time()
    time.sleep(0.3)
    # One thread that spins would take all of it.
    assert time.process_time() - before < 0.1


def test_many_runs_of_more_threads_than_cores_stay_right():
    graph = small_graph()
    runner = engine(graph, threads=(os.cpu_count() or 1) + 3)
    image = image_for(graph, 0)
    want = outputs(engine(graph), graph, image)["y"]
    for _ in range(100):
        assert_array_equal(outputs(runner, graph, image)["y"], want)


def child_status(work, seconds=5):
    """Exit status of a forked child that does `work`; a signal's number, negative, if it had to be ended."""
    with warnings.catch_warnings():
        # Python warns that a process with threads forks: that is what is tested.
        warnings.filterwarnings("ignore", ".*multi-threaded.*", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")


@needs_fork
@every_count
@pytest.mark.parametrize("pause", [0.0, 0.01], ids=["at once", "after a pause"])
def test_a_forked_child_runs_the_parents_engine(threads, pause):
    graph = small_graph()
    runner = engine(graph, threads=threads)
    image = image_for(graph, 0)
    want = outputs(runner, graph, image)["y"]
    time.sleep(pause)  # at once, the threads are still on their way to sleep

    def work():
        return all((outputs(runner, graph, image)["y"] == want).all() for _ in range(5))

    assert child_status(work) == 0
    # And the parent goes on.
    assert_array_equal(outputs(runner, graph, image)["y"], want)


@needs_fork
def test_a_forked_child_can_let_go_of_the_parents_engine():
    graph = small_graph()
    runners = [engine(graph, threads=3) for _ in range(2)]
    for runner in runners:
        outputs(runner, graph, image_for(graph, 0))
    del runner

    def work():
        runners.pop()  # one that never ran here
        outputs(runners[0], graph, image_for(graph, 0))
        runners.pop()
        return True

    assert child_status(work) == 0


@needs_fork
def test_a_forked_child_of_a_forked_child_runs_too():
    graph = small_graph()
    runner = engine(graph, threads=2)
    image = image_for(graph, 0)
    want = outputs(runner, graph, image)["y"]

    def work():
        return (outputs(runner, graph, image)["y"] == want).all()

    def fork_again():
        return work() and child_status(work, 2) == 0 and work()

    assert child_status(fork_again) == 0


# 136 roundings of a sum of 136 terms, each of about 1/12 by 1; by Winograd 36, of terms up to 30 times as large.
@pytest.mark.parametrize(("channels", "most"), [(15, 136 * 40), (16, 36 * 310)])
def test_the_bound_of_the_reference_is_tight_enough_to_mean_something(channels, most):
    """A wrong weight in a thousand is outside of it."""
    b = Builder(channels, 8, 8)
    data = b.conv("input", 16, 3)
    graph = b.graph(data)
    image = image_for(graph, 0)
    want, bound = run_graph(graph, image)[data]
    assert bound.max() < most * ROUNDING
    assert np.median(np.abs(want)) > 1000 * bound.max()
