from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import tengine_reference
from edgeface import ModelError, _core, model, quantization
from edgeface.backends import native
from edgeface.faces import Faces
from edgeface.formats import onnx, tmfile
from edgeface.graph import Conv, Node, Relu
from edgeface.model import Model
from edgeface.quantization import agreement, equalization, logits, observing, ranges, rounding
from edgeface.quantization.pictures import Pictures
from reference import (
    ISAS,
    ROUNDING,
    SHARED,
    Builder,
    detector_graph,
    detector_spec,
    needs_shared,
    picture,
    run_graph,
    run_quantized,
)
from test_native import as_rows

ULTRAFACE = SHARED / "weights" / "ultraface"
METHODS = [quantization.Method(name) for name in quantization.METHODS]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def images(graph, count=4, seed=0):
    """Inputs whose channels differ in size."""
    random = np.random.default_rng(seed)
    shape = graph.tensors[graph.input].shape
    sizes = 2.0 ** -np.arange(shape[1])[:, None, None]
    return [np.float32(random.normal(size=shape) * sizes) for _ in range(count)]


def chain():
    """Every case of equalisation: depthwise and dense readers, one of each, several, an output, a sum."""
    b = Builder(3, 12, 14, seed=2)
    x = b.conv("input", 8, 3, activation="relu")  # to a depthwise one
    x = b.depthwise(x, activation="relu")  # to two dense ones
    y = b.conv(x, 6, 3, bias=False)  # linear, to a depthwise and a dense one
    z = b.conv(x, 6, activation="relu6")  # the factor cannot pass
    one, other = b.depthwise(y), b.conv(y, 6, groups=2, activation="relu")  # to a sum, to an output
    total = b.add(one, b.conv(z, 6), "relu")
    return b.graph(b.conv(total, 4, name="y"), other)


def made(graph):
    return [node.output for node in graph.nodes]


# --- What is observed ------------------------------------------------------------------------------------


def values_of(kind, count, seed=0):
    random = np.random.default_rng(seed)
    found = {
        "normal": random.normal(size=count),
        "half zero": np.maximum(random.normal(size=count), 0),
        "long tail": random.standard_t(2, count),
        "powers of two": 2.0 ** random.integers(-9, 3, count),
        "tiny": random.normal(size=count) * 1e-30,
    }[kind]
    return np.abs(found).astype(np.float32)


KINDS = ("normal", "half zero", "long tail", "powers of two", "tiny")


@pytest.mark.parametrize("kind", KINDS)
def test_a_histogram_counts_every_magnitude_in_its_bin(kind):
    values = values_of(kind, 5000)
    histogram = observing.Histogram()
    histogram.add(values)
    assert histogram.largest == values.max()
    assert histogram.zeros == (values == 0).sum()
    assert math.frexp(histogram.width)[0] == 0.5
    bins = np.floor(np.float64(values[values > 0]) / histogram.width).astype(int)
    assert bins.max() >= observing.BINS // 2
    want = np.zeros(observing.BINS, int)
    for one in bins:
        want[one] += 1
    assert_array_equal(histogram.counts, want)


@pytest.mark.parametrize("kind", KINDS)
def test_a_histogram_does_not_depend_on_the_order_of_what_it_counts(kind):
    values = np.sort(values_of(kind, 3000))
    parts = np.split(values, 6)
    rising, falling, joined = (observing.Histogram() for _ in range(3))
    for part in parts:
        rising.add(part)
        one = observing.Histogram()
        one.add(part)
        joined.merge(one)
    for part in parts[::-1]:
        falling.add(part)
    for other in (falling, joined):
        assert_array_equal(rising.counts, other.counts)
        assert (rising.width, rising.largest) == (other.width, other.largest)
        assert rising.zeros == other.zeros


def test_a_histogram_of_zeros_alone_has_no_magnitude():
    histogram = observing.Histogram()
    histogram.add(np.zeros(7, np.float32))
    other = observing.Histogram()
    other.merge(histogram)
    assert (other.largest, other.zeros, other.counts.sum()) == (0, 7, 0)
    assert {method.range_of(other) for method in METHODS} == {1}


def test_a_probe_shows_every_value_though_operators_share_memory():
    for graph in (detector_graph(landmarks=True), chain()):
        probe = observing.Probe(graph)
        assert set(probe.names) == {
            node.output for node in graph.nodes if node.kind not in ("Transpose", "Reshape")
        } | set(graph.outputs)
        for image in images(graph):
            got, want = probe.run(image), run_graph(graph, image)
            for name in probe.names:
                value, lost = (as_rows(graph, name, part) for part in want[name])
                assert (
                    np.abs(got[name] - value.reshape(got[name].shape))
                    <= lost.reshape(got[name].shape)
                ).all()


def test_statistics_are_those_of_all_images():
    graph = detector_graph()
    inputs = images(graph, 3)
    found = observing.observe(graph, iter(inputs))
    values = [run_graph(graph, image) for image in inputs]
    for name, statistics in found.items():
        shape = graph.tensors[name].shape
        axes = (0, 2, 3) if len(shape) == 4 else (0, 1)
        every = np.stack([value[name][0] for value in values])
        lost = max(value[name][1].max() for value in values)
        axes = tuple(axis + 1 for axis in axes)
        largest, mean = np.abs(every).max(axis=(0, *axes)), every.mean(axis=(0, *axes))
        assert_allclose(statistics.largest, largest, rtol=ROUNDING, atol=lost)
        assert_allclose(statistics.mean, mean, rtol=0, atol=lost + ROUNDING * np.abs(every).max())
        count = statistics.histogram.counts.sum() + statistics.histogram.zeros
        assert count == 3 * math.prod(shape)


# --- Ranges ----------------------------------------------------------------------------------------------


def histogram_of(values):
    histogram = observing.Histogram()
    histogram.add(np.float32(values))
    return histogram


def squared_error(values, limit):
    step = limit / 127
    return sum((v - min(round(v / step), 127) * step) ** 2 for v in np.float64(values).tolist())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "powers of two"])
def test_mse_has_hardly_more_error_than_the_best_range(kind):
    values = values_of(kind, 1000)
    limit = quantization.Method("mse").range_of(histogram_of(values))
    largest = float(values.max())
    best = min(squared_error(values, largest * 2 ** (-k / 32)) for k in range(32 * 5))
    # The best may lie between two that are tried, and a bin has one magnitude for all of its values.
    assert squared_error(values, limit) <= 1.05 * best


def test_mse_clips_a_lone_outlier_and_minmax_does_not():
    values = np.append(values_of("normal", 100_000), 60)
    limits = {m.name: m.range_of(histogram_of(values)) for m in METHODS}
    assert limits["minmax"] == 60
    # Clipped at 30 it loses 30**2, and as much as 60 would lose 10**5 * (60 / 127)**2 / 12 = 1860 for all.
    assert limits["mse"] < 45
    assert limits["percentile"] < 6


@pytest.mark.parametrize("percentile", [50, 90, 99.9, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_percentile_keeps_that_share_and_hardly_more(percentile, kind):
    values = values_of(kind, 5000)
    histogram = histogram_of(values)
    limit = quantization.Method("percentile", percentile).range_of(histogram)
    # A share of whole values is a little off in float64.
    assert np.mean(values <= limit) >= percentile / 100 - 1e-9
    assert np.mean(values <= limit - 2 * histogram.width) <= percentile / 100 + 1e-9
    assert limit <= values.max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("kl",), "method is 'kl'; expected one of mse, percentile, minmax"),
        (("percentile", 0), "percentile is 0; expected above 0, at most 100"),
        (("percentile", 101), "percentile is 101"),
        (("percentile", math.nan), "percentile is nan"),
    ],
)
def test_an_unknown_method_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        quantization.Method(*arguments)


def test_values_that_are_joined_or_passed_on_share_a_range():
    graph = detector_graph()
    found = [set(names) for names in ranges.groups(graph) if len(names) > 1]
    heads = [set(head) for head in found if head & {"logits", "boxes"}]
    # Of two levels each: convolution, transpose, reshape; then the joined head.
    assert [len(head) for head in heads] == [7, 7]
    assert heads == found
    b = Builder(3, 4, 4)
    x, y = b.conv("input", 4), b.conv("input", 4)
    graph = b.graph(b.relu(b.concat(x, y, name="joined"), name="relu"), b.add(x, x, name="sum"))
    assert {frozenset(names) for names in ranges.groups(graph)} == {
        frozenset({"input"}),
        frozenset({x, y, "joined", "relu"}),
        frozenset({"sum"}),
    }


@pytest.mark.parametrize("mean", [127.0, 128.0, 127.5])
def test_grey_levels_are_the_steps_of_the_input_where_they_fit(mean):
    spec = detector_spec(detector_graph(), mean=(mean,) * 3, scale=(1 / 128,) * 3)
    step = ranges.input_range(spec.input) / 127
    assert step == 1 / 128
    levels = np.arange(256)
    stored = np.clip(np.rint((levels - mean) / 128 / step), -127, 127)
    assert (np.abs(stored - (levels - mean)) <= 1).all()
    assert (np.abs(stored - (levels - mean)) <= 0.5).sum() >= 255


@pytest.mark.parametrize(
    ("mean", "scale"),
    [
        ((104.0, 117.0, 123.0), (1.0,) * 3),
        ((127.0,) * 3, (1 / 58, 1 / 57, 1 / 60)),
        ((0.0,) * 3, (1 / 255,) * 3),
    ],
)
def test_other_inputs_have_room_for_every_grey_level(mean, scale):
    spec = detector_spec(detector_graph(), mean=mean, scale=scale)
    reach = max(abs((level - m) * s) for m, s in zip(mean, scale) for level in (0, 255))
    assert ranges.input_range(spec.input) == reach


# --- Equalisation ----------------------------------------------------------------------------------------


def equalized(graph):
    own = rounding.with_own_constants(graph)
    return own, equalization.equalized(own, observing.observe(own, images(own)))


@pytest.mark.parametrize("build", [chain, lambda: detector_graph(landmarks=True)])
def test_an_equalised_network_computes_the_same(build):
    before, after = equalized(build())
    assert any(
        not np.array_equal(tensor.data, after.tensors[tensor.name].data)
        for tensor in before.constants
    )
    for image in images(before, seed=1):
        want, got = run_graph(before, image), run_graph(after, image)
        for name in before.outputs:
            # Float64, but weights and biases are rounded to float32, one relative rounding each at both ends of a
            # factor. What one float32 rounding at every step may lose is in `lost`, and twice that is beyond.
            value, lost = want[name]
            assert (np.abs(got[name][0] - value) <= 2 * lost).all()


def test_channels_that_only_depthwise_convolutions_read_become_equally_large():
    b = Builder(3, 12, 12)
    x = b.conv("input", 8, 3, activation="relu", name="x")
    graph = b.graph(b.depthwise(x), b.depthwise(x, stride=2))
    before, after = equalized(graph)
    largest = [observing.observe(g, images(g))["x"].largest for g in (before, after)]
    assert largest[0].max() > 1.5 * largest[0].min()
    # Two roundings to float32, of a weight and in the sum of 27 products.
    assert_allclose(largest[1], largest[1].max(), rtol=30 * ROUNDING)


def test_a_channel_that_is_always_off_stays_as_it_is():
    b = Builder(3, 8, 8)
    x = b.conv("input", 4, activation="relu", name="x")
    graph = b.graph(b.depthwise(x), b.conv(x, 5))
    tensors = dict(graph.tensors)
    weight, bias = graph.nodes[0].inputs[1:]
    for name in (weight, bias):
        data = tensors[name].data.copy()
        data[2] = -1 if name == bias else 0
        tensors[name] = dataclasses.replace(tensors[name], data=data)
    before, after = equalized(dataclasses.replace(graph, tensors=tensors))
    assert observing.observe(before, images(before))["x"].largest[2] == 0
    for tensor in after.constants:
        assert np.isfinite(tensor.data).all()
    assert np.abs(after.tensors[bias].data[2]) < 1e4
    for image in images(before, seed=1):
        want, got = run_graph(before, image), run_graph(after, image)
        for name in before.outputs:
            assert (np.abs(got[name][0] - want[name][0]) <= 2 * want[name][1]).all()


def test_a_constant_that_two_convolutions_read_becomes_two():
    b = Builder(3, 8, 8)
    x = b.conv("input", 4, 3, activation="relu")
    first = b.nodes[-1]
    b.tensors["again"] = b.tensors[x]
    b.tensors["again"] = dataclasses.replace(b.tensors[x], name="again")
    b.nodes.append(Node(Conv(pads=(1, 1, 1, 1)), "again", first.inputs, "again"))
    graph = b.graph(x, "again")
    own = rounding.with_own_constants(graph)
    constants = [name for node in own.nodes for name in node.inputs[1:]]
    assert len(constants) == len(set(constants)) == 4
    for name, original in zip(constants, [*first.inputs[1:]] * 2):
        assert_array_equal(own.tensors[name].data, graph.tensors[original].data)


# --- Rounding --------------------------------------------------------------------------------------------


def in_int8(graph, method=METHODS[0], **options):
    """(the float32 network that is rounded, the network in int8)"""
    own = rounding.with_own_constants(graph)
    statistics = observing.observe(own, images(own))
    limits = ranges.choose(own, statistics, method, detector_spec(detector_graph()).input)
    return own, rounding.rounded_graph(own, limits, statistics, rounding.Rounding(**options))


@pytest.mark.parametrize("steps", [0, 1, 16, 32])
def test_weights_are_rounded_to_the_nearest_step_of_their_channel(steps):
    own, integers = in_int8(chain(), scale_steps=steps)
    for node in own.nodes:
        if not isinstance(node.op, Conv):
            continue
        exact, stored = own.tensors[node.inputs[1]], integers.tensors[node.inputs[1]]
        scale = np.float64(stored.quantization.scale)
        assert stored.data.min() >= -127
        column = scale[:, None, None, None]
        assert (np.abs(stored.data * column - exact.data) <= column * (0.5 + 1e-4)).all()
        largest = np.abs(np.float64(exact.data)).max(axis=(1, 2, 3)) / 127
        if steps == 0:
            assert_allclose(scale, largest, rtol=ROUNDING)
            continue
        powers = np.log2(scale) * steps
        assert_allclose(powers, np.rint(powers), atol=1e-4)
        assert (scale >= largest * (1 - 1e-4)).all()
        assert (scale < largest * 2 ** (1 / steps) * (1 + 1e-4)).all()


def test_biases_are_in_units_of_input_and_weight_so_that_files_need_no_scales_for_them():
    _, integers = in_int8(chain())
    for node in integers.nodes:
        if isinstance(node.op, Conv):
            data, weight, bias = (integers.tensors[name] for name in node.inputs)
            assert bias.data.dtype == np.int32
            product = data.quantization.scale * weight.quantization.scale
            assert_array_equal(bias.quantization.scale, product)


@pytest.mark.parametrize("weight", [0.0, 1e-12])
def test_a_bias_fits_though_its_weights_are_next_to_nothing(weight):
    b = Builder(2, 4, 4)
    y = b.node(
        Conv(), "input", b.constant(np.full((2, 2, 1, 1), weight)), b.constant([3.0, 0.0]), name="y"
    )
    _, integers = in_int8(b.graph(y))
    bias = integers.tensors[integers.nodes[0].inputs[2]]
    assert_allclose(bias.data * np.float64(bias.quantization.scale), [3, 0], atol=1e-6)
    got = run_quantized(integers, np.ones((1, 2, 4, 4), np.int8))["y"]
    assert_array_equal(got[0, :, 0, 0], [127, 0])


def test_a_corrected_bias_keeps_the_mean_that_rounded_weights_would_move():
    b = Builder(3, 6, 6, seed=4)
    x = b.conv("input", 7, activation="relu", name="x")
    graph = b.graph(b.conv(x, 5, name="dense"), b.depthwise(x, 1, name="depthwise"))
    own = rounding.with_own_constants(graph)
    mean = observing.observe(own, images(own))["x"].mean
    moved = []
    for is_corrected in (False, True):
        _, integers = in_int8(graph, scale_steps=1, correct_biases=is_corrected)
        for node in own.nodes[1:]:
            real = [
                t.data * np.float64(t.quantization.scale).reshape((-1,) + (1,) * (t.data.ndim - 1))
                for t in (integers.tensors[name] for name in node.inputs[1:])
            ]
            exact = [own.tensors[name].data for name in node.inputs[1:]]
            sums = [
                (w[:, :, 0, 0] @ mean if node.op.groups == 1 else w[:, 0, 0, 0] * mean) + c
                for w, c in (real, exact)
            ]
            units = integers.tensors[node.inputs[2]].quantization.scale
            moved.append(np.abs(sums[0] - sums[1]) / units)
    plain, corrected = np.concatenate(moved[:2]), np.concatenate(moved[2:])
    # Nothing is left but the rounding of the bias itself.
    assert (corrected <= 0.5 + 1e-6).all()
    assert plain.max() > 10


def test_zero_points_give_what_relus_make_twice_as_many_steps():
    b = Builder(3, 8, 8)
    x = b.conv("input", 4, activation="relu", name="x")
    linear = b.conv(x, 4, name="linear")
    both = b.concat(x, b.conv(x, 4, activation="relu6"), name="both")
    mixed = b.concat(b.conv(both, 3, activation="relu", name="kept"), b.conv(both, 3), name="mixed")
    graph = b.graph(linear, b.softmax(mixed, 1, name="shares"))
    _, plain = in_int8(graph)
    _, finer = in_int8(graph, zero_points=True)
    for name in (x, "both", "shares"):
        one, other = plain.tensors[name].quantization, finer.tensors[name].quantization
        assert (one.zero_point[0], other.zero_point[0]) == (0, -127)
        assert_allclose(one.scale, 2 * other.scale)
    for name in ("input", "linear", "mixed", "kept"):
        assert finer.tensors[name].quantization.zero_point[0] == 0


@pytest.mark.parametrize("steps", [-1])
def test_a_negative_number_of_scale_steps_is_refused(steps):
    with pytest.raises(ValueError, match="scale_steps is -1; expected 0 or more"):
        quantization.Rounding(scale_steps=steps)


# --- A whole model ---------------------------------------------------------------------------------------


def little(**changes):
    graph = detector_graph(landmarks=True)
    # Nothing is suppressed: which of two random boxes that overlap is left would be chance.
    spec = detector_spec(graph, score_threshold=0.5, iou_threshold=1.0, **changes)
    return Model(Path("little.onnx"), graph, spec, "the caller")


def frames(count=6):
    return [picture(seed=seed) for seed in range(count)]


@pytest.fixture(scope="module")
def quantized():
    return quantization.quantize(little(), frames())


@pytest.mark.parametrize("isa", ISAS)
def test_int8_is_the_same_bytes_on_every_isa_and_those_of_the_reference(isa, quantized):
    graph = quantized.graph
    engines = [
        _core.Engine(native.lower(graph), num_threads=threads, isa=isa) for threads in (1, 3)
    ]
    step = graph.tensors[graph.input].quantization.scale[0]
    for frame in frames(3):
        pixels = _core.preprocess(frame, model.core_spec(little().spec), "bgr")
        stored = np.clip(np.rint(pixels / step), -127, 127).astype(np.int8)
        want = run_quantized(graph, stored)
        for engine in engines:
            engine.input()[:] = stored
            engine.run()
            for name in graph.outputs:
                assert_array_equal(engine.output(name), as_rows(graph, name, want[name]))


def test_a_frame_goes_into_the_network_as_its_grey_levels(quantized):
    opened = dataclasses.replace(little(), graph=quantized.graph)
    spec = dataclasses.replace(
        opened.spec, input=dataclasses.replace(opened.spec.input, scale=(1 / 128,) * 3)
    )
    step = ranges.input_range(spec.input) / 127
    frame = picture(height=64, width=96)
    pixels = _core.preprocess(frame, model.core_spec(spec), "bgr")
    stored = np.clip(np.rint(pixels / step), -127, 127)
    want = np.clip(np.int64(frame[:, :, ::-1]) - 127, -127, 127).transpose(2, 0, 1)
    assert_array_equal(stored[0], want)


@every_method
def test_int8_finds_the_faces_of_float32(method):
    found = quantization.quantize(little(), frames(), quantization.Options(method=method))
    faces = found.agreement.faces
    assert faces.pictures == 6
    assert min(faces.counts) > 6
    assert not quantization.problems(found.agreement, quantization.Limits())


def test_the_formats_give_back_the_network_that_was_made(quantized):
    for read in (
        tmfile.read(tmfile.write(quantized.graph)),
        onnx.load(onnx.write(quantized.graph)).graph,
    ):
        for name in (read.input, *read.outputs):
            one, other = quantized.graph.tensors[name], read.tensors[name]
            assert_array_equal(one.quantization.scale, other.quantization.scale)
        stored = np.random.default_rng(0).integers(
            -127, 128, quantized.graph.tensors["input"].shape, np.int8
        )
        want, got = run_quantized(quantized.graph, stored), run_quantized(read, stored)
        for name in read.outputs:
            assert_array_equal(want[name], got[name])


def test_the_same_pictures_give_the_same_file_in_any_order(quantized):
    again = quantization.quantize(little(), iter(frames()[::-1]))
    assert tmfile.write(again.graph) == tmfile.write(quantized.graph)


def test_convolutions_without_bias_and_a_relu_of_its_own_are_quantised():
    b = Builder(3, 64, 96)
    x = b.conv("input", 4, 3, stride=8, bias=False)
    joined = b.relu(b.concat(x, b.conv("input", 4, 8, stride=8, pads=(0, 0, 0, 0))))
    heads = [b.rows(b.conv(joined, 2 * n, bias=False), n, name=f"h{n}") for n in (2, 4)]
    graph = b.graph(b.softmax(heads[0], 2, name="scores"), heads[1])
    assert any(isinstance(node.op, Relu) for node in graph.nodes)
    spec = detector_spec(graph, strides=(8,), min_sizes=((12.0, 20.0),), boxes="h4")
    found = quantization.quantize(Model(Path("it"), graph, spec, ""), frames(2))
    # Zeros, as in float32, but for what is corrected.
    assert all(len(node.inputs) == 3 for node in found.graph.nodes if node.kind == "Conv")
    assert min(layer.sqnr_db for layer in found.agreement.layers) > 20


def test_a_quantised_model_is_refused(quantized):
    opened = dataclasses.replace(little(), graph=quantized.graph)
    with pytest.raises(
        ModelError, match=r"little\.onnx is quantised already; expected a float32 model"
    ):
        quantization.quantize(opened, frames(1))


def test_no_picture_is_an_error():
    with pytest.raises(ValueError, match="there is no picture to calibrate with"):
        quantization.quantize(little(), [])


# --- Agreement -------------------------------------------------------------------------------------------


def test_signal_to_noise_is_that_of_all_values_on_all_frames():
    options = quantization.Options(quantization.Method("mse"), logits=False, equalize=False)
    found = quantization.quantize(little(), frames(3), options)
    own = rounding.with_own_constants(little().graph)
    step = found.graph.tensors["input"].quantization.scale[0]
    signal, noise, clipped, count = ({} for _ in range(4))
    for frame in frames(3):
        pixels = _core.preprocess(frame, model.core_spec(little().spec), "bgr")
        stored = np.clip(np.rint(pixels / step), -127, 127).astype(np.int8)
        exact, got = run_graph(own, pixels), run_quantized(found.graph, stored)
        for layer in found.agreement.layers:
            name, scale = layer.name, found.graph.tensors[layer.name].quantization.scale[0]
            value = exact[name][0]
            signal[name] = signal.get(name, 0) + np.square(value).sum()
            noise[name] = (
                noise.get(name, 0) + np.square(got[name] * np.float64(scale) - value).sum()
            )
            clipped[name] = clipped.get(name, 0) + (np.abs(value) > 127.5 * scale).sum()
            count[name] = count.get(name, 0) + value.size
    assert {layer.name for layer in found.agreement.layers} == {
        node.output for node in own.nodes if node.kind not in ("Transpose", "Reshape")
    }
    for layer in found.agreement.layers:
        name = layer.name
        # float32 loses a millionth of a value, hence of the noise 1e-6 * 10 ** (sqnr / 20) twice.
        loss = 2e-6 * 10 ** (layer.sqnr_db / 20) * 10 / math.log(10)
        assert layer.sqnr_db == pytest.approx(
            10 * math.log10(signal[name] / noise[name]), abs=loss + 1e-6
        )
        assert layer.clipped == pytest.approx(clipped[name] / count[name], abs=2 / count[name])
    assert any(layer.clipped > 0 for layer in found.agreement.layers)


def faces(*rows):
    return Faces(np.array(rows, np.float32).reshape(-1, 5))


def test_faces_are_matched_with_what_overlaps_them_most():
    one = faces(
        (0, 0, 10, 10, 0.9), (50, 50, 90, 90, 0.85), (200, 0, 220, 20, 0.95), (0, 90, 5, 95, 0.72)
    )
    other = faces((0, 0, 10, 12, 0.8), (52, 50, 92, 90, 0.95), (100, 100, 110, 110, 0.99))
    found = agreement.match([(one, other), (faces(), faces())], 0.7)
    assert (found.pictures, found.counts, found.matched) == (2, (4, 3), 2)
    # The one of 0.72 is too near to the threshold.
    assert (found.missed, found.invented) == (1, 1)
    assert found.score == pytest.approx(0.1, abs=1e-6)
    assert found.box == pytest.approx((2 / 4 / 10 + 4 / 4 / 40) / 2)
    assert found.landmarks is None


def test_landmarks_differ_relative_to_the_size_of_the_face():
    row = np.array([0, 0, 10, 40, 0.9, *range(10)], np.float32)
    moved = row.copy()
    moved[5:7] += (3, 4)
    found = agreement.match([(Faces(row[None]), Faces(moved[None]))], 0.5)
    assert found.landmarks == pytest.approx(5 / 5 / 20)


def agreeing(**changes):
    values = {"pictures": 9, "counts": (100, 100), "matched": 98, "missed": 1, "invented": 1}
    values |= {"score": 0.01, "box": 0.01, "landmarks": None, **changes}
    layers = tuple(agreement.Layer(f"v{i}", "Conv", 0.1, 0, 20.0 + i, 0.0) for i in range(5))
    return agreement.Agreement(layers, agreement.FaceErrors(**values))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"missed": 5}, "int8 misses 5 faces of float32's 100 and invents 1"),
        ({"invented": 5}, "misses 1 faces of float32's 100 and invents 5"),
        ({"score": 0.2}, "score of matched faces differ by 0.200 on average"),
        ({"box": 0.2}, "box of matched faces differ by 0.200"),
        ({"landmarks": 0.2}, "landmarks of matched faces differ by 0.200"),
        ({"counts": (0, 0), "matched": 0, "missed": 0, "invented": 0}, "finds no face"),
    ],
)
def test_what_is_beyond_a_limit_is_a_problem(changes, message):
    limits = quantization.Limits()
    assert quantization.problems(agreeing(), limits) == []
    [problem] = quantization.problems(agreeing(**changes), limits)
    assert message in problem


@pytest.mark.parametrize("sqnr_db", [1.0, -math.inf, math.nan])
def test_a_noisy_layer_is_a_problem_and_among_the_worst(sqnr_db):
    found = agreeing()
    noisy = dataclasses.replace(found.layers[3], sqnr_db=sqnr_db)
    found = dataclasses.replace(found, layers=(*found.layers[:3], noisy, found.layers[4]))
    [problem] = quantization.problems(found, quantization.Limits())
    assert problem.startswith("1 layers have less than")
    assert noisy in quantization.worst_layers(found)


def test_ranges_that_are_far_too_small_are_noticed():
    method = quantization.Method("percentile", 30)
    found = quantization.quantize(little(), frames(), quantization.Options(method=method))
    assert quantization.problems(found.agreement, quantization.Limits())


# --- Logits ------------------------------------------------------------------------------------------------


def test_scores_from_before_the_softmax_are_the_same_scores():
    opened = little()
    changed = logits.with_logits(opened)
    kinds = [[node.kind for node in one.graph.nodes] for one in (opened, changed)]
    assert kinds[1] == [kind for kind in kinds[0] if kind != "Softmax"]
    assert (opened.spec.heads.activation, changed.spec.heads.activation) == ("none", "softmax")
    assert changed.graph.outputs == opened.graph.outputs
    for frame in frames(2):
        one, other = (detected(model, frame) for model in (opened, changed))
        assert len(one) > 0
        # exp() of a difference here, of each logit there: some roundings of numbers of about 1.
        assert_allclose(one, other, rtol=0, atol=1e-3)


def detected(opened, frame):
    """(N, 5) faces."""
    core_spec = model.core_spec(opened.spec)
    found = _core.Detector(
        native.open_graph(opened.graph, 1), core_spec, agreement._options(opened.spec)
    )
    return found.detect(frame, "bgr", (0, 0, frame.shape[1], frame.shape[0]))[0]


def ending(make):
    """A model whose scores, of two columns, are what `make` adds to their logits."""
    b = Builder(3, 16, 16)
    rows = b.rows(b.conv("input", 4, 8, stride=8, pads=(0, 0, 0, 0)), 2, name="logits")
    boxes = b.rows(b.conv("input", 8, 8, stride=8, pads=(0, 0, 0, 0)), 4, name="boxes")
    graph = b.graph(make(b, rows), boxes)
    return Model(Path("it"), graph, detector_spec(graph, scores=graph.outputs[0]), "")


def test_scores_that_end_otherwise_stay_as_they_are():
    plain = ending(lambda _, rows: rows)
    over_rows = ending(lambda b, rows: b.softmax(rows, 1, name="scores"))
    for opened in (plain, over_rows):
        assert logits.with_logits(opened) is opened
    seen = ending(lambda b, rows: b.softmax(rows, 2, name="scores"))
    graph = dataclasses.replace(seen.graph, outputs=(*seen.graph.outputs, "logits"))
    opened = dataclasses.replace(seen, graph=graph)
    assert logits.with_logits(opened) is opened


def softmaxed(opened):
    return logits.with_logits(opened).graph, logits.with_logits(opened).spec.heads


def values_of_heads(graph, image):
    """By output, in float64 arithmetic."""
    values = run_graph(graph, image)
    return {name: values[name] for name in graph.outputs}


def test_balanced_and_staggered_logits_have_the_same_difference():
    graph, heads = softmaxed(little())
    graph = rounding.with_own_constants(graph)
    half = logits.balanced(graph, heads)
    moved = logits.staggered(half, heads, {heads.scores: 3.5})
    quarter = 3.5 / 127 / 4
    for image in images(graph, 2):
        plain, one, other = (values_of_heads(g, image) for g in (graph, half, moved))
        (want, lost), (got, _), (after, _) = (found[heads.scores] for found in (plain, one, other))
        # Weights of the last layer are rounded once more, after halving: as much as is lost in it already.
        close = {"rtol": 0, "atol": 2 * float(lost.max()) + 4 * ROUNDING * np.abs(want).max()}
        assert_allclose(got[..., 1], (want[..., 1] - want[..., 0]) / 2, **close)
        assert_allclose(got[..., 0], -got[..., 1], **close)
        assert_allclose(after, got + quarter, **close)
        assert_array_equal(plain[heads.boxes][0], other[heads.boxes][0])


def test_balanced_logits_that_decide_have_most_of_the_steps():
    graph, heads = softmaxed(little())
    graph = rounding.with_own_constants(graph)
    scored = set(logits._before(graph, heads.scores))
    assert (
        len(scored) == 7
    )  # of two levels: a convolution, a transpose and a reshape; and what joins them
    wide = dict.fromkeys(made(graph), 9.0)
    found = logits.limited(wide, graph, heads)
    assert {name for name, limit in found.items() if limit == logits.LOGIT_RANGE} == scored
    assert all(limit == 9.0 for name, limit in found.items() if name not in scored)
    small = {**wide, **dict.fromkeys(scored, 2.0)}
    assert logits.limited(small, graph, heads) == small


def test_logits_that_something_else_reads_are_left_alone():
    graph, heads = softmaxed(little())
    graph = rounding.with_own_constants(graph)
    [first, *_] = [node.output for node in logits._makers(graph, heads)]
    seen = dataclasses.replace(graph, outputs=(*graph.outputs, first))
    assert logits._makers(seen, heads) == []
    wide = dict.fromkeys(made(graph), 9.0)
    assert logits.balanced(seen, heads).tensors == seen.tensors
    assert logits.limited(wide, seen, heads) == wide
    none = dataclasses.replace(heads, activation="none")
    assert logits._makers(graph, none) == []


# --- Tengine ---------------------------------------------------------------------------------------------


@pytest.mark.tengine
@pytest.mark.skipif(
    tengine_reference.LIBRARY not in os.environ,
    reason=f"needs Tengine: set {tengine_reference.LIBRARY} to a libtengine-lite.so",
)
def test_tengine_computes_a_layer_within_one_step():
    """It rounds halves away from zero and multiplies in another order: next to a half, the other step."""
    b = Builder(3, 12, 14, seed=3)
    graph = b.graph(b.conv("input", 8, 3, activation="relu"), b.depthwise("input", name="y"))
    _, integers = in_int8(graph)
    random = np.random.default_rng(0)
    stored = [random.integers(-127, 128, (1, 3, 12, 14), np.int8) for _ in range(3)]
    for image, got in zip(stored, tengine_reference.run(tmfile.write(integers), stored)):
        want = run_quantized(integers, image)
        for name, value in zip(integers.outputs, got):
            assert (np.abs(value.astype(int) - want[name].reshape(value.shape)) <= 1).all()


# --- Released weights ------------------------------------------------------------------------------------


@needs_shared
def test_rfb_320_in_int8_is_small_and_finds_the_faces_of_float32():
    opened = model.load(ULTRAFACE / "version-RFB-320.onnx")
    with Pictures([SHARED / "images"], 6, on_error=pytest.fail) as pictures:
        found = quantization.quantize(opened, pictures)
    assert len(tmfile.write(found.graph)) <= 330_000
    assert found.agreement.faces.counts[0] > 100
    assert quantization.problems(found.agreement, quantization.Limits()) == []
    assert min(layer.sqnr_db for layer in found.agreement.layers) > 12
