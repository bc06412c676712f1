"""What the writer makes, run in the real Tengine."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

import tengine_reference
import tmfile_builder as tm
from edgeface.backends import native
from edgeface.formats import onnx, tmfile
from edgeface.graph import Add, Concat, Relu, Reshape, Softmax, Transpose
from tmfile_builder import FileBuilder
from tmfile_graphs import FLOAT32, INT8, UINT8, Maker, detector, pairs, pyramid

pytestmark = [
    pytest.mark.tengine,
    pytest.mark.skipif(
        tengine_reference.LIBRARY not in os.environ,
        reason=f"needs Tengine: set {tengine_reference.LIBRARY} to a libtengine-lite.so",
    ),
]

SHARED = Path(__file__).parents[2] / "shared"
REAL = ["rfb320", "slim320", "rfb320-int8", "rfb320-uint8"]
TYPES = [FLOAT32, INT8, UINT8]
ON_ARM = platform.machine().lower().startswith(("arm", "aarch64"))


def shared_file(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name} of the shared files, which are not in this checkout")
    return path.read_bytes()


def stored(graph, values):
    """Real numbers as the network's input takes them."""
    tensor = graph.tensors[graph.input]
    values = values.reshape(tensor.shape).astype(np.float32)
    if tensor.quantization is None:
        return values
    limits = {INT8: (-127, 127), UINT8: (0, 255)}[tensor.dtype]
    steps = np.round(values / tensor.quantization.scale) + tensor.quantization.zero_point
    return np.clip(steps, *limits).astype(tensor.dtype)


def random_frames(graph, count):
    rng = np.random.default_rng(3)
    shape = graph.tensors[graph.input].shape
    return [stored(graph, rng.uniform(-1, 1, shape)) for _ in range(count)]


def photograph(graph):
    cv2 = pytest.importorskip("cv2")
    encoded = np.frombuffer(shared_file("images/1.jpg"), np.uint8)
    resized = cv2.resize(cv2.imdecode(encoded, cv2.IMREAD_COLOR), graph.input_size)
    rgb = resized[:, :, ::-1].transpose(2, 0, 1)
    return stored(graph, (rgb.astype(np.float32) - 127) / 128)


def assert_same_bytes(one, other):
    for ours, theirs in zip(one, other):
        assert [out.shape for out in ours] == [out.shape for out in theirs]
        assert [out.tobytes() for out in ours] == [out.tobytes() for out in theirs]
        assert all(
            len(np.unique(out)) > 2 for out in ours
        )  # a network that did nothing is no proof


@pytest.mark.parametrize("name", REAL)
def test_rewritten_file_runs_like_the_original_to_the_bit(name):
    original = shared_file(f"weights/tmfile/{name}.tmfile")
    graph = tmfile.read(original)
    frames = [*random_frames(graph, 3), photograph(graph)]
    results = [tengine_reference.run(data, frames) for data in (original, tmfile.write(graph))]
    assert_same_bytes(*results)


@pytest.mark.parametrize("name", REAL)
def test_network_written_for_another_size_runs_like_the_original_set_to_it(name):
    original = shared_file(f"weights/tmfile/{name}.tmfile")
    graph = tmfile.read(original).resized(640, 480)
    frames = [photograph(graph)]
    results = [tengine_reference.run(data, frames) for data in (original, tmfile.write(graph))]
    assert results[0][0][0].shape == (1, 17640, 2)
    assert_same_bytes(*results)


def onnxruntime_outputs(graph, frames):
    onnxruntime = pytest.importorskip("onnxruntime")
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(onnx.write(graph), providers=providers)
    return [session.run(list(graph.outputs), {graph.input: frame}) for frame in frames]


def assert_close(results, expected):
    """Both sum up in float32, each in its own order.

    The longest way through RFB is some 20 convolutions of up to 64 * 9 terms: a random walk of
    sqrt(20 * 64 * 9) roundings of 2**-24 of the largest value is 6e-6 of it.
    """
    for ours, theirs in zip(results, expected):
        for one, other in zip(ours, theirs):
            assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize(
    ("name", "source"), [("rfb320", "version-RFB-320"), ("slim320", "version-slim-320")]
)
def test_onnx_network_runs_like_the_file_that_tengine_made_of_it_to_the_bit(name, source):
    graph = onnx.read(shared_file(f"weights/ultraface/{source}_simplified.onnx"))
    frames = [*random_frames(graph, 2), photograph(graph)]
    files = [shared_file(f"weights/tmfile/{name}.tmfile"), tmfile.write(graph)]
    assert_same_bytes(*(tengine_reference.run(data, frames) for data in files))


@pytest.mark.onnx
@pytest.mark.parametrize("size", [(320, 240), (640, 480)], ids=str)
@pytest.mark.parametrize("name", ["version-RFB-320", "version-slim-320"])
def test_onnx_network_written_as_tmfile_runs_like_in_onnxruntime(name, size):
    graph = onnx.read(shared_file(f"weights/ultraface/{name}_simplified.onnx")).resized(*size)
    frames = [*random_frames(graph, 2), photograph(graph)]
    results = tengine_reference.run(tmfile.write(graph), frames)
    assert_close(results, onnxruntime_outputs(graph, frames))


@pytest.mark.onnx
def test_every_operator_runs_like_in_onnxruntime():
    graph = detector()
    frames = random_frames(graph, 3)
    results = tengine_reference.run(tmfile.write(graph), frames)
    assert_close(results, onnxruntime_outputs(graph, frames))


@pytest.mark.onnx
@pytest.mark.parametrize("size", [(18, 22), (19, 21), (8, 9), (40, 33)])
def test_every_operator_of_a_pyramid_runs_like_in_onnxruntime(size):
    graph = pyramid(size=size)
    frames = random_frames(graph, 3)
    results = tengine_reference.run(tmfile.write(graph), frames)
    assert_close(results, onnxruntime_outputs(graph, frames))


@pytest.mark.parametrize("dtype", [INT8, UINT8], ids=str)
def test_a_quantised_pyramid_runs_like_in_the_native_engine(dtype):
    """Within what rounding halves another way may cost.

    A step of the convolution, the slope and the sum each, twice of the first two: 0.25 of the sigmoid's steepest
    slope, in its steps of 1 / 127, of 3 * 0.05 + 2 * 0.04.
    """
    graph = pyramid(dtype)
    engine = native.open_graph(graph, 1)
    frames = random_frames(graph, 3)
    for frame, (theirs,) in zip(frames, tengine_reference.run(tmfile.write(graph), frames)):
        engine.input()[:] = frame
        engine.run()
        ours = engine.output("share").T.reshape(theirs.shape)
        assert np.abs(ours.astype(int) - theirs).max() <= 0.25 * 127 * (3 * 0.05 + 2 * 0.04)
        assert np.abs(ours.astype(int) - theirs).mean() < 0.5
        assert len(np.unique(ours)) > 20


@pytest.mark.onnx
def test_yunet_runs_like_in_onnxruntime():
    graph = onnx.read(shared_file("weights/yunet/yunet_n_320_320.onnx"))
    frames = [np.random.default_rng(0).uniform(0, 255, (1, 3, 320, 320)).astype(np.float32)]
    results = tengine_reference.run(tmfile.write(graph), frames)
    assert_close(results, onnxruntime_outputs(graph, frames))


@pytest.mark.onnx
@pytest.mark.parametrize(
    ("in_channels", "out_channels", "groups"), [(4, 4, 2), (4, 8, 4), (6, 2, 2), (6, 9, 3)]
)
def test_groups_run_like_in_onnxruntime(in_channels, out_channels, groups):
    make = Maker(shape=(1, in_channels, 9, 11))
    make.conv("conv", "input", out_channels, groups=groups, pads=(1, 1, 1, 1))
    frames = random_frames(make.graph(), 2)
    results = tengine_reference.run(tmfile.write(make.graph()), frames)
    assert_close(results, onnxruntime_outputs(make.graph(), frames))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_convolution_needs_no_bias(dtype):
    """Tengine gives the same for no bias as for one of zeros."""
    results = []
    for bias in (False, True):
        make = Maker(dtype)
        make.conv("conv", "input", 4, bias=bias)
        if bias:
            zeros = np.zeros_like(make.tensors["conv.bias"].data)
            make.change("conv.bias", data=zeros)
        frames = random_frames(make.graph(), 2)
        results.append(tengine_reference.run(tmfile.write(make.graph()), frames))
    assert_same_bytes(*results)


def test_scales_of_a_bias_change_nothing():
    """Left out, or stored because they are off by a rounding: the kernels never look at them."""
    make = Maker(INT8)
    make.conv("conv", "input", 4)
    exact = make.graph()
    off = make.tensors["conv.bias"].quantization.scale * np.float32(1 + 2**-23)
    make.change("conv.bias", quantization=pairs(off))
    files = [tmfile.write(exact), tmfile.write(make.graph())]
    assert len(files[0]) < len(files[1])
    frames = random_frames(exact, 2)
    assert_same_bytes(*(tengine_reference.run(data, frames) for data in files))


def test_weight_with_one_int8_scale_runs_like_one_with_a_scale_a_channel():
    results = []
    for scales in (0.01, [0.01] * 4):
        make = Maker(INT8)
        make.conv("conv", "input", 4, bias=False)
        make.change("conv.weight", quantization=pairs(scales))
        frames = random_frames(make.graph(), 2)
        results.append(tengine_reference.run(tmfile.write(make.graph()), frames))
    assert_same_bytes(*results)


@pytest.mark.parametrize(("dtype", "pair"), [(INT8, (0.1, 0)), (UINT8, (0.1, 128))], ids=str)
def test_shared_records_run_like_a_record_for_each(dtype, pair):
    """The builder writes them one by one, as Tengine does, those of the bias, too."""
    rng = np.random.default_rng(4)
    net = FileBuilder(dtype={INT8: tm.INT8, UINT8: tm.UINT8}[dtype], quant=[pair])
    scales = [0.01] * (4 if dtype == INT8 else 1)
    units = [float(np.float32(0.01) * np.float32(0.1))] * len(scales)
    values = rng.integers(1, 100, (4, 3, 3, 3)).astype(dtype)
    weight = net.const("w", values, [(scale, 0) for scale in scales])
    bias = net.const("b", rng.integers(-99, 99, 4).astype(np.int32), [(unit, 0) for unit in units])
    naive = net.build(net.conv("conv", [net.input(), weight, bias])).data
    graph = tmfile.read(naive)
    frames = random_frames(graph, 2)
    files = [naive, tmfile.write(graph)]
    assert len(files[1]) < len(files[0])
    assert_same_bytes(*(tengine_reference.run(data, frames) for data in files))


# That what is refused has to be


@pytest.fixture
def unchecked(monkeypatch):
    """The writer without its limits."""
    from edgeface.formats.tmfile import writer

    monkeypatch.setattr(writer, "check", lambda _: None)


def outputs_alone(graph):
    """Whether Tengine runs it and gives what each output is in a network that has only this one."""
    frames = random_frames(graph, 1)
    ((*together,),) = tengine_reference.run(tmfile.write(graph), frames)
    alone = []
    for name in graph.outputs:
        part = type(graph)(graph.nodes, graph.tensors, graph.input, (name,))
        alone += tengine_reference.run(tmfile.write(part), frames)[0]
    return all(np.array_equal(one, other) for one, other in zip(together, alone))


@pytest.mark.usefixtures("unchecked")
def test_int8_convolution_with_one_output_channel_kills_tengine():
    make = Maker(INT8)
    make.conv("conv", "input", 1)
    with pytest.raises(tengine_reference.TengineError, match="exit status -"):
        tengine_reference.run(tmfile.write(make.graph()), random_frames(make.graph(), 1))


@pytest.mark.usefixtures("unchecked")
def test_output_that_is_read_again_is_overwritten():
    make = Maker()
    value = make.conv("first", "input", 4, kernel=(1, 1))
    for index in range(3):
        value = make.conv(f"conv{index}", value, 4, kernel=(1, 1))
    assert not outputs_alone(make.graph("first", value))


def test_tengine_keeps_64_values_apart():
    # The 63 and the joined one. With one more it writes past an array of its own, which has no outcome to test.
    make = Maker()
    names = [make.op(Relu(), f"r{i}", "input") for i in range(63)]
    make.op(Concat(1), "joined", *names)
    frames = random_frames(make.graph(), 1)
    ((joined,),) = tengine_reference.run(tmfile.write(make.graph()), frames)
    assert np.array_equal(joined, np.concatenate([np.maximum(frames[0], 0)] * 63, axis=1))


@pytest.mark.onnx
@pytest.mark.parametrize("shape", [(24,), (2, 12), (2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 2, 2)])
def test_operators_run_with_every_number_of_dimensions_that_is_written(shape):
    dims = len(shape)
    for op, inputs, allowed in (
        (Relu(), 1, range(1, 5)),
        (Add(), 2, range(3, 5)),
        (Concat(dims - 1), 2, range(1, 5)),
        (Softmax(dims // 2), 1, range(1, 5)),
        (Transpose(tuple(reversed(range(dims)))), 1, range(2, 7)),
    ):
        if dims not in allowed:
            continue
        make = Maker(shape=(1, 1, 4, 6))
        make.op(Reshape(shape), "shape", "input")
        make.op(op, "result", *["shape"] * inputs)
        frames = random_frames(make.graph(), 1)
        results = tengine_reference.run(tmfile.write(make.graph()), frames)
        expected = onnxruntime_outputs(make.graph(), frames)
        if ON_ARM and isinstance(op, Softmax) and math.prod(shape[op.axis + 1 :]) >= 4:
            # exp(x) is (1 + x / 1024)**1024 there, off by x**2 / 2048 of it. |x| is 2 at most: pixels of
            # -1 to 1, less one of them. A share p moves by p * (1 - p) of that.
            assert_allclose(results, expected, rtol=0, atol=2**2 / 2048 / 4)
        else:
            assert_close(results, expected)
