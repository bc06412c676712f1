from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import reference
import tmfile_builder as tm
from edgeface import FaceDetector, _core, model
from edgeface import spec as specs
from edgeface.backends import native
from edgeface.errors import BackendError
from edgeface.graph import Add, Concat, Conv, Graph, Relu, Reshape, Softmax, Tensor
from reference import (
    ISAS,
    SHARED,
    STORED_RANGE,
    Builder,
    needs_shared,
    one_scale,
    picture,
    quantize,
    run_quantized,
)
from test_native import ACTIVATIONS, CONVOLUTIONS, POOLS, SHARING, THREADS, as_rows, networks

TYPES = tuple(STORED_RANGE)
every_isa = pytest.mark.parametrize("isa", ISAS)
every_count = pytest.mark.parametrize("threads", THREADS)
every_type = pytest.mark.parametrize("dtype", TYPES)


def engine(graph, isa="", threads=1):
    return _core.Engine(native.lower(graph), num_threads=threads, isa=isa)


def image_for(graph, seed):
    """Noise over all that the type stores; of seed 0 the lowest value, of 1 the highest."""
    tensor = graph.tensors[graph.input]
    low, high = STORED_RANGE[tensor.dtype.name]
    if seed < 2:
        return np.full(tensor.shape, (low, high)[seed], tensor.dtype)
    random = np.random.default_rng(seed)
    return random.integers(low, high, tensor.shape, tensor.dtype, endpoint=True)


def outputs(runner, graph, image):
    runner.input()[:] = image
    runner.run()
    return {name: runner.output(name).copy() for name in graph.outputs}


def assert_runs(graph, isa="", threads=1, wants=None):
    """The exact bytes, on several images and on the first again."""
    runner = engine(graph, isa, threads)
    wants = wants or expected(graph)
    for seed in (2, 0, 1, 3, 2):
        got = outputs(runner, graph, image_for(graph, seed))
        for name in graph.outputs:
            want = as_rows(graph, name, wants[seed][name])
            assert got[name].dtype == want.dtype
            assert_array_equal(got[name], want, f"image {seed}, {name}")


def expected(graph):
    return [run_quantized(graph, image_for(graph, seed)) for seed in range(4)]


@functools.cache
def built(build, *arguments):
    """A graph from its builder, and what it has to give: the same for every ISA and thread count."""
    graph = build(*arguments)
    return graph, expected(graph)


# --- One operator at a time -------------------------------------------------------------------------------


def convolution(name, dtype):
    channels, height, width, options = CONVOLUTIONS[name]
    b = Builder(channels, height, width)
    made = [b.conv("input", **options, activation=a) for a in ACTIVATIONS]
    return quantize(b.graph(*made, b.conv("input", **options, bias=False)), dtype, seed=len(name))


@every_isa
@every_count
@every_type
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name, dtype, isa, threads):
    graph, wants = built(convolution, name, dtype)
    assert_runs(graph, isa, threads, wants)


def convolution_of_channels(channels, dtype):
    b = Builder(channels, 1, 7, seed=channels)
    made = (
        b.conv("input", 68 - channels),
        b.conv("input", channels, 3, activation="relu"),
        b.depthwise("input", activation="relu6"),
    )
    return quantize(b.graph(*made), dtype, seed=channels)


@every_isa
@every_type
@pytest.mark.parametrize("channels", range(1, 68))
def test_convolution_of_every_number_of_channels(channels, dtype, isa):
    # 7 pixels fill no tile; in and out go through every remainder of a vector, and of a pair.
    graph, wants = built(convolution_of_channels, channels, dtype)
    assert_runs(graph, isa, 1, wants)


def convolution_of_many_channels(channels, dtype):
    b = Builder(2 * channels, 2, 3, seed=channels)
    made = (
        b.conv("input", 5),
        b.conv("input", 4, 3, groups=2),
        b.depthwise("input"),
        b.conv(b.conv("input", channels), 33, 3, dilation=2),
    )
    return quantize(b.graph(*made), dtype, seed=channels)


@every_isa
@every_type
@pytest.mark.parametrize("channels", [63, 64, 65, 127, 128, 129, 255, 256, 257, 300])
def test_convolution_of_more_channels_than_are_widened_at_a_time(channels, dtype, isa):
    graph, wants = built(convolution_of_many_channels, channels, dtype)
    assert_runs(graph, isa, 1, wants)


def convolution_of_pixels(pixels, dtype):
    b = Builder(3, 1, pixels)
    return quantize(b.graph(b.conv("input", 5, 3), b.depthwise("input")), dtype)


@every_isa
@every_type
@pytest.mark.parametrize("pixels", range(1, 40))
def test_convolution_of_every_number_of_pixels(pixels, dtype, isa):
    graph, wants = built(convolution_of_pixels, pixels, dtype)
    assert_runs(graph, isa, 2, wants)


def network(dtype, height, width, channels, scale):
    return _core.Network(height, width, channels, dtype=dtype, scale=scale)


def core_conv(
    subject,
    weight,
    bias,
    *,
    scale,
    weight_scale=1.0,
    stride=1,
    pad=(0, 0),
    groups=1,
    low=-math.inf,
    output,
):
    """Straight to the core: any weight of 16 bits, any scale."""
    return subject.quantized_conv(
        "it",
        0,
        weight=np.int16(weight),
        bias=np.int32(bias),
        weight_scale=np.full(len(bias), weight_scale, np.float32),
        stride=(stride, stride),
        dilation=(1, 1),
        pad=pad,
        groups=groups,
        clamp=(low, math.inf, 1.0),
        output=output,
        scale=scale,
    )


def all_values(dtype):
    low, high = STORED_RANGE[dtype]
    return np.arange(low, high + 1).astype(dtype)


def run_core(subject, isa, image):
    runner = _core.Engine(subject, num_threads=1, isa=isa)
    runner.input()[:] = image
    runner.run()
    return runner.output("y").copy()


@every_isa
@every_type
@pytest.mark.parametrize("channels", [1, 2, 17])
@pytest.mark.parametrize("depthwise", [False, True])
def test_halves_are_rounded_to_even(depthwise, channels, dtype, isa):
    image = np.broadcast_to(all_values(dtype), (1, channels, 1, all_values(dtype).size))
    zero = 128 * (dtype == "uint8")
    subject = network(dtype, 1, image.shape[-1], channels, (0.5, zero))
    groups = channels if depthwise and channels > 1 else 1
    weight = np.eye(channels) if groups == 1 else np.ones((channels, 1))
    subject.output(
        "y",
        core_conv(
            subject,
            weight[:, :, None, None],
            np.zeros(channels),
            scale=(1.0, zero),
            groups=groups,
            output=(1, image.shape[-1], channels),
        ),
    )
    want = np.array([round((int(x) - zero) / 2) + zero for x in all_values(dtype)])
    assert_array_equal(run_core(subject, isa, image), np.tile(want[:, None], channels))


@every_isa
@every_type
def test_a_pointwise_convolution_of_only_some_columns_begins_every_row_on_its_own(dtype, isa):
    subject = network(dtype, 5, 4, 2, (1.0, 0))
    weight = np.eye(2)[:, :, None, None]
    subject.output("y", core_conv(subject, weight, np.zeros(2), scale=(1.0, 0), output=(5, 3, 2)))
    image = np.arange(40).reshape(1, 2, 5, 4).astype(dtype)
    assert_array_equal(run_core(subject, isa, image), image[0, :, :, :3].reshape(2, -1).T)


@every_isa
@every_type
@pytest.mark.parametrize("channels", [1, 9])
def test_padding_is_the_zero_point_and_not_the_neighbouring_row(channels, dtype, isa):
    b = Builder(channels, 3, 3)
    weight = b.constant(np.ones((channels, 1, 3, 3)))
    conv = Conv(pads=(1, 1, 1, 1), groups=channels)
    graph = quantize(
        b.graph(b.node(conv, "input", weight, name="y")),
        dtype,
        given={"input": one_scale(1, 7), "y": one_scale(1, 3)},
    )
    got = outputs(engine(graph, isa), graph, np.full((1, channels, 3, 3), 8, dtype))["y"]
    # 1 a pixel, and nothing from beyond the edges.
    assert_array_equal(got, np.tile(3 + np.array([[4, 6, 4, 6, 9, 6, 4, 6, 4]]).T, channels))


@every_isa
@every_type
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_up_to_the_last_of_32_bits(sign, depthwise, dtype, isa):
    random = np.random.default_rng(1)
    channels = 18
    low, high = STORED_RANGE[dtype]
    shape = (channels, 1, 3, 3) if depthwise else (channels, channels, 1, 1)
    pads, groups = ((1, 1, 1, 1), channels) if depthwise else ((0, 0, 0, 0), 1)
    weight = random.choice([-255, 255], shape)
    # All the room that the largest products leave.
    bias = sign * (2**31 - 1 - 2 * 255 * np.abs(weight).sum(axis=(1, 2, 3)))
    image = random.choice([low, high], (1, channels, 4, 5)).astype(dtype)
    for zero in (low, 0, high):
        sums = reference.convolve(
            image.astype(np.int64) - zero, weight.astype(np.int64), Conv(pads=pads, groups=groups)
        )
        sums = (sums + bias[:, None, None])[0].reshape(channels, -1).T
        assert 2**31 - 2**23 < np.abs(sums).max() < 2**31
        # Steps with a half amid a channel's sums: there they differ.
        multiplier = np.float32(100.5 / np.abs(np.median(sums, axis=0)))
        subject = network(dtype, 4, 5, channels, (1.0, zero))
        out = core_conv(
            subject,
            weight,
            bias,
            scale=(1.0, 0),
            weight_scale=multiplier,
            pad=pads[:2],
            groups=groups,
            output=(4, 5, channels),
        )
        subject.output("y", out)
        want = np.clip(np.rint(np.float32(sums) * multiplier), low, high)
        if sign > 0 or low < 0:
            assert (np.ptp(want, axis=0) == 1).all()
        assert_array_equal(run_core(subject, isa, image), want)


@every_isa
@every_type
def test_sums_that_float32_cannot_hold_become_the_nearest_that_it_can(dtype, isa):
    # Between 2^24 and 2^25 float32 has every other number. Multipliers put the halves of a step among them.
    offsets = np.arange(-8, 9)
    bias, edge, step = (v.ravel() for v in np.meshgrid(offsets, offsets, np.arange(100)))
    bias = 2**24 + bias
    multiplier = np.float32((step + 0.5) / (2**24 + edge))
    subject = network(dtype, 1, 1, 1, (1.0, 0))
    weight, shape = np.zeros((len(bias), 1, 1, 1)), (1, 1, len(bias))
    out = core_conv(subject, weight, bias, weight_scale=multiplier, scale=(1.0, 0), output=shape)
    subject.output("y", out)
    want = np.rint(np.float32(bias) * multiplier)
    assert_array_equal(run_core(subject, isa, np.zeros((1, 1, 1, 1), dtype)), want[None])
    # It can be told from rounding down, and from not rounding.
    assert (want != np.rint(np.float32(bias // 2 * 2) * multiplier)).any()
    assert (want != np.rint(bias * np.float64(multiplier))).any()


# What kernels may do with sums below 2^23 and nothing below zero to store, on either side of those bounds. Beyond
# 2^31 steps, or with a zero point, they may not.
@every_isa
@every_type
@pytest.mark.parametrize("largest", [2**23 - 1, 2**23, 3 * 2**22])
@pytest.mark.parametrize("step", [2.0**-17, 1.5 * 2.0**-17, 255.0, 256.0, 257.0])
def test_sums_up_to_the_last_of_a_floats_mantissa(step, largest, dtype, isa):
    low, high = STORED_RANGE[dtype]
    random = np.random.default_rng(0)
    weight = random.integers(-3, 4, (80, 1, 3, 3))
    most = largest - max(-np.iinfo(dtype).min, high) * np.abs(weight).sum(axis=(1, 2, 3))
    bias = np.where(np.arange(80) % 2, most, -most)
    bias[16:48] = random.integers(-300, 300, 32)
    image = random.choice([low, high], (1, 80, 3, 6)).astype(dtype)
    sums = reference.convolve(
        image.astype(np.int64), weight.astype(np.int64), Conv(pads=(1, 1, 1, 1), groups=80)
    )
    sums = (sums + bias[:, None, None])[0].reshape(80, -1).T
    for least, zero in ((0.0, 0), (0.0, 3), (-math.inf, 0)):
        subject = network(dtype, 3, 6, 80, (1.0, 0))
        out = core_conv(
            subject,
            weight,
            bias,
            weight_scale=step,
            scale=(1.0, zero),
            pad=(1, 1),
            groups=80,
            low=least,
            output=(3, 6, 80),
        )
        subject.output("y", out)
        steps = np.rint(np.maximum(np.float32(sums) * np.float32(step), np.float32(least)))
        assert_array_equal(run_core(subject, isa, image), np.clip(steps + zero, low, high))


# Weights of a byte in uint8, too, with and without an offset of the output, some of it in rows of a wider image.
@every_isa
@every_type
@pytest.mark.parametrize("outputs", [1, 4, 5, 8, 9, 12, 13, 16, 17, 31, 32, 33, 49])
@pytest.mark.parametrize(("kernel", "stride", "channels"), [(1, 1, 20), (3, 1, 9), (3, 2, 3)])
def test_tiles_of_every_size(kernel, stride, channels, outputs, dtype, isa):
    low, high = STORED_RANGE[dtype]
    random = np.random.default_rng(outputs)
    weight = random.integers(-127, 128, (outputs, channels, kernel, kernel))
    scale = np.float32(2.0**-8 / np.sqrt(weight[0].size))
    pad = kernel // 2
    for pixels in (1, 2, 3, 4, 5, 6, 8, 9, 13, 16, 22, 35):
        shape = (1, channels, 2 * stride, pixels * stride)
        image = random.integers(low, high, shape, dtype, endpoint=True)
        op = Conv(pads=(pad,) * 4, stride=(stride, stride))
        sums = reference.convolve(image.astype(np.int64), weight.astype(np.int64), op)[0]
        sums = sums[:, :2, :pixels].reshape(outputs, -1).T
        for least, zero in ((0.0, 0), (-math.inf, 0), (-math.inf, 3)):
            subject = network(dtype, *shape[2:], channels, (1.0, 0))
            out = core_conv(
                subject,
                weight,
                np.zeros(outputs),
                weight_scale=scale,
                scale=(1.0, zero),
                stride=stride,
                pad=(pad, pad),
                low=least,
                output=(2, pixels, outputs),
            )
            subject.output("y", out)
            steps = np.rint(np.maximum(np.float32(sums) * scale, np.float32(least)))
            assert_array_equal(run_core(subject, isa, image), np.clip(steps + zero, low, high))


def parts_of_outputs(outputs, dtype):
    b = Builder(12, 3, 19, seed=outputs)
    parts = [b.conv("input", outputs, kernel, activation="relu") for kernel in (1, 3)]
    joined = b.node(Concat(axis=1), *parts)
    given = {name: one_scale(0.05, 0) for name in (*parts, joined)}
    return quantize(b.graph(b.conv(joined, 5)), dtype, given=given)


@every_isa
@every_type
@pytest.mark.parametrize("outputs", [1, 4, 6, 12, 16, 24, 32, 40])
def test_convolutions_that_write_a_part_of_each_pixel(outputs, dtype, isa):
    graph, wants = built(parts_of_outputs, outputs, dtype)
    assert_runs(graph, isa, 1, wants)


# What lies a vector at a time, and what is left; in place as well.
@every_isa
@every_type
@pytest.mark.parametrize("count", [1, 15, 16, 63, 64, 65, 200])
@pytest.mark.parametrize("ratio", [0.4, 2.0**21, 2.0**23])
def test_sums_of_every_count(ratio, count, dtype, isa):
    low, high = STORED_RANGE[dtype]
    random = np.random.default_rng(count)
    image = random.integers(low, high, (1, 1, 1, count), dtype, endpoint=True)
    subject = network(dtype, 1, count, 1, (ratio, 5))
    bounds = (-math.inf, math.inf, 1.0)
    once = subject.add("once", 0, 0, clamp=bounds, scale=(ratio, 0))
    subject.output("y", subject.add("y", 0, once, clamp=bounds, scale=(1.0, 2)))
    first = np.clip(2 * (image.astype(int) - 5), low, high)
    a, b = (np.float32(v) * np.float32(ratio) for v in (image.astype(int) - 5, first))
    want = np.clip(np.rint(a + b) + 2, low, high)
    assert_array_equal(run_core(subject, isa, image).ravel(), want.ravel())


def rows_of_depthwise(channels, height, dtype):
    b = Builder(channels, height, 9, seed=channels)
    made = [
        b.depthwise("input", stride=stride, activation=activation)
        for stride in (1, 2)
        for activation in ("relu", "none", "relu6", "leaky_relu")
    ]
    given = {name: one_scale(0.05, 0) for name in made}
    # A part of a joined image has pixels further apart.
    joined = b.node(Concat(axis=1), *made[:2])
    return quantize(b.graph(*made, joined), dtype, given={**given, joined: one_scale(0.05, 0)})


@every_isa
@every_count
@every_type
@pytest.mark.parametrize("height", [1, 2, 3, 8, 17])
@pytest.mark.parametrize("channels", [8, 16, 32, 48, 64, 144])
def test_depthwise_of_several_rows_together(channels, height, dtype, isa, threads):
    graph, wants = built(rows_of_depthwise, channels, height, dtype)
    assert_runs(graph, isa, threads, wants)


# What 2^31 makes: far more than int32 holds, the first number that it does not, and the last that it does.
@every_isa
@every_type
@pytest.mark.parametrize("scale", [2.0**-60, 1.0, 1.0 + 2.0**-23])
def test_what_is_far_beyond_the_type_is_clamped_before_it_is_rounded(scale, dtype, isa):
    subject = network(dtype, 1, 12, 1, (1.0, 0))
    weight, bias = np.zeros((32, 1, 1, 1)), np.repeat([2**31 - 1, 1 - 2**31], 16)
    out = core_conv(subject, weight, bias, scale=(scale, 0), output=(1, 12, 32))
    subject.output("y", out)
    low, high = STORED_RANGE[dtype]
    got = run_core(subject, isa, np.zeros((1, 1, 1, 12), dtype))
    assert_array_equal(got.reshape(12, 32), np.tile(np.repeat([high, low], 16), (12, 1)))


def weights_with_zero_points(dtype):
    """Each output channel its own: no writer makes that for uint8, and the engine runs it."""
    b = Builder(5, 4, 6)
    made = [b.conv("input", 7, 3), b.depthwise("input", bias=False)]
    graph = quantize(b.graph(*made), dtype)
    random, (low, high) = np.random.default_rng(0), STORED_RANGE[dtype]
    tensors = dict(graph.tensors)
    for node in graph.nodes:
        weight = tensors[node.inputs[1]]
        count = len(weight.data)
        zeros = random.integers(low, high, count, np.int32, endpoint=True)
        scales = np.broadcast_to(weight.quantization.scale, count).copy()
        found = dataclasses.replace(weight.quantization, scale=scales, zero_point=zeros)
        tensors[weight.name] = dataclasses.replace(weight, quantization=found)
    return Graph(graph.nodes, tensors, graph.input, graph.outputs)


@every_isa
@every_type
def test_weights_may_have_a_zero_point_for_every_channel(dtype, isa):
    graph, wants = built(weights_with_zero_points, dtype)
    assert_runs(graph, isa, 1, wants)


def additions(channels, activation, dtype, scales):
    b = Builder(channels, 9, 15)
    total = b.add(b.conv("input", channels), b.depthwise("input"), activation)
    twice = b.add("input", "input", activation)
    return quantize(
        b.graph(total, twice, b.add(total, twice, activation)), dtype, seed=channels, scales=scales
    )


@every_isa
@every_count
@every_type
@pytest.mark.parametrize("scales", [None, 1])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("channels", [1, 5, 67])
def test_add(channels, activation, scales, dtype, isa, threads):
    graph, wants = built(additions, channels, activation, dtype, scales)
    assert_runs(graph, isa, threads, wants)


@every_isa
@every_type
@pytest.mark.parametrize("operator", ["relu", "leaky_relu", "concat", "add"])
def test_every_value_goes_through_every_change_of_scale(operator, dtype, isa):
    values = all_values(dtype)
    random = np.random.default_rng(3)
    for _ in range(30):
        b = Builder(1, 1, values.size)
        made = getattr(b, operator)(*["input"] * (2 if operator == "add" else 1))
        # Halves occur where one scale is a multiple of the other.
        given = {}
        if random.random() < 0.5:
            [zero] = reference.random_scale(random, dtype).zero_point
            given = {"input": one_scale(0.25, zero), made: one_scale(2.0 ** random.integers(-4, 3))}
        graph = quantize(b.graph(made), dtype, seed=random.integers(2**32), given=given)
        image = values.reshape(1, 1, 1, -1)
        want = run_quantized(graph, image)[made]
        assert_array_equal(outputs(engine(graph, isa), graph, image)[made].ravel(), want.ravel())


@every_type
def test_every_pair_is_added_in_the_documented_order(dtype):
    # 65536 sums a scale: some are so near a half that any other order of the roundings shows.
    values = all_values(dtype)
    pairs = np.stack(np.meshgrid(values, values)).reshape(2, -1)
    random = np.random.default_rng(5)
    for _ in range(20):
        one, other, total = (reference.pair(fake(random, dtype)) for _ in range(3))
        subject = network(dtype, 1, pairs.shape[1], 2, (1.0, 0))
        parts = [
            core_conv(
                subject,
                np.eye(2)[channel].reshape(1, 2, 1, 1),
                [0],
                weight_scale=scale,
                scale=(scale, 0),
                output=(1, pairs.shape[1], 1),
            )
            for channel, (scale, _) in enumerate((one, other))
        ]
        subject.output(
            "y", subject.add("sum", *parts, clamp=(-math.inf, math.inf, 1.0), scale=total)
        )
        low, high = STORED_RANGE[dtype]
        steps = [
            np.float32(part) * (scale / total[0]) for part, (scale, _) in zip(pairs, (one, other))
        ]
        want = np.clip(np.rint(steps[0] + steps[1]), low - total[1], high - total[1]) + total[1]
        got = run_core(subject, "", pairs.reshape(1, 2, 1, -1))
        assert_array_equal(got.ravel(), want)


def pools(name, dtype):
    channels, height, width, options = POOLS[name]
    b = Builder(channels, height, width)
    return quantize(b.graph(b.max_pool("input", **options)), dtype)


@every_isa
@every_type
@pytest.mark.parametrize("name", POOLS)
def test_max_pool(name, dtype, isa):
    graph, wants = built(pools, name, dtype)
    for threads in THREADS:
        assert_runs(graph, isa, threads, wants)


SIGMOID_SCALES = [1e-3, 0.0127, 0.05, 0.1731, 0.3924, 40.0, 1e30]


@every_isa
@every_type
@pytest.mark.parametrize("scale", SIGMOID_SCALES)
def test_sigmoid_of_every_value(scale, dtype, isa):
    values = all_values(dtype)
    for zero_point in (0, 7):
        b = Builder(1, 1, values.size)
        given = {"input": one_scale(scale, zero_point), "y": one_scale(1 / 255, zero_point)}
        graph = quantize(b.graph(b.sigmoid("input", name="y")), dtype, given=given)
        image = values.reshape(1, 1, 1, -1)
        want = run_quantized(graph, image)["y"]
        assert_array_equal(outputs(engine(graph, isa), graph, image)["y"].ravel(), want.ravel())


def test_the_references_sigmoids_are_certain():
    """As its exponentials, below: what float64 leaves in doubt does not matter in float32."""
    random = np.random.default_rng(0)
    for scale in np.float32([*SIGMOID_SCALES, *(10 ** random.uniform(-4, 1, 400))]):
        values = np.arange(-255, 256) * np.float64(scale)
        exact = np.exp(np.minimum(values, 0)) / (1 + np.exp(-np.abs(values)))
        slack = 4 * np.spacing(exact)
        assert_array_equal(np.float32(exact - slack), np.float32(exact + slack))


def fake(random, dtype):
    """Any value of that type."""
    quantization = reference.random_scale(random, dtype)
    return Tensor("value", (1,), np.dtype(dtype), quantization=quantization)


def softmaxes(columns, dtype, scale):
    b = Builder(columns, 9, 15)
    of_channels = b.softmax("input", 1)
    rows = b.rows(b.conv("input", 2 * columns, name="logits"), columns)
    of_rows = b.softmax(rows, 2)
    zero = 0 if dtype == "uint8" else -5
    given = {"input": one_scale(scale), "logits": one_scale(scale, 3)}
    given |= {of_channels: one_scale(1 / 255, zero), of_rows: one_scale(0.007874, zero)}
    return quantize(b.graph(of_channels, of_rows), dtype, given=given)


SOFTMAX_SCALES = [1e-3, 0.0127, 0.05, 0.1731, 0.3924, 0.5, 1.0, 40.0, 1e30]


@every_isa
@every_type
@pytest.mark.parametrize("scale", SOFTMAX_SCALES)
@pytest.mark.parametrize("columns", [1, 2, 3, 17])
def test_softmax_of_channels_and_of_rows(columns, scale, dtype, isa):
    graph, wants = built(softmaxes, columns, dtype, scale)
    for threads in THREADS:
        assert_runs(graph, isa, threads, wants)


def test_the_references_exponentials_are_certain():
    """Rounded to float32 they are the same from any exp() in float64 that is good to 2 units in the last place.

    So the comparison with the engine's own series tests that, and not this machine's library.
    """
    random = np.random.default_rng(0)
    scales = [*SOFTMAX_SCALES, *(10 ** random.uniform(-4, 1, 400))]
    for scale in np.float32(scales):
        below = np.arange(256) * np.float64(scale)
        exact = np.exp(-below[below < 100])
        slack = 2 * np.spacing(exact)
        assert_array_equal(np.float32(exact - slack), np.float32(exact + slack))


@every_type
def test_the_exponentials_of_the_engine_are_exact(dtype):
    """Every difference of two logits, over output scales that show shares of every size to half a step."""
    *values, high = all_values(dtype)
    image = np.stack([values, np.full_like(values, high)]).reshape(1, 2, 1, -1)
    random = np.random.default_rng(0)
    for scale in np.float32(10 ** random.uniform(-3, 0, 60)):
        for output_scale in np.float32(10.0 ** random.uniform(-9, -2, 8)):
            b = Builder(2, 1, len(values))
            given = {"input": one_scale(scale), "y": one_scale(output_scale)}
            graph = quantize(b.graph(b.softmax("input", 1, name="y")), dtype, given=given)
            want = as_rows(graph, "y", run_quantized(graph, image)["y"])
            assert_array_equal(outputs(engine(graph), graph, image)["y"], want)


@every_type
def test_softmax_rounds_in_the_documented_order(dtype):
    # A million shares: some are so near a half that any other order of the roundings shows.
    random = np.random.default_rng(6)
    for _ in range(30):
        b = Builder(7, 50, 100)
        given = {"input": one_scale(10 ** random.uniform(-2.5, -1))}
        given["y"] = one_scale(10 ** random.uniform(-3.2, -2.2), random.integers(0, 3))
        graph = quantize(b.graph(b.softmax("input", 1, name="y")), dtype, given=given)
        image = image_for(graph, random.integers(2, 2**32))
        want = as_rows(graph, "y", run_quantized(graph, image)["y"])
        assert_array_equal(outputs(engine(graph), graph, image)["y"], want)


@every_type
@pytest.mark.parametrize("value", ["low", "high"])
def test_softmax_of_equal_logits_is_even(value, dtype):
    b = Builder(2, 1, 1)
    graph = quantize(
        b.graph(b.softmax("input", 1, name="y")),
        dtype,
        given={"input": one_scale(1e30), "y": one_scale(1 / 64)},
    )
    extreme = STORED_RANGE[dtype][value == "high"]
    got = outputs(engine(graph), graph, np.full((1, 2, 1, 1), extreme, dtype))["y"]
    assert got.tolist() == [[32, 32]]


# --- Memory that operators share --------------------------------------------------------------------------


def sharing(build, scales, only_last, dtype):
    b = Builder(3, 9, 11)
    last, others = build(b)
    graph = b.graph(last) if only_last else b.graph(last, *others)
    return quantize(graph, dtype, seed=2, scales=scales)


def is_all_needed(build):
    b = Builder(3, 9, 11)
    last, _ = build(b)
    used = {name for node in b.nodes for name in node.inputs} | {last}
    return used >= {node.output for node in b.nodes}


@every_isa
@every_count
@every_type
@pytest.mark.parametrize("scales", [None, 1, 2], ids=["all differ", "one scale", "two scales"])
@pytest.mark.parametrize("build", SHARING, ids=lambda build: build.__name__)
def test_values_that_share_memory_do_not_disturb_one_another(build, scales, dtype, isa, threads):
    graph, wants = built(sharing, build, scales, False, dtype)
    assert_runs(graph, isa, threads, wants)
    # Without the others as outputs, their memory may be used again.
    if is_all_needed(build):
        graph, wants = built(sharing, build, scales, True, dtype)
        assert_runs(graph, isa, threads, wants)


def kinds(graph):
    return [step.kind for step in engine(graph).steps]


@every_type
def test_a_concat_copies_only_the_parts_of_another_scale(dtype):
    b = Builder(3, 16, 16)
    x, y, z = (b.conv("input", 4, 3) for _ in range(3))
    b.concat(x, y, z, name="joined")
    same, other = one_scale(0.05, 3), one_scale(0.05, 4)
    given = {x: same, y: other, z: same, "joined": same}
    graph = quantize(b.graph("joined"), dtype, given=given)
    assert kinds(graph) == ["conv"] * 3 + ["copy"]
    assert_runs(graph)
    given[y] = one_scale(0.06, 3)
    assert kinds(quantize(b.graph("joined"), dtype, given=given)).count("copy") == 1
    given[y] = same
    assert kinds(quantize(b.graph("joined"), dtype, given=given)) == ["conv"] * 3


@every_type
def test_a_value_in_two_concats_of_different_scales_lies_in_the_one_that_has_its_own(dtype):
    b = Builder(3, 16, 16)
    x, y = b.conv("input", 4, 3), b.conv("input", 5, 3)
    joined = [b.concat(x, y), b.concat(y, x)]
    one, other = one_scale(0.05, 3), one_scale(0.03, 5)
    for last in (0, 1):
        given = {x: one, y: one, joined[last]: one, joined[1 - last]: other}
        graph = quantize(b.graph(*joined), dtype, given=given)
        assert kinds(graph).count("copy") == 2
        assert_runs(graph)


# Of three channels, 16 x 16, with a margin of one pixel before, between and after the rows; in lines of 64.
INPUT_BYTES = math.ceil(3 * (1 + 16 * 17) / 64) * 64


@every_type
def test_relu_in_place_may_change_the_scale(dtype):
    b = Builder(3, 16, 16)
    x = b.conv("input", 4, 3)
    given = {x: one_scale(0.05, 3), "y": one_scale(0.03, 5)}
    graph = quantize(b.graph(b.relu(x, name="y")), dtype, given=given)
    # The input with its three channels, and one value that is written twice.
    assert engine(graph).arena_bytes == INPUT_BYTES + 4 * 256
    assert_runs(graph)


@every_type
def test_softmax_in_place_may_change_the_scale(dtype):
    b = Builder(3, 16, 16)
    x = b.conv("input", 4, 3)
    given = {x: one_scale(0.05, 3), "y": one_scale(1 / 200, 5)}
    graph = quantize(b.graph(b.softmax(x, 1, name="y")), dtype, given=given)
    assert engine(graph).arena_bytes == INPUT_BYTES + 4 * 256
    assert_runs(graph)


@given(
    graph=networks(),
    dtype=st.sampled_from(TYPES),
    scales=st.sampled_from([None, 1, 2, 3]),
    seed=st.integers(0, 2**32 - 1),
    isa=st.sampled_from(_core.isas()),
    threads=st.sampled_from(THREADS),
)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_random_networks(graph, dtype, scales, seed, isa, threads):
    assert_runs(quantize(graph, dtype, seed=seed, scales=scales), isa, threads)


@pytest.mark.slow
@given(
    graph=networks(),
    dtype=st.sampled_from(TYPES),
    scales=st.sampled_from([None, 1, 2, 3]),
    seed=st.integers(0, 2**32 - 1),
    isa=st.sampled_from(_core.isas()),
    threads=st.sampled_from(THREADS),
)
@settings(
    max_examples=4000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_many_random_networks(graph, dtype, scales, seed, isa, threads):
    assert_runs(quantize(graph, dtype, seed=seed, scales=scales), isa, threads)


def test_the_reference_is_the_float_network_but_for_rounding():
    """One convolution: within half a step of each input, weight and bias, and of the output."""
    b = Builder(8, 6, 7)
    graph = b.graph(b.conv("input", 5, 3, name="y"))
    for dtype in TYPES:
        quantized = quantize(graph, dtype, given={"y": one_scale(0.1, 4)})
        stored = image_for(quantized, 5)
        tensors = quantized.tensors
        image = reference.real(stored, tensors["input"])
        weight = tensors[graph.nodes[0].inputs[1]].quantization.scale.max() / 2
        want, _ = reference.run_graph(graph, image)["y"]
        got = run_quantized(quantized, stored)["y"]
        clipped = (got == STORED_RANGE[dtype][0]) | (got == STORED_RANGE[dtype][1])
        bound = 72 * np.abs(image).max() * weight + 0.1 / 2 + 0.01
        assert (np.abs(reference.real(got, tensors["y"]) - want)[~clipped] < bound).all()
        assert clipped.mean() < 0.5


# --- Refusals ---------------------------------------------------------------------------------------------


def little(dtype="int8", **given):
    b = Builder(4, 4, 5)
    joined = b.concat(b.conv("input", 3, name="conv"), b.relu("input", name="relu"), name="joined")
    graph = b.graph(b.softmax(b.rows(joined, 7), 2, name="y"))
    return quantize(graph, dtype, given=given)


def refusal(graph):
    with pytest.raises(BackendError) as caught:
        native.lower(graph)
    return str(caught.value)


def changed(graph, name, **fields):
    tensors = dict(graph.tensors)
    tensors[name] = dataclasses.replace(tensors[name], **fields)
    return Graph(graph.nodes, tensors, graph.input, graph.outputs)


def weight_and_bias(graph):
    [conv] = [node for node in graph.nodes if node.name == "node_conv"]
    return conv.inputs[1:]


@pytest.mark.parametrize("value", ["conv", "relu", "joined", "y"])
@pytest.mark.parametrize(
    ("dtype", "other"),
    [("int8", "uint8"), ("int8", "float32"), ("uint8", "int8"), ("uint8", "float32")],
)
def test_another_type_in_between_is_refused(dtype, other, value):
    message = refusal(changed(little(dtype), value, dtype=np.dtype(other)))
    assert f"'node_{value}': it makes {other} from another type" in message


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float64", "int32"])
def test_a_network_of_another_type_is_refused(dtype):
    message = refusal(changed(little(), "input", dtype=np.dtype(dtype)))
    assert message.endswith(f"this one is {dtype}")


@every_type
@pytest.mark.parametrize("value", ["input", "conv", "relu", "joined", "y"])
def test_a_value_without_a_scale_is_refused(value, dtype):
    message = refusal(changed(little(dtype), value, quantization=None))
    assert f"'{value}' is {dtype} without a scale" in message


@every_type
def test_a_weight_without_a_scale_is_refused(dtype):
    graph = little(dtype)
    weight, _ = weight_and_bias(graph)
    assert "Conv 'node_conv'" in refusal(changed(graph, weight, quantization=None))


@every_type
def test_weights_and_biases_of_another_type_are_refused(dtype):
    graph = little(dtype)
    for name in weight_and_bias(graph):
        data = np.float32(graph.tensors[name].data)
        message = refusal(changed(graph, name, dtype=data.dtype, data=data))
        assert "Conv 'node_conv'" in message
        assert "float32" in message


@pytest.mark.parametrize("value", ["input", "conv", "relu", "joined", "y"])
def test_a_value_with_a_scale_for_every_channel_is_refused(value):
    several = reference.Quantization(np.full(4, 0.1, np.float32), np.zeros(4, np.int32))
    message = refusal(changed(little(), value, quantization=several))
    assert f"'{value}' has 4 scales; an activation needs one" in message


def test_a_weight_with_scales_for_other_channels_is_refused():
    graph = little()
    weight, _ = weight_and_bias(graph)
    several = reference.Quantization(np.full(2, 0.1, np.float32), np.zeros(2, np.int32))
    assert "Conv 'node_conv'" in refusal(changed(graph, weight, quantization=several))


@every_type
@pytest.mark.parametrize("factor", [0.5, 1.05, 100, 0])
def test_a_bias_in_other_units_is_refused(factor, dtype):
    graph = little(dtype)
    _, bias = weight_and_bias(graph)
    found = graph.tensors[bias].quantization
    other = dataclasses.replace(found, scale=found.scale * np.float32(factor))
    assert "'node_conv': its bias is not in units" in refusal(
        changed(graph, bias, quantization=other)
    )


@every_type
def test_a_bias_in_units_as_writers_round_them_runs(dtype):
    graph = little(dtype)
    _, bias = weight_and_bias(graph)
    found = graph.tensors[bias].quantization
    near = dataclasses.replace(found, scale=np.float32(np.round(found.scale, 6)))
    assert_runs(changed(graph, bias, quantization=near), wants=expected(graph))
    assert_runs(changed(graph, bias, quantization=None), wants=expected(graph))


def test_a_bias_with_a_zero_point_is_refused():
    graph = little()
    _, bias = weight_and_bias(graph)
    found = graph.tensors[bias].quantization
    shifted = dataclasses.replace(found, zero_point=found.zero_point + 5)
    assert "Conv 'node_conv'" in refusal(changed(graph, bias, quantization=shifted))


@every_type
@pytest.mark.parametrize("scale", [0.0, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("value", ["input", "conv", "relu", "joined", "y", "weight"])
def test_a_scale_that_is_no_positive_number_is_refused(value, scale, dtype):
    graph = little(dtype)
    weight, bias = weight_and_bias(graph)
    graph = changed(graph, bias, quantization=None)
    name = weight if value == "weight" else value
    found = one_scale(scale, 1)
    message = refusal(changed(graph, name, quantization=found))
    assert "scale" in message
    assert value in message or value == "weight"


@pytest.mark.parametrize(("dtype", "zero"), [("int8", -128), ("int8", 128), ("uint8", 256)])
@pytest.mark.parametrize("value", ["input", "conv", "relu", "joined", "y"])
def test_a_zero_point_that_is_no_value_is_refused(value, dtype, zero):
    message = refusal(changed(little(dtype), value, quantization=one_scale(0.1, zero)))
    assert "zero point" in message


def rescaling(operator, dtype, before, after):
    b = Builder(4, 4, 5)
    made = getattr(b, operator)(*["input"] * (2 if operator == "add" else 1), name="y")
    given = {"input": one_scale(before, 3), "y": one_scale(after, 2)}
    return quantize(b.graph(made), dtype, given=given)


@every_type
@pytest.mark.parametrize("operator", ["relu", "concat", "add"])
def test_scales_too_far_apart_for_float32_are_refused(operator, dtype):
    # 0 times infinity is no number, and as an integer another one on every CPU.
    assert "'node_y'" in refusal(rescaling(operator, dtype, 1e38, 1e-38))


@every_type
@pytest.mark.parametrize("operator", ["relu", "concat", "add"])
def test_a_scale_that_leaves_nothing_of_another_gives_zeros(operator, dtype):
    graph = rescaling(operator, dtype, 1e-38, 1e38)
    assert_runs(graph)
    assert (outputs(engine(graph), graph, image_for(graph, 2))["y"] == 2).all()


@every_type
def test_a_multiplier_beyond_float32_is_refused(dtype):
    subject = network(dtype, 1, 1, 1, (1e30, 0))
    with pytest.raises(ValueError, match="'it'"):
        core_conv(
            subject,
            np.ones((1, 1, 1, 1)),
            [0],
            scale=(1e-30, 0),
            weight_scale=1.0,
            output=(1, 1, 1),
        )


@every_type
def test_sums_that_could_overflow_are_refused(dtype):
    channels = 8
    weight = np.full((channels, channels, 1, 1), 100)
    room = 2**31 - 1 - 2 * 255 * 100 * channels

    def conv(bias):
        subject = network(dtype, 2, 2, channels, (1.0, 0))
        biases = np.zeros(channels, np.int64)
        biases[3] = bias
        return core_conv(
            subject, weight, biases.astype(np.int32), scale=(1.0, 0), output=(2, 2, channels)
        )

    for bias in (room, -room):
        assert conv(bias) == 1
    for bias in (room + 1, -room - 1, 2**31 - 1, -(2**31)):
        with pytest.raises(ValueError, match="'it': its sums could overflow 32 bits"):
            conv(bias)


@every_type
def test_views_that_change_the_scale_are_refused(dtype):
    b = Builder(4, 4, 5)
    rows = b.rows("input", 4)
    graph = quantize(b.graph(rows), dtype)
    transposed, reshaped = (node.output for node in graph.nodes)
    for name in (transposed, reshaped):
        message = refusal(changed(graph, name, quantization=one_scale(0.9, 1)))
        assert "it changes the scale of its values" in message


@every_type
def test_the_core_refuses_operators_of_another_type_itself(dtype):
    floats = _core.Network(4, 4, 2, dtype="float32", scale=(1.0, 0))
    with pytest.raises(ValueError, match="a quantised convolution in a float32 network"):
        core_conv(floats, np.ones((3, 2, 1, 1)), np.zeros(3), scale=(1.0, 0), output=(4, 4, 3))
    subject = network(dtype, 4, 4, 2, (1.0, 0))
    with pytest.raises(ValueError, match="a float32 convolution in a quantised network"):
        subject.conv(
            "it",
            0,
            weight=np.ones((3, 2, 1, 1), np.float32),
            bias=np.zeros(3, np.float32),
            stride=(1, 1),
            dilation=(1, 1),
            pad=(0, 0),
            groups=1,
            clamp=(0, 1, 1),
            output=(4, 4, 3),
        )


@every_type
@pytest.mark.parametrize(
    ("weight", "bias"),
    [
        (np.ones((3, 2, 1)), np.zeros(3)),
        (np.ones((3, 1, 1, 1)), np.zeros(3)),
        (np.ones((2, 2, 1, 1)), np.zeros(3)),
        (np.ones((3, 2, 1, 1)), np.zeros(2)),
        (np.ones((3, 2, 13, 13)), np.zeros(3)),
    ],
)
def test_the_core_checks_a_quantised_convolution_itself(weight, bias, dtype):
    subject = network(dtype, 4, 4, 2, (1.0, 0))
    with pytest.raises(ValueError, match="native engine"):
        core_conv(subject, weight, bias, scale=(1.0, 0), output=(4, 4, 3))


@every_type
def test_a_quantised_convolution_of_no_channels_is_refused(dtype):
    subject = network(dtype, 4, 4, 2, (1.0, 0))
    with pytest.raises(ValueError, match="the shape is not positive"):
        core_conv(subject, np.ones((0, 2, 1, 1)), np.zeros(0), scale=(1.0, 0), output=(4, 4, 0))


# --- The detector -----------------------------------------------------------------------------------------


def detector(dtype, **options):
    """A float detector and the same one quantised."""
    graph = reference.detector_graph(landmarks=True, **options)
    low, high = STORED_RANGE[dtype]
    middle = (low + high + 1) // 2
    given = {name: one_scale(0.03, middle) for name in graph.tensors}
    given["scores"] = one_scale(0.007874 if dtype == "int8" else 0.003922)
    # The two levels of a head are joined: one of them is copied, the other not.
    given["boxes"] = one_scale(0.04, middle + 2)
    return quantize(graph, dtype, given=given)


def as_tmfile(graph):
    """As Tengine's quantiser would have written it."""
    [dtype] = {graph.tensors[name].dtype.name for name in (graph.input, *graph.outputs)}
    net = tm.FileBuilder(dtype=tm.CODES[dtype])
    made = {}

    def pairs(name):
        found = graph.tensors[name].quantization
        return [(float(s), int(z)) for s, z in zip(found.scale, found.zero_point)]

    for tensor in graph.constants:
        made[tensor.name] = net.const(tensor.name, tensor.data, pairs(tensor.name))
    net.quant = pairs(graph.input)
    made[graph.input] = net.input(graph.input, graph.tensors[graph.input].shape)
    for node in graph.nodes:
        op, inputs = node.op, [made[name] for name in node.inputs]
        net.quant = pairs(node.output)
        if isinstance(op, Conv):
            made[node.output] = net.op(
                tm.CONVOLUTION,
                node.output,
                inputs,
                [
                    *graph.tensors[node.inputs[1]].shape[2:],
                    *op.stride,
                    *op.dilation,
                    0,
                    graph.tensors[node.output].shape[1],
                    op.groups,
                    {"none": -1, "relu": 0, "relu6": 6}[op.activation],
                    *op.pads,
                ],
            )
        elif isinstance(op, Reshape):
            made[node.output] = net.reshape(node.output, inputs, op.shape)
        else:
            kind, param = {
                Add: lambda op: (tm.ELTWISE, [2, 0, 0, 0, 0]),  # noqa: ARG005
                Relu: lambda op: (tm.RELU, [0.0]),  # noqa: ARG005
                Concat: lambda op: (tm.CONCAT, [op.axis]),
                Softmax: lambda op: (tm.SOFTMAX, [op.axis]),
                reference.Transpose: lambda op: (tm.TRANSPOSE, [list(op.order)]),
            }[type(op)](op)
            made[node.output] = net.op(kind, node.output, inputs, param)
    return net.build(*(made[name] for name in graph.outputs)).data


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(type, changed spec fields) -> a model file beside its spec."""
    folder = tmp_path_factory.mktemp("quantized")

    @functools.cache
    def write(dtype, channels="rgb", resize="stretch"):
        graph = detector(dtype, channels=1 if channels == "gray" else 3)
        path = folder / f"{dtype}-{channels}-{resize}.tmfile"
        path.write_bytes(as_tmfile(graph))
        spec = reference.detector_spec(graph, channels=channels, resize=resize, score_threshold=0.5)
        path.with_suffix(".json").write_text(specs.to_json(spec))
        return path, graph, spec

    return write


class Heads:
    """A float backend that gives these heads whatever it is shown."""

    def __init__(self, shape, heads):
        self._input = np.zeros(shape, np.float32)
        self._heads = heads

    def input(self):
        return self._input

    def run(self):
        pass

    def output(self, name):
        return self._heads[name]


def core_options(spec):
    return _core.Options(
        score_threshold=spec.score_threshold,
        iou_threshold=spec.iou_threshold,
        nms="hard",
        max_faces=750,
        pre_nms_top_k=5000,
        min_face=0.0,
    )


def found_by_definition(graph, spec, frame):
    """Preprocessed and run by the reference, the heads as real numbers decoded by the float detector."""
    source = graph.tensors[graph.input]
    image = reference.quantized_pixels(
        reference.preprocess(
            frame,
            "bgr",
            width=spec.input.width,
            height=spec.input.height,
            order=spec.input.channels,
            mean=spec.input.mean,
            scale=spec.input.scale,
        ),
        source,
    )
    values = run_quantized(graph, image)
    heads = {name: reference.real(values[name], graph.tensors[name]) for name in graph.outputs}
    core = _core.Detector(Heads(source.shape, heads), model.core_spec(spec), core_options(spec))
    return core.detect(frame, "bgr", (0, 0, frame.shape[1], frame.shape[0]))[0]


@every_isa
@every_count
@every_type
@pytest.mark.parametrize("channels", ["rgb", "bgr", "gray"])
def test_it_finds_what_the_definitions_say(models, channels, dtype, isa, threads, monkeypatch):
    monkeypatch.setenv("EDGEFACE_ISA", isa)
    path, graph, spec = models(dtype, channels)
    subject = FaceDetector(path, backend="native", num_threads=threads)
    for seed in range(2):
        frame = picture(seed=seed)
        want = found_by_definition(graph, spec, frame)
        assert len(want) > 3
        assert want.shape[1] == 15
        assert_array_equal(subject.detect(frame).rows, want)


@every_type
def test_the_file_is_the_network(models, dtype):
    path, graph, _ = models(dtype)
    read = model.load(path).graph
    for name in graph.tensors:
        want, got = graph.tensors[name], read.tensors[name]
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        assert_array_equal(got.quantization.scale, want.quantization.scale)
        assert_array_equal(got.quantization.zero_point, want.quantization.zero_point)


@every_type
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_every_isa_and_thread_count_finds_the_same_bytes(models, resize, dtype, monkeypatch):
    path, _, _ = models(dtype, "rgb", resize)
    digests = set()
    for isa in _core.isas():
        monkeypatch.setenv("EDGEFACE_ISA", isa)
        for threads in THREADS:
            subject = FaceDetector(path, backend="native", num_threads=threads)
            digest = hashlib.sha256()
            for seed in range(4):
                faces = subject.detect(picture(seed=seed))
                assert len(faces) > 1
                digest.update(faces.rows.tobytes())
            digests.add(digest.hexdigest())
    assert len(digests) == 1


# --- The released networks, and ours ----------------------------------------------------------------------

PHOTOGRAPHS = ("1.jpg", "2.jpg", "3.jpg", "10.jpg", "17.jpg", "26.jpg")
# sha256 of the six photographs' pixels, and of all heads' stored bytes, photograph after photograph. There is
# no outside truth for the bytes: this engine made them (`python tests/test_quantized.py`, x86-64), and the
# test below holds them against the reference. Any machine, ISA and number of threads must give the same.
PIXELS = "908c92d2a80c279e7f76de5c6bc347f018f0550d57a406f274ea2b41550c9bcb"
GOLDEN = {
    "ours/rfb320-landmarks-int8": "6cc8a6d33a14aa0f9c5491fcf71aea46c3648bdc8a826596f873a9fc7e4f6c6d",
    "ours/rfb640-int8": "0f4a29b36650d166055ffccd810ea6ddaf93a6c8f0aaf438d59d97648ca2806b",
    "ours/slim320-int8": "23f11de2bdc36732b1acaf308a36356c74f41d645d5bb20f362c894ca739e1e6",
    "ours/rfb320-int8": "310e7e6109e5dcee8d8c409123c4c80934923ba5f6eb2afe4bff84d21e343294",
    "released/rfb320-int8": "986d623ee3b4de7f00462af47827bde2cbdd1539c9b254d0040acbca03bb8338",
    "released/rfb320-uint8": "9f3fde4057587a3b62517b755816ffd50ca2a99e6d2713bf10434fcb639ed67c",
}
FOLDERS = {
    "released": SHARED / "weights" / "tmfile",
    "ours": Path(__file__).parents[1] / "models",
}
every_model = pytest.mark.parametrize("name", GOLDEN)


@functools.cache
def photographs():
    return [reference.photograph(name) for name in PHOTOGRAPHS]


def needs_these_pixels():
    if digest(photographs()) != PIXELS:
        pytest.skip("this OpenCV decodes JPEG to other pixels")


def digest(arrays):
    total = hashlib.sha256()
    for array in arrays:
        total.update(array.tobytes())
    return total.hexdigest()


@functools.cache
def opened(name):
    folder, stem = name.split("/")
    return model.load(FOLDERS[folder] / f"{stem}.tmfile")


def heads_of_photographs(name, isa, threads):
    found = opened(name)
    runner = engine(found.graph, isa, threads)
    core = _core.Detector(runner, model.core_spec(found.spec), core_options(found.spec))
    heads = []
    for frame in photographs():
        core.detect(frame, "bgr", (0, 0, frame.shape[1], frame.shape[0]))
        heads += [runner.output(head).copy() for head in found.graph.outputs]
    return heads


def test_of_every_model_of_ours_the_bytes_are_known():
    names = [f"ours/{path.stem}" for path in FOLDERS["ours"].glob("*.tmfile")]
    graphs = {name: opened(name).graph for name in names}
    quantised = {name for name, g in graphs.items() if g.tensors[g.input].dtype != np.float32}
    assert quantised <= set(GOLDEN), "python tests/test_quantized.py ours/NAME tells them"


@needs_shared
@every_isa
@every_count
@every_model
def test_photographs_give_the_same_bytes_on_every_machine(name, isa, threads):
    needs_these_pixels()
    assert digest(heads_of_photographs(name, isa, threads)) == GOLDEN[name]


@needs_shared
@every_model
def test_the_bytes_of_photographs_are_those_of_the_reference(name):
    found = opened(name)
    spec, graph = found.spec, found.graph
    heads = heads_of_photographs(name, "", 1)
    for i, frame in enumerate(photographs()):
        image = reference.quantized_pixels(
            reference.preprocess(
                frame,
                "bgr",
                width=spec.input.width,
                height=spec.input.height,
                order=spec.input.channels,
                mean=spec.input.mean,
                scale=spec.input.scale,
            ),
            graph.tensors[graph.input],
        )
        values = run_quantized(graph, image)
        for head, got in zip(graph.outputs, heads[len(graph.outputs) * i :]):
            assert_array_equal(got, values[head][0])


if __name__ == "__main__":
    print(f"pixels: {digest(photographs())}")
    for golden in sys.argv[1:] or GOLDEN:
        for one in _core.isas():
            print(f"{golden}, {one}: {digest(heads_of_photographs(golden, one, 1))}")
