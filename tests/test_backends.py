from __future__ import annotations

import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import reference
from edgeface import BackendError, ModelError, _core, backends
from edgeface.backends import native, onnxruntime, tengine, torch
from edgeface.backends.target import Target
from edgeface.graph import Conv, Graph, Node, Tensor

try:
    import onnxruntime as runtime
except ImportError:
    runtime = None

WIDTH, HEIGHT = 32, 24
# 4 x 3 cells of 8 pixels, one prior each.
COUNT = 12
FRAME = reference.picture(48, 64)


class Plugged:
    """A backend as somebody else would write it: it finds what it was told."""

    def __init__(self, **heads):
        self.image = np.full((1, 3, HEIGHT, WIDTH), np.nan, np.float32)
        self.runs = 0
        scores = np.zeros((1, COUNT, 2), np.float32)
        scores[0, 5] = (0.1, 0.9)
        self.heads = {"scores": scores, "boxes": np.zeros((1, COUNT, 4), np.float32)}
        self.heads.update(heads)

    def input(self):
        return self.image

    def run(self):
        self.runs += 1

    def output(self, name):
        return self.heads[name]


def detector(backend, *, score_threshold=0.5, nms="hard", **changes):
    spec = reference.core_spec(
        width=WIDTH, height=HEIGHT, strides=(8,), min_sizes=((8.0,),), clip=False, **changes
    )
    options = _core.Options(
        score_threshold=score_threshold,
        iou_threshold=0.4,
        nms=nms,
        max_faces=100,
        pre_nms_top_k=100,
        min_face=0,
    )
    return _core.Detector(backend, spec, options)


def detect(subject, frame=FRAME):
    rows, _ = subject.detect(frame, "bgr", (0, 0, frame.shape[1], frame.shape[0]))
    return rows


def test_a_backend_in_python_is_filled_run_and_read():
    backend = Plugged()
    subject = detector(backend)
    assert backend.runs == 1  # the warm-up
    # The 6th prior is the 2nd of the 2nd row: centre (12, 12), 8 x 8; the frame is twice as large.
    want = [[16, 16, 32, 32, np.float32(0.9)]]
    # The prior's four numbers are rounded; then two sums and two scalings, all below 32.
    assert_allclose(detect(subject), want, rtol=0, atol=6 * 32 * reference.ROUNDING)
    assert backend.runs == 2
    spec = reference.core_spec(width=WIDTH, height=HEIGHT)
    assert_array_equal(backend.image, _core.preprocess(FRAME, spec, "bgr"))


@pytest.mark.parametrize(
    "order",
    [(0, 1, 2, 3), (0, 2, 3, 1), (0, 2, 1, 3), (0, 3, 2, 1)],
    ids=["CHW", "HWC", "HCW", "WHC"],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_its_input_may_have_any_memory_order(order, padding):
    backend = Plugged()
    shape = np.array([1, 3, HEIGHT, WIDTH])
    memory = np.full(shape[list(order)] + padding, np.nan, np.float32)
    inverse = np.argsort(order)
    backend.image = memory.transpose(inverse)[:1, :3, :HEIGHT, :WIDTH]
    detect(detector(backend))
    spec = reference.core_spec(width=WIDTH, height=HEIGHT)
    assert_array_equal(backend.image, _core.preprocess(FRAME, spec, "bgr"))
    # And nothing beside it was written.
    assert np.isnan(memory).sum() == memory.size - shape.prod()


def test_its_input_may_move_between_runs():
    backend = Plugged()
    subject = detector(backend)
    first = backend.image
    backend.image = np.full_like(first, np.nan)
    kept = first.copy()
    detect(subject)
    assert_array_equal(first, kept)
    assert not np.isnan(backend.image).any()


def test_an_input_that_shrinks_is_an_error_and_not_a_write_beyond_it():
    backend = Plugged()
    subject = detector(backend)
    # A part of a larger array, so that writing too far would be seen and harm nothing else.
    memory = np.full((1, 3, 2 * HEIGHT, 2 * WIDTH), np.nan, np.float32)
    backend.image = memory[:, :, : HEIGHT // 2, : WIDTH // 2]
    with pytest.raises((BackendError, ModelError)):
        detect(subject)
    memory[:, :, : HEIGHT // 2, : WIDTH // 2] = np.nan
    assert np.isnan(memory).all()


@pytest.mark.parametrize("method", ["input", "run", "output"])
@pytest.mark.parametrize("error", [RuntimeError, BackendError, KeyError, KeyboardInterrupt])
def test_its_exceptions_come_through(method, error):
    backend = Plugged()
    subject = detector(backend)

    def fail(*_):
        raise error("out of fuel")

    setattr(backend, method, fail)
    with pytest.raises(error, match="out of fuel"):
        detect(subject)
    with pytest.raises(error, match="out of fuel"):
        detector(backend)
    delattr(backend, method)
    # A failed frame leaves the detector as it was.
    assert len(detect(subject)) == 1


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1, 3, HEIGHT, WIDTH)),
        np.zeros((1, 3, HEIGHT, WIDTH), np.uint8),
        np.zeros((1, 3, HEIGHT, WIDTH), ">f4" if sys.byteorder == "little" else "<f4"),
        np.zeros((3, HEIGHT, WIDTH), np.float32),
        np.zeros((2, 3, HEIGHT, WIDTH), np.float32),
        [[0.0]],
        None,
    ],
)
def test_an_input_of_another_kind_is_a_backend_error(image):
    backend = Plugged()
    backend.image = image
    with pytest.raises(BackendError, match=r"\(1, C, H, W\) float32"):
        detector(backend)


def test_an_input_that_cannot_be_written_is_a_backend_error():
    backend = Plugged()
    backend.image.flags.writeable = False
    with pytest.raises(BackendError):
        detector(backend)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, WIDTH, HEIGHT), "network's input is 24x32; the spec says 32x24"),
        ((1, 1, HEIGHT, WIDTH), "1 channels; the spec's channel order needs 3"),
        ((1, 4, HEIGHT, WIDTH), "4 channels"),
    ],
)
def test_an_input_that_does_not_fit_the_spec_is_a_model_error(shape, message):
    backend = Plugged()
    backend.image = np.zeros(shape, np.float32)
    with pytest.raises(ModelError, match=message):
        detector(backend)


@pytest.mark.parametrize(
    "head",
    [
        np.zeros((1, COUNT, 2)),
        np.zeros((1, COUNT, 2), np.int32),
        np.zeros((1, 2, COUNT), np.float32).transpose(0, 2, 1),
        np.zeros((1, COUNT, 4), np.float32)[:, :, ::2],
        np.zeros(COUNT, np.float32),
        [[0.0, 1.0]] * COUNT,
        None,
        "scores",
    ],
)
def test_an_output_of_another_kind_is_a_backend_error(head):
    with pytest.raises(BackendError, match="output 'scores' must be a contiguous float32 array"):
        detector(Plugged(scores=head))


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (
            {"scores": (1, COUNT, 3)},
            r"output 'scores' has 36 values \(12 x 3\); the spec's 12 priors",
        ),
        ({"scores": (1, COUNT - 1, 2)}, r"'scores' has 22 values"),
        ({"scores": (0, 2)}, r"'scores' has 0 values"),
        ({"scores": (COUNT, 0)}, r"'scores' has 0 values"),
        ({"boxes": (1, COUNT, 5)}, r"'boxes' has 60 values .*need 48"),
        ({"boxes": (1, 2 * COUNT, 4)}, r"'boxes' has 96 values .*need 48"),
        ({"landmarks": (1, COUNT, 8)}, r"'landmarks' has 96 values .*need 120"),
    ],
)
def test_an_output_that_does_not_fit_the_priors_is_a_model_error(heads, message):
    replaced = {name: np.zeros(shape, np.float32) for name, shape in heads.items()}
    landmarks = "landmarks" if "landmarks" in heads else ""
    with pytest.raises(ModelError, match=message):
        detector(Plugged(**replaced), landmarks=landmarks)


def test_an_output_that_shrinks_later_is_an_error_too():
    backend = Plugged()
    subject = detector(backend)
    backend.heads["boxes"] = np.zeros((1, COUNT - 1, 4), np.float32)
    with pytest.raises(ModelError, match="'boxes' has 44 values"):
        detect(subject)


@pytest.mark.parametrize("shape", [(COUNT, 1), (1, COUNT, 1), (1, 3, 4, 1), (1, 1, COUNT, 2)])
def test_leading_dimensions_are_all_rows(shape):
    scores = np.zeros(shape, np.float32)
    scores.reshape(COUNT, -1)[5, -1] = 0.9
    assert len(detect(detector(Plugged(scores=scores)))) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.parametrize("encoding", ["offsets", "corners"])
@pytest.mark.parametrize("nms", ["hard", "soft-linear", "soft-gaussian", "blending"])
def test_whatever_the_heads_hold_faces_are_finite_and_in_the_frame(value, encoding, nms):
    heads = {
        "scores": np.ones((COUNT, 1), np.float32),
        "boxes": np.tile(np.float32([0.25, 0.25, 0.5, 0.5]), (COUNT, 1)),
        "landmarks": np.full((COUNT, 10), 0.5, np.float32),
    }
    # Of 12 priors, 4 have a bad box, 4 a bad landmark, 1 nothing but bad landmarks; 3 are as they should be.
    # The frame is larger than the input: placing what is huge in the frame makes it larger still.
    for i in range(4):
        heads["boxes"][i, i] = value
        heads["landmarks"][4 + i, 3 * i] = value
    heads["landmarks"][8] = value
    subject = detector(Plugged(**heads), landmarks="landmarks", encoding=encoding, nms=nms)
    frame = np.zeros((2000, 1000, 3), np.uint8)
    faces = detect(subject, frame)
    assert len(faces) > 0
    assert np.isfinite(faces).all()
    assert (faces[:, :4] >= 0).all()
    assert (faces[:, :4] <= (1000, 2000, 1000, 2000)).all()


def test_threads_take_turns_on_a_backend_in_python():
    class Exclusive(Plugged):
        inside = 0

        def run(self):
            self.inside += 1
            assert self.inside == 1
            for _ in range(100):  # gives other threads the interpreter
                pass
            super().run()
            self.inside -= 1

    backend = Exclusive()
    subject = detector(backend)
    want = detect(subject)
    with ThreadPoolExecutor(4) as pool:
        for rows in pool.map(lambda _: detect(subject), range(200)):
            assert_array_equal(rows, want)
    assert backend.runs == 202


def test_the_backend_goes_with_the_detector():
    backend = Plugged()
    known = weakref.ref(backend)
    subject = detector(backend)
    del backend
    gc.collect()
    assert known() is not None
    assert len(detect(subject)) == 1
    del subject
    gc.collect()
    assert known() is None


def test_the_region_is_checked_by_the_core_as_well():
    subject = detector(Plugged())
    for region in ((-1, 0, 5, 5), (0, 0, 65, 5), (0, 0, 5, 49), (0, 0, 0, 5), (2**31 - 1, 0, 1, 1)):
        with pytest.raises(ValueError, match="region does not lie inside"):
            subject.detect(FRAME, "bgr", region)


# --- Which backend runs -----------------------------------------------------------------------------------


def graph_for_all():
    return reference.detector_graph()


def graph_beyond_native():
    """A softmax along the width: ONNX has it, the native engine does not."""
    b = reference.Builder(3, 8, 8)
    return b.graph(b.softmax(b.conv("input", 4), 3, name="odd"))


def test_auto_takes_the_first_and_says_why_not_the_others():
    runner, choice = backends.open_backend(graph_for_all(), "auto", 1)
    assert isinstance(runner, _core.Engine)
    assert str(choice) == choice.name == "native"
    reason = "native comes first and runs this network"
    assert choice.refused == dict.fromkeys(("tengine", "torch", "onnxruntime"), reason)


def test_asking_for_a_backend_is_the_reason_against_the_others():
    _, choice = backends.open_backend(graph_for_all(), "native", 1)
    assert choice.refused == dict.fromkeys(
        ("tengine", "torch", "onnxruntime"), "native was asked for"
    )


def test_auto_goes_on_where_the_first_cannot_and_says_why(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(tengine, "unavailable", lambda: "it is not here")
    runner, choice = backends.open_backend(graph_beyond_native(), "auto", 1)
    assert str(choice) == "onnxruntime"
    assert "Softmax 'node_odd'" in choice.refused["native"]
    runner.run()


@pytest.mark.parametrize("output", ["input", "fixed"])
def test_auto_goes_on_where_an_output_is_nothing_the_first_computes(output):
    pytest.importorskip("onnxruntime")
    graph = graph_for_all()
    tensors = dict(graph.tensors)
    tensors["fixed"] = Tensor("fixed", (1, 2), data=np.zeros((1, 2), np.float32))
    graph = Graph(graph.nodes, tensors, graph.input, (*graph.outputs, output))
    try:
        _, choice = backends.open_backend(graph, "auto", 1)
    except BackendError as error:
        assert output in str(error)  # noqa: PT017 - refusing it is as good
    else:
        assert output in choice.refused["native"]


def test_a_backend_that_was_asked_for_never_falls_back():
    with pytest.raises(BackendError, match="native: it has no way to run Softmax 'node_odd'"):
        backends.open_backend(graph_beyond_native(), "native", 1)


def test_none_that_runs_it_lists_every_reason(monkeypatch):
    monkeypatch.setattr(onnxruntime, "unavailable", lambda: "it is not installed")
    monkeypatch.setattr(tengine, "unavailable", lambda: "it is not here")
    with pytest.raises(
        BackendError, match=r"native: .*node_odd.*; onnxruntime: it is not installed"
    ):
        backends.open_backend(graph_beyond_native(), "auto", 1)


def test_another_device_is_refused_by_what_runs_on_the_cpu_alone(monkeypatch):
    # What it does wrong on some CPUs would be said first.
    monkeypatch.setattr(tengine, "discouraged", lambda _: None)
    with pytest.raises(BackendError) as failed:
        backends.open_backend(graph_for_all(), "auto", 1, Target("cuda:7"))
    for name in ("native", "tengine"):
        said = f"{name}: it runs on cpu in float32 alone, not on cuda:7 in float32"
        assert said in str(failed.value)
    with pytest.raises(BackendError, match="not on cpu in half precision"):
        backends.open_backend(graph_for_all(), "native", 1, Target(half=True))


@pytest.mark.parametrize("target", [Target("xpu"), Target("cuda", half=True), Target(half=True)])
def test_onnxruntime_says_what_it_runs_on(target):
    pytest.importorskip("onnxruntime")
    with pytest.raises(BackendError, match=f"cpu or cuda in float32, not on {target}"):
        backends.open_backend(graph_for_all(), "onnxruntime", 1, target)


def cuda_of_onnxruntime(monkeypatch, *, works):
    """A build for a GPU, as far as it can be told from outside; the providers that it is asked for."""
    pytest.importorskip("onnxruntime")
    asked = []

    class Session:
        def __init__(self, model, options, providers):
            asked.append(providers)
            self.session = opened(model, options, providers=["CPUExecutionProvider"])
            self.io_binding, self.run_with_iobinding = (
                self.session.io_binding,
                self.session.run_with_iobinding,
            )

        def get_providers(self):
            return [name for name in (onnxruntime.CUDA, onnxruntime.CPU) if works or "CPU" in name]

    opened = runtime.InferenceSession
    monkeypatch.setattr(runtime, "InferenceSession", Session)
    available = [onnxruntime.CUDA, onnxruntime.CPU]
    monkeypatch.setattr(runtime, "get_available_providers", lambda: available)
    return asked


def test_onnxruntime_asks_for_cuda_only_where_it_is_told_to(monkeypatch):
    asked = cuda_of_onnxruntime(monkeypatch, works=True)
    for target in (Target(), Target("cuda"), Target("cuda:3")):
        runner, choice = backends.open_backend(graph_for_all(), "onnxruntime", 1, target)
        assert str(choice) == "onnxruntime"
        runner.run()
    assert asked == [
        ["CPUExecutionProvider"],
        [("CUDAExecutionProvider", {"device_id": 0, "use_tf32": 0}), "CPUExecutionProvider"],
        [("CUDAExecutionProvider", {"device_id": 3, "use_tf32": 0}), "CPUExecutionProvider"],
    ]
    quantized = reference.quantize(graph_for_all(), "int8")
    with pytest.raises(BackendError, match="runs float32 networks; this one is quantised"):
        backends.open_backend(quantized, "onnxruntime", 1, Target("cuda"))


def test_onnxruntime_never_falls_back_to_the_cpu(monkeypatch):
    cuda_of_onnxruntime(monkeypatch, works=False)
    with pytest.raises(BackendError, match="could not use its CUDAExecutionProvider"):
        backends.open_backend(graph_for_all(), "onnxruntime", 1, Target("cuda"))


def test_onnxruntime_without_cuda_says_which_package_has_it(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(runtime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(BackendError, match=r"has no CUDAExecutionProvider .*onnxruntime-gpu"):
        backends.open_backend(graph_for_all(), "onnxruntime", 1, Target("cuda"))


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in getattr(runtime, "get_available_providers", list)(),
    reason="there is no onnxruntime with CUDA here",
)
def test_onnxruntime_finds_the_same_on_cuda():
    graph = graph_for_all()
    images = np.random.default_rng(0).normal(size=graph.tensors[graph.input].shape)
    want, got = (
        _outputs(backends.open_backend(graph, "onnxruntime", 1, target)[0], graph, images)
        for target in (Target(), Target("cuda"))
    )
    for name in graph.outputs:
        assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5)


def _outputs(runner, graph, image):
    runner.input()[:] = image
    runner.run()
    return {name: np.array(runner.output(name)) for name in graph.outputs}


def test_torch_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(torch.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r"pip install edgeface\[torch\]"):
        backends.open_backend(graph_for_all(), "torch", 1)


def test_auto_does_not_even_look_for_torch_on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch, "unavailable", lambda: pytest.fail("looked for"))
    for name in ("native", "onnxruntime"):
        monkeypatch.setattr(backends.BACKENDS[name], "unavailable", lambda: "it is not here")
    with pytest.raises(
        BackendError, match="torch: auto takes it for a GPU or half precision alone"
    ):
        backends.open_backend(graph_for_all(), "auto", 1)


def test_an_unknown_backend_lists_those_there_are():
    with pytest.raises(
        ValueError, match="'tpu'; expected auto, native, tengine, torch, onnxruntime"
    ):
        backends.open_backend(graph_for_all(), "tpu", 1)


def test_onnxruntime_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(onnxruntime.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r"pip install edgeface\[onnxruntime\]"):
        backends.open_backend(graph_for_all(), "onnxruntime", 1)
    assert str(backends.open_backend(graph_for_all(), "auto", 1)[1]) == "native"


def test_onnxruntime_names_an_unknown_output():
    pytest.importorskip("onnxruntime")
    session = onnxruntime.open_graph(graph_for_all(), 1)
    with pytest.raises(BackendError, match="no output 'faces'"):
        session.output("faces")


@pytest.mark.parametrize("name", ["native", "onnxruntime"])
def test_every_backend_is_within_the_bound_of_the_reference(name):
    if name == "onnxruntime":
        pytest.importorskip("onnxruntime")
    graph = reference.detector_graph(landmarks=True)
    runner, _ = backends.open_backend(graph, name, 2)
    for seed in (1, 2):
        image = np.random.default_rng(seed).normal(size=(1, 3, 64, 96)).astype(np.float32)
        runner.input()[:] = image
        runner.run()
        values = reference.run_graph(graph, image)
        for output in graph.outputs:
            want, bound = values[output]
            got = runner.output(output)
            assert (np.abs(got.reshape(want.shape) - want) <= bound).all()


def test_a_convolution_that_pads_unevenly_is_the_same_everywhere():
    pytest.importorskip("onnxruntime")
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    node = Node(Conv(stride=(2, 2), pads=(0, 1, 1, 0)), "conv", ("input", "weight"), "y")
    tensors = {
        "input": Tensor("input", (1, 3, 8, 8)),
        "weight": Tensor("weight", weight.shape, data=weight),
        "y": Tensor("y", (1, 4, 4, 4)),
    }
    graph = Graph((node,), tensors, "input", ("y",))
    image = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    want, bound = reference.run_graph(graph, image)["y"]
    for module in (native, onnxruntime):
        runner = module.open_graph(graph, 1)
        runner.input()[:] = image
        runner.run()
        got = runner.output("y")
        if module is native:
            got = got.reshape(4, 4, 4).transpose(2, 0, 1)
        assert (np.abs(got - want) <= bound).all()
