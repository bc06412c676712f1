from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import reference
from edgeface import BackendError, FaceDetector, _core, backends, detector, doctor, model
from edgeface import spec as specs
from edgeface.backends.target import Target
from edgeface.bench import iou
from edgeface.errors import ModelError
from edgeface.formats import onnx
from edgeface.graph import Reshape
from reference import SHARED, Builder, needs_shared, photograph, picture, run_graph
from test_camera import camera_frame
from test_native import CONVOLUTIONS, SHARING, image_for, pyramid
from test_nms import candidates
from test_preprocess import FRAME_CHANNELS, ORDERS, SIZES, VIEWS, noise

torch = pytest.importorskip("torch", reason="the backend torch needs PyTorch")

from edgeface.backends.torch import detector as device_detector
from edgeface.backends.torch import nms
from edgeface.backends.torch.decode import Decoder
from edgeface.backends.torch.network import Network
from edgeface.backends.torch.preprocess import Preprocess, cut, upload

CPU = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason="PyTorch reaches no CUDA device here"
        ),
    ),
]
on_every_device = pytest.mark.parametrize("device", DEVICES)
PHOTOGRAPHS = ("1.jpg", "2.jpg", "3.jpg", "10.jpg", "17.jpg", "26.jpg")
RELEASED = (
    "ultraface/version-RFB-320.onnx",
    "tmfile/slim320.tmfile",
    "retinaface/mobilenet0.25_Final.pth",
)
MEAN, SCALE = (104.0, 117.0, 123.5), (1 / 128, 0.0173, 1.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Enough for images this small; several would wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_model(folder, graph, **changes):
    path = folder / "net.onnx"
    path.write_bytes(onnx.write(graph))
    spec = reference.detector_spec(graph, **changes)
    path.with_suffix(".json").write_text(specs.to_json(spec))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), reference.detector_graph(landmarks=True))


def on_torch(path, device="cpu", **options):
    return FaceDetector(path, backend="torch", device=device, num_threads=1, **options)


# --- Preprocessing: the very bytes -----------------------------------------------------------------------


def network_input(frame, channels, size, order="rgb", resize="stretch", region=None, device="cpu"):
    """What the device makes of a frame, and what the core does."""
    width, height = size
    given = {"width": width, "height": height, "channels": order, "resize": resize}
    spec = specs.InputSpec(name="input", mean=MEAN, scale=SCALE, **given)
    chroma = None
    if channels in ("nv12", "nv21"):
        rows = len(frame) // 3 * 2
        frame, chroma = frame[:rows], frame[rows:]
    whole = (0, 0, frame.shape[1], len(frame))
    view = cut(frame, channels, whole if region is None else region, chroma)
    device = torch.device(device)
    got = Preprocess(view, spec, device)(upload([view], device)).cpu().numpy()
    if region is None:
        core_spec = reference.core_spec(mean=MEAN, scale=SCALE, **given)
        return got, _core.preprocess(frame, core_spec, channels, chroma=chroma)
    return got, None


@on_every_device
@pytest.mark.parametrize("resize", specs.RESIZES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", FRAME_CHANNELS)
def test_frames_give_the_bytes_that_the_core_gives(channels, order, resize, device):
    for size in ((24, 32), (41, 29)):
        frame = noise((41, 29), channels)
        assert_array_equal(*network_input(frame, channels, size, order, resize, device=device))


@on_every_device
@pytest.mark.parametrize(("size", "network"), SIZES)
@pytest.mark.parametrize("resize", specs.RESIZES)
def test_every_size_gives_the_bytes_that_the_core_gives(size, network, resize, device):
    for channels in ("bgr", "gray"):
        frame = noise(size, channels)
        assert_array_equal(*network_input(frame, channels, network, resize=resize, device=device))


@on_every_device
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", ["yuyv", "uyvy", "nv12", "nv21"])
def test_camera_frames_give_the_bytes_that_the_core_gives(channels, order, device):
    frame = noise((42, 30 if channels in ("yuyv", "uyvy") else 45), "gray")
    if channels in ("yuyv", "uyvy"):
        frame = np.random.default_rng(0).integers(0, 256, (30, 42, 2), np.uint8)
    for size in ((24, 32), (42, 30), (61, 43)):
        assert_array_equal(*network_input(frame, channels, size, order, device=device))


@on_every_device
@pytest.mark.parametrize("channels", ["bgr", "bgra", "gray"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_rows_may_be_any_distance_apart(view, channels, device):
    frame = view(noise((30, 24), channels))
    assert_array_equal(*network_input(frame, channels, (16, 12), device=device))


@pytest.mark.parametrize("channels", ["bgr", "yuyv", "uyvy", "nv12", "nv21"])
@pytest.mark.parametrize("roi", [(0, 0, 11, 9), (5, 4, 20, 10), (4, 3, 21, 13), (9, 7, 1, 1)])
def test_a_part_of_a_frame_is_resized_as_its_definition_says(channels, roi):
    frame = camera_frame(picture(40, 60), channels) if channels != "bgr" else picture(40, 60)
    got, _ = network_input(frame, channels, (24, 32), region=roi)
    x, y, width, height = roi
    if channels == "bgr":
        frame, roi = np.ascontiguousarray(frame[y : y + height, x : x + width]), None
    want = reference.preprocess(
        frame, channels, width=24, height=32, order="rgb", mean=MEAN, scale=SCALE, roi=roi
    )
    assert_array_equal(got, want)


def test_memory_that_must_not_be_written_is_read():
    frame = noise((20, 10), "bgr")
    frame.flags.writeable = False
    assert_array_equal(*network_input(frame, "bgr", (8, 8)))


# --- Networks: within float32's own loss -----------------------------------------------------------------


def assert_runs(graph, device="cpu"):
    runner, _ = backends.open_backend(graph, "torch", 1, Target(device))
    for seed in (1, 2):
        image = image_for(graph, seed)
        want = run_graph(graph, image)
        runner.input()[:] = image
        runner.run()
        for name in graph.outputs:
            values, bound = want[name]
            assert runner.output(name).shape == values.shape
            assert (np.abs(runner.output(name) - values) <= bound).all(), name


@on_every_device
@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "leaky_relu"])
@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolutions_are_right(case, activation, device):
    channels, height, width, options = case
    b = Builder(channels, height, width)
    assert_runs(b.graph(b.conv("input", **options, activation=activation)), device)


@on_every_device
@pytest.mark.parametrize("build", SHARING, ids=lambda build: build.__name__)
def test_other_operators_are_right(build, device):
    b = Builder(3, 9, 11)
    last, others = build(b)
    assert_runs(b.graph(last, *others), device)


@on_every_device
@pytest.mark.parametrize("strides", [(2, 1), (3, 2), (1, 3), (5, 1), (4, 3)])
def test_upsampling_takes_the_pixel_that_whole_numbers_say(strides, device):
    for size in ((9, 11), (41, 123)):
        b = Builder(3, *size)
        data, like = (b.conv("input", 2, stride=stride) for stride in strides)
        assert_runs(b.graph(b.upsample(data, like)), device)


@on_every_device
@pytest.mark.parametrize(
    ("kernel", "stride", "pads"),
    [
        (2, 2, (0, 0, 0, 0)),
        (3, 2, (1, 1, 1, 1)),
        (3, 1, (2, 0, 0, 2)),
        ((1, 3), (2, 1), (0, 1, 0, 2)),
    ],
)
def test_max_pooling_never_finds_the_padding(kernel, stride, pads, device):
    b = Builder(3, 9, 11)
    x = b.conv("input", 4, bias=False)
    low = b.add(x, b.constant(np.full(b.shape(x), -9.0)))
    assert_runs(b.graph(b.max_pool(low, kernel, stride, pads)), device)


def odd_graph():
    """Of several images, its values would not be one after the other."""
    b = Builder(3, 8, 8)
    x = b.conv("input", 4)
    flat = b.node(Reshape((4, 64)), x)
    return b.graph(b.softmax(b.concat(flat, flat, axis=0), 0))


@on_every_device
@pytest.mark.parametrize("graph", [reference.detector_graph(landmarks=True), odd_graph()])
def test_a_network_gives_for_many_images_what_it_gives_for_each(graph, device):
    runner, _ = backends.open_backend(graph, "torch", 1, Target(device))
    images = np.concatenate([image_for(graph, seed) for seed in range(3)])
    with runner.running():
        together = runner.heads(torch.from_numpy(images).to(runner.device))
    for number, image in enumerate(images):
        want = run_graph(graph, image[None])
        for name in graph.outputs:
            values, bound = (part.reshape(together[name].shape[1:]) for part in want[name])
            assert (np.abs(together[name][number].cpu().numpy() - values) <= bound).all()


def test_quantised_networks_are_refused_with_who_runs_them():
    graph = reference.quantize(reference.detector_graph(), "int8")
    with pytest.raises(
        BackendError, match=r"this one is quantised \(native, tengine and onnxruntime run those\)"
    ):
        backends.open_backend(graph, "torch", 1)


# --- Decode ------------------------------------------------------------------------------------------------


def decoded(heads, spec, min_face=(0.0, 0.0), top_k=10**6, room=10**6):
    tensors = {name: torch.from_numpy(values)[None] for name, values in heads.items()}
    rows, valid, count = Decoder(spec, top_k, CPU)(tensors, min_face, room)
    assert int(count) >= int(valid.sum())
    return rows[0][valid[0]].numpy(), int(count)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("activation", ["none", "softmax"])
@pytest.mark.parametrize("encoding", ["offsets", "corners"])
@pytest.mark.parametrize("objectness", [False, True])
def test_candidates_are_those_of_the_core_best_first(threshold, activation, encoding, objectness):
    graph = reference.detector_graph(landmarks=True)
    spec = reference.detector_spec(
        graph, activation=activation, encoding=encoding, score_threshold=threshold
    )
    if objectness:
        spec = replace(spec, heads=replace(spec.heads, objectness="objectness"))
    count = spec.priors.count(spec.input.width, spec.input.height)
    random = np.random.default_rng(0)
    sizes = {"scores": 1 if objectness else 2, "boxes": 4, "landmarks": 10}
    sizes.update({"objectness": 1} if objectness else {})
    heads = {k: random.normal(size=(count, n)).astype(np.float32) for k, n in sizes.items()}
    # What must not get through, and what is the same twice.
    heads["scores"][3] = heads["boxes"][7, 2] = heads["landmarks"][9, 4] = np.nan
    heads["boxes"][11, 0] = np.inf
    heads["boxes"][12] = 1e38
    heads["scores"][20:40] = heads["scores"][20]
    heads["scores"][50] = -0.0
    for min_face in ((0.0, 0.0), (30.0, 22.0)):
        want = _core.decode(
            heads["scores"],
            heads["boxes"],
            heads["landmarks"],
            model.core_spec(spec),
            threshold,
            min_face,
            heads.get("objectness"),
        )
        want = want[np.argsort(-want[:, 4], kind="stable")]
        got, reaching = decoded(heads, spec, min_face)
        assert got.shape == want.shape
        assert len(want) > 0 or threshold > 0.9
        # exp() of either is good to 2 roundings, which a softmax and a size go through; all else is the same.
        lost = (
            8
            * reference.ROUNDING
            * np.maximum(np.abs(want), np.abs(want).max(axis=1, keepdims=True))
        )
        assert (np.abs(got - want) <= lost).all()
        assert_array_equal(decoded(heads, spec, min_face, top_k=5)[0], got[:5])
        # Room for all that reach the threshold is enough, and for one less is known not to be.
        assert_array_equal(decoded(heads, spec, min_face, room=max(reaching, 1))[0], got)


# --- NMS: the same set -----------------------------------------------------------------------------------


def core_kept(rows, iou_threshold):
    options = _core.Options(
        score_threshold=0.0,
        iou_threshold=iou_threshold,
        nms="hard",
        max_faces=2**31 - 1,
        pre_nms_top_k=2**31 - 1,
        min_face=0.0,
    )
    return _core.non_max_suppression(rows, options)


def sorted_candidates(count, seed, faces=None):
    rows = candidates(count, seed)
    if faces is not None:
        # Many of each: long chains.
        rows[:, :4] = candidates(faces, seed)[np.arange(count) % faces, :4]
        rows[:, :4] += np.random.default_rng(seed).normal(scale=9, size=(count, 4))
    return rows[np.argsort(-rows[:, 4], kind="stable")].astype(np.float32)


@on_every_device
@pytest.mark.parametrize("iou_threshold", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize(("count", "faces"), [(1, None), (60, None), (500, 4), (1300, 9)])
def test_nms_keeps_what_the_core_keeps(count, faces, iou_threshold, device):
    rows = np.stack([sorted_candidates(count, seed, faces) for seed in range(3)])
    threshold = float(np.float32(iou_threshold))
    valid = np.ones(rows.shape[:2], bool)
    valid[1, count // 2 :] = False
    boxes = torch.from_numpy(rows[..., :4]).to(device)
    kept, changes = nms.hard(boxes, torch.from_numpy(valid).to(device), threshold, nms.BLOCK)
    assert (changes < nms.BLOCK).all()
    for one, stays, looked_at in zip(rows, kept.cpu().numpy(), valid):
        assert_array_equal(one[stays], core_kept(one[looked_at], iou_threshold))


def chain(count):
    """Each covers the next alone: every other one stays, and that takes as many rounds as there are."""
    left = np.arange(count, dtype=np.float32)
    scores = np.linspace(1, 0.5, count, dtype=np.float32)
    ones = np.ones(count, np.float32)
    return np.stack([left, 0 * ones, left + 2, ones, scores], axis=1)


def test_nms_says_when_its_rounds_did_not_suffice():
    rows = torch.from_numpy(chain(40))[None, :, :4]
    valid = torch.ones(1, 40, dtype=torch.bool)
    want = np.arange(40) % 2 == 0
    for rounds in (1, 8, 37):
        kept, changes = nms.hard(rows, valid, 0.3, rounds)
        assert changes == rounds
        assert not np.array_equal(kept[0].numpy(), want)
    for rounds in (40, 99):
        kept, changes = nms.hard(rows, valid, 0.3, rounds)
        assert changes < rounds
        assert_array_equal(kept[0].numpy(), want)


@pytest.mark.parametrize("count", [nms.BLOCK - 1, nms.BLOCK, nms.BLOCK + 1, 2 * nms.BLOCK + 7])
def test_as_many_rounds_as_a_block_has_candidates_suffice_always(count):
    rows = chain(count)
    boxes = torch.from_numpy(rows)[None, :, :4]
    kept, changes = nms.hard(boxes, torch.ones(1, count, dtype=torch.bool), 0.3, nms.BLOCK)
    assert changes < nms.BLOCK
    assert_array_equal(rows[kept[0].numpy()], core_kept(rows, 0.3))


def test_boxes_without_area_cover_nothing():
    rows = torch.zeros(1, 3, 4)
    kept, _ = nms.hard(rows, torch.ones(1, 3, dtype=torch.bool), 0.0, 3)
    assert kept.all()


# --- The whole -------------------------------------------------------------------------------------------

# Of two float32 engines, in frame pixels and of scores: what the released networks lose, see below.
PIXELS, SCORES = 0.01, 1e-5


def assert_same_faces(got, want):
    assert got.rows.dtype == np.float32
    assert got.rows.shape == want.rows.shape
    lost = np.abs(got.rows - want.rows)
    assert (lost[:, 4] <= SCORES).all()
    assert (np.delete(lost, 4, axis=1) <= PIXELS).all()


@needs_shared
@on_every_device
@pytest.mark.parametrize("name", RELEASED)
def test_photographs_have_the_faces_that_the_native_engine_finds(name, device):
    path = SHARED / "weights" / name
    native, other = FaceDetector(path, backend="native"), on_torch(path, device)
    found = 0
    for photo in PHOTOGRAPHS:
        want = native.detect(photograph(photo))
        assert_same_faces(other.detect(photograph(photo)), want)
        found += len(want)
    assert found > 150


OPTIONS = [
    {},
    {"score_threshold": 0.2, "iou_threshold": 0.6, "max_faces": 7},
    {"score_threshold": 0.0, "pre_nms_top_k": 20},
    {"score_threshold": 0.0, "iou_threshold": 0.05},
    {"score_threshold": 0.3, "min_face": 40.0},
    {"score_threshold": 0.3, "levels": (16,)},
    {"score_threshold": 0.3, "resize": "letterbox"},
    {"score_threshold": 0.3, "input_size": (64, 48)},
    {"score_threshold": 0.3, "input_size": "frame"},
    *({"score_threshold": 0.3, "nms": kind} for kind in detector.NMS[1:]),
    {"score_threshold": 1.0},
]


@on_every_device
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_means_what_it_does_elsewhere(path, options, device):
    native, other = (
        FaceDetector(path, backend="native", **options),
        on_torch(path, device, **options),
    )
    found = 0
    for frame in (picture(90, 70), picture(64, 96, seed=1)):
        for roi in (None, (3, 5, 40, 31)):
            want = native.detect(frame, roi=roi)
            found += len(want)
            assert_same_faces(other.detect(frame, roi=roi), want)
            assert other.spec == native.spec
    assert found > 0 or options["score_threshold"] == 1


@pytest.mark.parametrize(
    "channels", ["yuyv", "uyvy", "nv12", "nv21", "i420", "yv12", "gray", "rgba"]
)
def test_frames_may_be_of_every_kind(path, channels):
    frame = picture(90, 70)
    if channels == "gray":
        frame = frame[..., 1]
    elif channels == "rgba":
        frame = np.dstack([frame, frame[..., :1]])
    else:
        frame = camera_frame(frame, channels)
    options = {"channels": channels, "score_threshold": 0.3}
    want = FaceDetector(path, backend="native", **options).detect(frame, roi=(3, 5, 40, 31))
    assert len(want) > 0
    assert_same_faces(on_torch(path, **options).detect(frame, roi=(3, 5, 40, 31)), want)


@on_every_device
def test_more_candidates_and_longer_chains_than_expected_cost_no_face(path, device, monkeypatch):
    monkeypatch.setattr(device_detector, "_CANDIDATES", 2)
    monkeypatch.setattr(device_detector, "_ROUNDS", 1)
    options = {"score_threshold": 0.0, "iou_threshold": 0.1}
    native, other = (
        FaceDetector(path, backend="native", **options),
        on_torch(path, device, **options),
    )
    for seed in range(3):
        want = native.detect(picture(seed=seed))
        assert len(want) > 10
        assert_same_faces(other.detect(picture(seed=seed)), want)


def test_room_grows_at_once_and_shrinks_step_by_step():
    given = [256]
    for used in (3, 256, 257, 3000, 9000, 1250, 1251, 600, 60, 60, 60, 60):
        given.append(device_detector._room(given[-1], used, 256, 5000))
    assert given == [256, 256, 256, 512, 4096, 5000, 2500, 2500, 1250, 625, 312, 256, 256]
    assert device_detector._room(7, 1, 256, 7) == 7


@on_every_device
def test_a_batch_has_the_faces_of_its_frames(path, device):
    frames = [picture(90, 70, seed) for seed in range(11)]
    frames += [picture(64, 96, seed) for seed in range(2)] + frames[:1]
    for options in ({}, {"input_size": "frame"}):
        native = FaceDetector(path, backend="native", score_threshold=0.3, **options)
        other = on_torch(path, device, score_threshold=0.3, **options)
        for many in (frames, tuple(frames), iter(frames)):
            got = other.detect_batch(many)
            assert len(got) == len(frames)
            for faces, frame in zip(got, frames):
                assert_same_faces(faces, native.detect(frame))
        assert min(other.timings) > 0
        assert other.detect_batch([]) == []


def test_faces_come_back_in_one_copy(path, monkeypatch):
    subject = on_torch(path)
    copied = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: copied.append(self.shape) or cpu(self))
    subject.detect(picture())
    assert len(subject.detect_batch([picture()] * 3)[2]) > 0
    # Up to 162 priors of 6 numbers and 10 of landmarks, and a row about them.
    assert [shape[0] for shape in copied] == [1, 3]


def test_frames_alike_run_together(path, monkeypatch):
    subject = on_torch(path)
    sizes = []
    network = type(subject._kept.get(subject._rule.fit(1, 1)).core._runner)
    heads = network.heads
    monkeypatch.setattr(
        network, "heads", lambda self, images: sizes.append(len(images)) or heads(self, images)
    )
    frames = [picture(90, 70)] * (detector.BATCH + 3) + [picture(70, 90)] * 2 + [picture(90, 70)]
    subject.detect_batch(frames)
    assert sizes == [detector.BATCH, 3, 2, 1]
    with pytest.raises(TypeError, match="frame is a list"):
        subject.detect_batch([frames[0], [1]])


@needs_shared
@on_every_device
def test_half_precision_finds_the_same_faces_less_exactly(device):
    # No bound is derived. Of the six photographs and three networks, on a CPU: .966 and .011 at most.
    path = SHARED / "weights" / RELEASED[0]
    native, half = FaceDetector(path, backend="native"), on_torch(path, device, half=True)
    frame = photograph("10.jpg")
    want = [face for face in native.detect(frame) if face.score > 0.9]
    got = half.detect(frame)
    assert len(want) > 5
    for face in want:
        nearest = max(got, key=lambda other: iou(other, face))
        assert iou(nearest, face) > 0.9
        assert 0 < abs(nearest.score - face.score) < 0.05


def test_the_number_of_threads_is_set_back(path):
    subject = FaceDetector(path, backend="torch", num_threads=2)
    seen = []
    runner = subject._kept.get(subject._rule.fit(1, 1)).core._runner
    heads = runner.heads
    runner.heads = lambda images: seen.append(torch.get_num_threads()) or heads(images)
    subject.detect(picture())
    assert seen == [2]
    assert torch.get_num_threads() == 1


def test_a_head_of_another_size_is_a_model_error(tmp_path):
    path = write_model(tmp_path, reference.detector_graph(), strides=(8, 32))
    with pytest.raises(ModelError, match="priors need"):
        on_torch(path)


# --- Devices -----------------------------------------------------------------------------------------------


@pytest.fixture
def imaginary():
    """A device that computes nothing, but refuses what mixes its tensors with a CPU's, as a GPU does."""
    setup = getattr(
        torch.utils.backend_registration, "_setup_privateuseone_for_python_backend", None
    )
    if setup is None:
        pytest.skip("this release of PyTorch has no devices for tests")
    if torch._C._get_privateuse1_backend_name() == "privateuseone":
        setup("npy")
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.device("npy")


@pytest.mark.parametrize("channels", ["bgr", "gray", "yuyv", "nv12"])
def test_nothing_on_a_device_meets_what_is_not_there(imaginary, channels):
    graph = reference.detector_graph(landmarks=True)
    b = Builder(3, 64, 96)
    last, others = pyramid(b)
    spec = reference.detector_spec(graph)
    frame = np.zeros((70, 90, 2) if channels == "yuyv" else (70, 90, 3), np.uint8)
    chroma = np.zeros((35, 90), np.uint8) if channels == "nv12" else None
    frame = frame[..., 0] if channels in ("gray", "nv12") else frame
    views = [cut(frame, channels, (3, 5, 40, 30), chroma)] * 2
    images = Preprocess(views[0], spec.input, imaginary)(upload(views, imaginary))
    for dtype in (torch.float32, torch.float16):
        Network(b.graph(last, *others), imaginary, dtype)(images)
        heads = Network(graph, imaginary, dtype)(images)
        assert {head.dtype for head in heads.values()} == {torch.float32}
        found = Decoder(spec, 10, imaginary)(heads, (1.0, 1.0), 20)
        kept, changes = nms.hard(found.rows[..., :4], found.valid, 0.3, 8)
        assert {kept.device.type, changes.device.type, found.count.device.type} == {"npy"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_cuda_the_error_says_so(path):
    with pytest.raises(BackendError, match=r"torch \S+ cannot use the device 'cuda': .*CUDA"):
        on_torch(path, "cuda")


@pytest.mark.parametrize("name", ["meta", "nothing"])
def test_devices_that_cannot_compute_are_refused(path, name):
    with pytest.raises(BackendError, match=f"cannot use the device '{name}'"):
        on_torch(path, name)


def test_nothing_imports_pytorch_before_it_is_asked_for(path):
    program = (
        "import sys\n"
        f"sys.path[:] = {sys.path!r}\n"
        "import edgeface, edgeface.cli\n"
        "import numpy as np\n"
        f"edgeface.FaceDetector({str(path)!r}).detect(np.zeros((9, 9, 3), np.uint8))\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_auto_takes_it_for_half_precision_and_not_for_float32_on_a_cpu(path):
    assert str(FaceDetector(path).backend) == "native"
    assert str(FaceDetector(path, half=True).backend) == "torch"


# --- The command line ------------------------------------------------------------------------------------


def test_commands_take_the_backend_and_half_precision(path, tmp_path, run_edgeface):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    image = tmp_path / "one.png"
    image.write_bytes(cv2.imencode(".png", picture())[1].tobytes())
    options = ["--model", path, "--num-threads", 1, "--json"]
    status, out, _ = run_edgeface("detect", image, "--backend", "torch", "--half", *options)
    assert status == 0
    assert '"faces"' in out


def test_info_and_doctor_say_what_torch_is_here(path, run_edgeface):
    _, out, _ = run_edgeface("info", path)
    lines = dict(line.split(maxsplit=2)[1:] for line in out.splitlines() if "backend " in line)
    assert lines["torch"] == (
        "runs it, but only when asked for by name: auto takes it for a GPU or half precision alone"
    )
    answer = doctor._backends()["torch"]
    assert answer.startswith(f"ok, {torch.__version__}, CUDA: ")
    assert answer.endswith("no") != torch.cuda.is_available()


def test_bench_times_those_that_run_on_the_device(path, run_edgeface):
    _, out, _ = run_edgeface(
        "bench", path, "--backend", "all", "--half", "--frames", 1, "--num-threads", 1, "--json"
    )
    found = json.loads(out)
    assert [row["backend"] for row in found["backends"]] == ["torch"]
    assert found["skipped"]["native"] == (
        "it runs on cpu in float32 alone, not on cpu in half precision"
    )
