from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import reference
from edgeface import BackendError, FaceDetector, Faces, ModelError, _core
from edgeface import spec as specs
from edgeface.backends import BACKENDS
from edgeface.formats import onnx
from reference import ISAS, ROUNDING, SHARED, needs_shared, picture


def needs(backend):
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime")


def write_model(folder, *, name="little", graph=None, **changes):
    """A model file with its spec beside it; `changes` are of the spec."""
    graph = graph or reference.detector_graph()
    path = folder / f"{name}.onnx"
    path.write_bytes(onnx.write(graph))
    spec = reference.detector_spec(graph, **changes)
    path.with_suffix(".json").write_text(specs.to_json(spec))
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    little = reference.detector_graph
    with_landmarks = little(landmarks=True)
    return {
        "boxes": write_model(folder, name="boxes"),
        "landmarks": write_model(folder, name="landmarks", graph=with_landmarks),
        "gray": write_model(folder, name="gray", graph=little(channels=1)),
        "logits": write_model(folder, name="logits", graph=little(softmax=False)),
        "letterbox": write_model(
            folder, name="letterbox", graph=with_landmarks, resize="letterbox"
        ),
    }


@pytest.fixture(scope="module")
def path(models):
    return models["boxes"]


@pytest.fixture(scope="module")
def detector(path):
    return FaceDetector(path, num_threads=1)


def expected(path, frame, runner, nms="hard"):
    """What to find in a BGR frame, by the definitions, and how many pixels float32 may be off.

    The network itself has tests of its own: its heads come from `runner`.
    """
    spec = specs.read(path.with_suffix(".json"))
    width, height = spec.input.width, spec.input.height
    runner.input()[:] = reference.preprocess(
        frame,
        "bgr",
        width=width,
        height=height,
        order=spec.input.channels,
        mean=spec.input.mean,
        scale=spec.input.scale,
    )
    runner.run()
    scores = runner.output("scores").reshape(-1, 2)[:, 1]
    offsets = runner.output("boxes").reshape(-1, 4)
    anchors = np.float32(
        reference.priors(
            width,
            height,
            strides=spec.priors.strides,
            min_sizes=spec.priors.min_sizes,
            clip=spec.priors.clip,
        )
    )
    boxes, bound = reference.decode_boxes(offsets, anchors, spec.priors.variances, width, height)
    kept = scores >= np.float32(spec.score_threshold)
    rows = np.column_stack([boxes, scores])[kept]
    # Two edges of two boxes, each off by the bound, change an IoU by less than 8 times it over a side.
    sides = np.minimum(rows[:, 2] - rows[:, 0], rows[:, 3] - rows[:, 1])
    margin = 8 * bound.max() / sides.min() + reference.IOU_MARGIN
    found = reference.nms(rows, nms, spec.iou_threshold, margin=margin)
    frame_size = np.tile(frame.shape[1::-1], 2)
    found[:, :4] = np.clip(
        found[:, :4] * frame_size / (width, height, width, height), 0, frame_size
    )
    # Placing a box in the frame: the scale is rounded, then a product and a sum.
    scale = max(frame.shape[1] / width, frame.shape[0] / height)
    return Faces(found), scale * bound.max() + 3 * ROUNDING * max(frame.shape)


def runner_for(path, backend, num_threads=1):
    return BACKENDS[backend].open_graph(onnx.read(path.read_bytes()), num_threads)


def assert_same(a, b, pixels=0.0, scores=0.0):
    assert len(a) == len(b)
    assert np.abs(a.boxes - b.boxes).max(initial=0) <= pixels
    assert np.abs(a.scores - b.scores).max(initial=0) <= scores


# --- What it finds ----------------------------------------------------------------------------------------


every_backend = pytest.mark.parametrize("backend", ["native", "onnxruntime"])


@pytest.mark.parametrize("seed", range(3))
@every_backend
def test_it_finds_what_the_definitions_say(path, backend, seed):
    needs(backend)
    frame = picture(seed=seed)
    want, bound = expected(path, frame, runner_for(path, backend))
    assert len(want) > 3
    assert_same(FaceDetector(path, backend=backend).detect(frame), want, bound)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_it_finds_the_same_on_every_isa_and_thread_count(path, isa, threads, monkeypatch):
    monkeypatch.setenv("EDGEFACE_ISA", isa)
    frame = picture(seed=7)
    want, bound = expected(path, frame, runner_for(path, "native"))
    got = FaceDetector(path, backend="native", num_threads=threads).detect(frame)
    assert_same(got, want, bound)


@pytest.mark.parametrize("seed", range(3))
def test_native_and_onnxruntime_find_the_same(path, seed):
    needs("onnxruntime")
    frame = picture(seed=seed)
    graph = onnx.read(path.read_bytes())
    runner = runner_for(path, "native")
    expected(path, frame, runner)
    values = reference.run_graph(graph, runner.input().copy())
    _, boxes = values["boxes"]
    _, scores = values["scores"]
    # Each of them is within the network's bound. An offset counts for 0.1 of a prior where it moves a box,
    # and for 0.2 of a side where it scales it; no side here is longer than the input, 96 x 64.
    scale = max(frame.shape[1] / 96, frame.shape[0] / 64)
    found = [
        FaceDetector(path, backend=backend).detect(frame) for backend in ("native", "onnxruntime")
    ]
    assert len(found[0]) > 3
    assert_same(*found, 2 * (0.1 + 0.2) * boxes.max() * 96 * scale, 2 * scores.max())


@pytest.mark.parametrize("nms", ["hard", "soft-linear", "soft-gaussian", "blending"])
def test_every_nms_reaches_the_core(path, nms):
    frame = picture(seed=1)
    got = FaceDetector(path, nms=nms, score_threshold=0.5).detect(frame)
    other = FaceDetector(path, nms="hard", score_threshold=0.5).detect(frame)
    assert len(got) > 1
    assert (nms == "hard") == (
        got.rows.shape == other.rows.shape and (got.rows == other.rows).all()
    )


def test_pending_softmax_gives_the_same_faces(models):
    frame = picture(seed=2)
    want = FaceDetector(models["boxes"]).detect(frame)
    got = FaceDetector(models["logits"]).detect(frame)
    # Two ways to the same softmax; both within 2 + 4 roundings of it, times the logits' distance (< 16).
    assert_same(got, want, scores=100 * ROUNDING)


def test_landmarks_come_with_the_model(models):
    frame = picture(seed=3)
    faces = FaceDetector(models["landmarks"]).detect(frame)
    assert len(faces) > 1
    assert faces.landmarks.shape == (len(faces), 5, 2)
    assert np.isfinite(faces.landmarks).all()
    assert_array_equal(faces.rows[:, 5:7], faces.landmarks[:, 0])
    assert FaceDetector(models["boxes"]).detect(frame).landmarks is None


# --- Frames -----------------------------------------------------------------------------------------------


def test_a_region_is_the_cropped_frame_moved(models):
    frame = picture(140, 210, seed=4)
    for name in ("boxes", "landmarks", "letterbox"):
        detector = FaceDetector(models[name])
        x, y, width, height = region = (37, 21, 120, 101)
        inside = detector.detect(np.ascontiguousarray(frame[y : y + height, x : x + width]))
        assert len(inside) > 1
        got = detector.detect(frame, roi=region)
        moved = inside.rows.copy()
        moved[:, 0:4:2] += x
        moved[:, 1:4:2] += y
        moved[:, 5::2] += x
        moved[:, 6::2] += y
        # Scaled and moved in one or in two steps, which rounds once more.
        bound = 2 * ROUNDING * np.abs(moved).max()
        assert got.rows.shape == moved.shape
        assert np.abs(got.rows - moved).max() <= bound
        assert_array_equal(got.rows, detector.detect(frame, roi=np.array(region)).rows)


def test_the_whole_frame_is_the_default_region(detector):
    frame = picture(140, 210, seed=4)
    whole = detector.detect(frame, roi=(0, 0, 210, 140))
    assert_array_equal(whole.rows, detector.detect(frame).rows)


@pytest.mark.parametrize(
    "view",
    [
        lambda f: f[::-1],
        lambda f: f[:, ::-1],
        lambda f: f[..., ::-1],
        lambda f: f[3:-5, 7:-9],
        lambda f: f[::2, ::3],
        np.asfortranarray,
        lambda f: f.transpose(1, 0, 2),
    ],
)
def test_strided_frames_are_as_good_as_their_copies(detector, view):
    frame = view(picture(160, 200, seed=5))
    want = detector.detect(np.ascontiguousarray(frame))
    assert len(want) > 0
    assert_array_equal(detector.detect(frame).rows, want.rows)


@pytest.mark.parametrize(
    "frame",
    [
        picture(channels=1)[:, :, 0][..., np.newaxis],  # NumPy gives the new axis a stride of 0
        picture()[:, 0][:, np.newaxis],
        picture()[:1, ::1000],
        picture()[:, :1],
        picture()[:1],
    ],
    ids=["gray with an axis", "column with an axis", "one strided pixel", "column", "row"],
)
def test_axes_of_length_one_may_have_any_stride(detector, frame):
    assert_array_equal(detector.detect(frame).rows, detector.detect(frame.copy()).rows)


def test_channel_orders_name_the_same_picture(models):
    bgr = picture(seed=6)
    alpha = np.full((*bgr.shape[:2], 1), 77, np.uint8)
    frames = {
        "auto": bgr,
        "bgr": bgr,
        "rgb": bgr[..., ::-1],
        "bgra": np.concatenate([bgr, alpha], axis=2),
        "rgba": np.concatenate([bgr[..., ::-1], alpha], axis=2),
    }
    want = FaceDetector(models["boxes"]).detect(bgr)
    assert len(want) > 1
    for channels, frame in frames.items():
        got = FaceDetector(models["boxes"], channels=channels).detect(frame)
        assert_array_equal(got.rows, want.rows)
    auto = FaceDetector(models["boxes"])
    assert_array_equal(auto.detect(frames["bgra"]).rows, want.rows)
    wrong = FaceDetector(models["boxes"], channels="rgb").detect(bgr)
    assert not np.array_equal(wrong.rows, want.rows)


def test_a_gray_frame_is_a_colour_frame_of_equal_channels(models):
    gray = picture(seed=6)[:, :, 0].copy()
    for model in ("boxes", "gray"):
        for channels in ("auto", "gray"):
            detector = FaceDetector(models[model], channels=channels)
            want = FaceDetector(models[model]).detect(np.repeat(gray[..., None], 3, axis=2))
            assert len(want) > 0
            assert_array_equal(detector.detect(gray).rows, want.rows)
            assert_array_equal(detector.detect(gray[..., None].copy()).rows, want.rows)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3000), (3000, 2), (1, 4000), (7, 5)])
@pytest.mark.parametrize("model", ["boxes", "landmarks", "letterbox"])
def test_unusual_frames_give_boxes_inside_them(models, model, shape):
    frame = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    faces = FaceDetector(models[model], score_threshold=0).detect(frame)
    assert len(faces) > 0
    assert np.isfinite(faces.rows).all()
    x1, y1, x2, y2 = faces.boxes.T
    assert (x1 >= 0).all()
    assert (y1 >= 0).all()
    assert (x2 <= shape[1]).all()
    assert (y2 <= shape[0]).all()
    assert (x1 < x2).all()
    assert (y1 < y2).all()


def test_letterbox_keeps_the_shape_of_a_box(models):
    # Stretched, a frame twice as wide makes every prior twice as wide; letterboxed it does not.
    frame = picture(100, 400, seed=8)
    stretched = FaceDetector(models["letterbox"], resize="stretch")
    assert stretched.spec.input.resize == "stretch"
    letterbox = FaceDetector(models["letterbox"], score_threshold=0.5)
    faces = letterbox.detect(frame[:, 100:300])
    inner = [f for f in faces if f.x1 > 0 and f.y1 > 0 and f.x2 < 200 and f.y2 < 100]
    assert len(inner) > 0
    # Square priors, offsets of the size of a few tenths: exp(0.2 * 2) and its inverse.
    assert all(0.4 < f.width / f.height < 2.5 for f in inner)


def test_no_face_gives_an_empty_result(models):
    for name, columns in (("boxes", 5), ("landmarks", 15)):
        faces = FaceDetector(models[name], score_threshold=1).detect(picture())
        assert isinstance(faces, Faces)
        assert len(faces) == 0
        assert faces.rows.shape == (0, columns)
        assert list(faces) == []


def test_detect_batch_is_detect_for_each(detector):
    frames = [picture(seed=i, height=100 + i) for i in range(4)]
    batch = detector.detect_batch(iter(frames))
    assert [len(faces) > 0 for faces in batch] == [True] * 4
    for faces, frame in zip(batch, frames):
        assert_array_equal(faces.rows, detector.detect(frame).rows)
    assert detector.detect_batch([]) == []


def test_faces_do_not_change_when_the_next_frame_comes(detector):
    faces = detector.detect(picture(seed=1))
    before = faces.rows.copy()
    assert not np.array_equal(detector.detect(picture(seed=2)).rows, before)
    assert_array_equal(faces.rows, before)


def test_a_frame_is_not_written_to(detector):
    frame = picture()
    before = frame.copy()
    frame.flags.writeable = False
    detector.detect(frame, roi=(3, 4, 50, 60))
    assert_array_equal(frame, before)


# --- Options ----------------------------------------------------------------------------------------------


def test_max_faces_keeps_the_best(path):
    frame = picture(seed=1)
    many = FaceDetector(path).detect(frame)
    assert len(many) > 3
    assert_array_equal(FaceDetector(path, max_faces=2).detect(frame).rows, many.rows[:2])


def test_pre_nms_top_k_of_one_gives_one_face(path):
    frame = picture(seed=1)
    best = FaceDetector(path).detect(frame).rows[:1]
    assert_array_equal(FaceDetector(path, pre_nms_top_k=1).detect(frame).rows, best)


@pytest.mark.parametrize(("height", "width"), [(64, 960), (640, 96)])
def test_min_face_is_in_frame_pixels_along_the_longer_side(path, height, width):
    # The input is 96 x 64: the frame is 10 times as wide, or 10 times as high.
    frame = picture(height, width, seed=1)
    every = FaceDetector(path, iou_threshold=1.0).detect(frame).rows
    x1, y1, x2, y2 = every[:, :4].T
    inside = (x1 > 0) & (y1 > 0) & (x2 < width) & (y2 < height)
    longer = np.maximum(x2 - x1, y2 - y1)
    middle = np.sort(longer[inside])
    widest_gap = np.argmax(np.diff(middle))
    limit = float(middle[widest_gap] + middle[widest_gap + 1]) / 2
    got = FaceDetector(path, iou_threshold=1.0, min_face=limit).detect(frame).rows
    kept = {row.tobytes() for row in got}
    assert 0 < len(got) < len(every)
    for row, size in zip(every[inside], longer[inside]):
        assert (row.tobytes() in kept) == (size > limit)


def test_a_score_threshold_keeps_what_reaches_it(path):
    frame = picture(seed=1)
    every = FaceDetector(path, score_threshold=0, iou_threshold=1.0).detect(frame)
    threshold = float(every.scores[len(every) // 4])
    got = FaceDetector(path, score_threshold=threshold, iou_threshold=1.0).detect(frame)
    assert_array_equal(got.scores, every.scores[every.scores >= threshold])


def test_options_replace_what_the_spec_says(path):
    detector = FaceDetector(path)
    assert (detector.spec.score_threshold, detector.spec.iou_threshold) == (0.6, 0.3)
    detector = FaceDetector(path, score_threshold=0.25, iou_threshold=0.5, resize="letterbox")
    assert (detector.spec.score_threshold, detector.spec.iou_threshold) == (0.25, 0.5)
    assert detector.spec.input.resize == "letterbox"


@pytest.mark.parametrize("size", [(128, 64), (32, 96), (97, 63), (16, 16)])
@every_backend
def test_input_size_changes_the_network(path, size, backend):
    needs(backend)
    detector = FaceDetector(path, input_size=size, backend=backend, score_threshold=0.3)
    assert (detector.spec.input.width, detector.spec.input.height) == size
    assert len(detector.detect(picture())) > 0


def test_num_threads_is_what_was_asked_for(path):
    assert FaceDetector(path, num_threads=3).num_threads == 3
    assert FaceDetector(path, num_threads=np.int64(2)).num_threads == 2
    assert FaceDetector(path).num_threads >= 1


def test_timings_are_of_the_last_detect(path):
    detector = FaceDetector(path)
    assert detector.timings == (0, 0, 0)
    detector.detect(picture())
    assert min(detector.timings) > 0
    assert detector.timings.run == detector.timings[1]


BAD_OPTIONS = [
    ({"score_threshold": float("nan")}, ValueError, "score_threshold is nan"),
    ({"score_threshold": 1.5}, ValueError, "score_threshold is 1.5; expected 0 to 1"),
    ({"score_threshold": -0.1}, ValueError, "score_threshold"),
    ({"score_threshold": "0.5"}, TypeError, "score_threshold is a str"),
    ({"score_threshold": True}, TypeError, "score_threshold is a bool"),
    ({"iou_threshold": float("inf")}, ValueError, "iou_threshold"),
    ({"iou_threshold": [0.5]}, TypeError, "iou_threshold"),
    ({"min_face": -1}, ValueError, "min_face"),
    ({"min_face": float("nan")}, ValueError, "min_face"),
    ({"min_face": float("inf")}, ValueError, "min_face"),
    ({"min_face": False}, TypeError, "min_face"),
    ({"num_threads": 0}, ValueError, "num_threads is 0; expected 1 to"),
    ({"num_threads": -2}, ValueError, "num_threads"),
    ({"num_threads": 10**6}, ValueError, "num_threads"),
    ({"num_threads": 2.0}, TypeError, "num_threads is a float"),
    ({"num_threads": True}, TypeError, "num_threads is a bool"),
    ({"max_faces": 0}, ValueError, "max_faces"),
    ({"max_faces": 2**31}, ValueError, "max_faces"),
    ({"max_faces": 1.5}, TypeError, "max_faces"),
    ({"pre_nms_top_k": 0}, ValueError, "pre_nms_top_k"),
    ({"pre_nms_top_k": True}, TypeError, "pre_nms_top_k"),
    ({"nms": "fast"}, ValueError, "nms is 'fast'; expected one of hard"),
    ({"nms": None}, ValueError, "nms is None"),
    ({"channels": "yuv"}, ValueError, "channels is 'yuv'; expected one of auto"),
    ({"resize": "crop"}, ValueError, "resize is 'crop'; expected one of stretch"),
    (
        {"backend": "tpu"},
        ValueError,
        "backend 'tpu'; expected auto, native, tengine, torch, onnxruntime",
    ),
    ({"device": 0}, TypeError, "device is 0; expected"),
    ({"device": "GPU 1"}, ValueError, "device is 'GPU 1'; expected"),
    ({"half": 1}, TypeError, "half is 1; expected True or False"),
    ({"input_size": 320}, TypeError, "input_size is 320"),
    ({"input_size": (320,)}, TypeError, "input_size"),
    ({"input_size": (320, 0)}, ValueError, "input height"),
    ({"input_size": (0, 240)}, ValueError, "input width"),
    ({"input_size": (10**6, 240)}, ValueError, "input width"),
    ({"input_size": (320.0, 240)}, TypeError, "input width"),
    ({"input_size": (320, True)}, TypeError, "input height"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS)
def test_a_bad_option_is_named(path, options, error, message):
    with pytest.raises(error, match=message):
        FaceDetector(path, **options)


def test_options_are_keywords_alone(path):
    with pytest.raises(TypeError, match="positional"):
        FaceDetector(path, None)


BAD_FRAMES = [
    (None, TypeError, "NoneType.*cv2.imread"),
    ([[0]], TypeError, "the frame is a list"),
    ("1.jpg", TypeError, "the frame is a str"),
    (np.zeros((4, 4, 3)), TypeError, "the frame is float64; expected uint8"),
    (np.zeros((4, 4, 3), np.int8), TypeError, "int8"),
    (np.zeros((4, 4, 2), np.uint8), ValueError, r"\(4, 4, 2\)"),
    (np.zeros((4, 4, 5), np.uint8), ValueError, r"\(4, 4, 5\)"),
    (np.zeros((4, 4, 0), np.uint8), ValueError, r"\(4, 4, 0\)"),
    (np.zeros((1, 3, 4, 4), np.uint8), ValueError, r"\(1, 3, 4, 4\)"),
    (np.zeros(4, np.uint8), ValueError, r"\(4,\)"),
    (np.zeros((), np.uint8), ValueError, r"\(\)"),
    (np.zeros((0, 4, 3), np.uint8), ValueError, "4x0"),
    (np.zeros((4, 0, 3), np.uint8), ValueError, "0x4"),
    (np.zeros((0, 0), np.uint8), ValueError, "0x0"),
    (np.broadcast_to(np.uint8(0), (1 << 15, 1 << 15)), ValueError, "32768x32768"),
]


@pytest.mark.parametrize(("frame", "error", "message"), BAD_FRAMES)
def test_a_bad_frame_says_what_is_wrong(detector, frame, error, message):
    with pytest.raises(error, match=message):
        detector.detect(frame)


@pytest.mark.parametrize(
    ("channels", "shape", "message"),
    [
        ("bgr", (4, 4), r"expected \(H, W, 3\) for bgr"),
        ("rgb", (4, 4, 4), r"expected \(H, W, 3\) for rgb"),
        ("bgra", (4, 4, 3), r"expected \(H, W, 4\) for bgra"),
        ("gray", (4, 4, 3), r"expected \(H, W\) for gray"),
    ],
)
def test_a_frame_that_is_not_what_channels_says_is_refused(path, channels, shape, message):
    with pytest.raises(ValueError, match=message):
        FaceDetector(path, channels=channels).detect(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("roi", "error"),
    [
        ((-1, 0, 5, 5), ValueError),
        ((0, -1, 5, 5), ValueError),
        ((0, 0, 201, 5), ValueError),
        ((0, 0, 5, 151), ValueError),
        ((200, 0, 1, 1), ValueError),
        ((0, 150, 1, 1), ValueError),
        ((5, 5, 0, 5), ValueError),
        ((5, 5, 5, -5), ValueError),
        ((0, 0, 2**40, 5), ValueError),
        ((0.0, 0, 5, 5), TypeError),
        ((0, 0, float("nan"), 5), TypeError),
        ((True, 0, 5, 5), TypeError),
        ((0, 0, 5), TypeError),
        ("abcd", TypeError),
        (5, TypeError),
    ],
)
def test_a_bad_region_is_named(detector, roi, error):
    with pytest.raises(error, match="roi"):
        detector.detect(picture(150, 200), roi=roi)


# --- Files ------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.onnx"):
        FaceDetector(tmp_path / "nothing.onnx")


def test_an_unknown_kind_of_file_says_what_is_known(tmp_path):
    path = tmp_path / "model.caffemodel"
    path.write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.caffemodel.*\.tmfile or \.onnx"):
        FaceDetector(path)


def test_a_damaged_file_is_named(tmp_path, path):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"damaged\.onnx"):
        FaceDetector(damaged)


def test_a_model_without_a_spec_says_how_to_write_one(tmp_path, models):
    lonely = tmp_path / "lonely.onnx"
    lonely.write_bytes(models["landmarks"].read_bytes())
    with pytest.raises(ModelError, match=r"edgeface info .*lonely\.onnx --write-spec"):
        FaceDetector(lonely)


def test_a_spec_is_taken_from_the_argument_the_sidecar_or_the_file(tmp_path, path):
    graph = onnx.read(path.read_bytes())
    spec = specs.read(path.with_suffix(".json"))
    model = tmp_path / "model.onnx"
    model.write_bytes(path.read_bytes())
    other = tmp_path / "other.json"
    other.write_text(specs.to_json(spec))
    assert FaceDetector(model, spec=spec).spec == spec
    assert FaceDetector(model, spec=other).spec == spec
    assert FaceDetector(model, spec=str(other)).spec == spec
    inside = reference.detector_spec(graph, score_threshold=0.11)
    model.write_bytes(onnx.write(graph, {"edgeface.spec": specs.to_json(inside)}))
    assert FaceDetector(model).spec.score_threshold == 0.11
    model.with_suffix(".json").write_text(specs.to_json(spec))
    assert FaceDetector(model).spec.score_threshold == 0.6


def test_a_given_spec_file_that_is_missing_is_named(path, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        FaceDetector(path, spec=tmp_path / "nowhere.json")


def test_another_sha256_is_refused(tmp_path):
    path = write_model(tmp_path, sha256="0" * 64)
    with pytest.raises(ModelError, match=f"sha256 is .*{'0' * 64}"):
        FaceDetector(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 100}, r"\(96, 64\).*\(100, 64\)"),
        ({"scores": "faces"}, "'faces'"),
        ({"boxes": "corners"}, "'corners'"),
        ({"landmarks": "points"}, "'points'"),
        ({"channels": "gray"}, "3 channels; the spec's channel order needs 1"),
        (
            {"strides": (8, 32)},
            r"output 'scores' has 432 values \(216 x 2\); the spec's 198 priors need 396",
        ),
        ({"boxes": "scores"}, "output 'scores' has 432 values"),
        ({"scores": "boxes"}, "output 'boxes' has 864 values"),
        ({"landmarks": "boxes"}, "output 'boxes' has 864 values"),
    ],
)
def test_a_spec_that_does_not_fit_the_network_says_where(tmp_path, changes, message):
    path = write_model(tmp_path, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        FaceDetector(path)
    assert str(path) in str(caught.value)


# --- Life of a detector -----------------------------------------------------------------------------------


def test_a_closed_detector_says_so(path):
    with FaceDetector(path) as detector:
        assert len(detector.detect(picture())) > 0
    for _ in range(2):
        with pytest.raises(ValueError, match="closed"):
            detector.detect(picture())
        detector.close()


def test_a_pickled_detector_opens_the_same_file(path):
    detector = FaceDetector(
        path, score_threshold=0.5, num_threads=2, max_faces=3, backend="native", nms="blending"
    )
    copy = pickle.loads(pickle.dumps(detector))
    assert copy.spec == detector.spec
    assert (copy.num_threads, str(copy.backend)) == (2, "native")
    frame = picture()
    assert len(detector.detect(frame)) == 3
    assert_array_equal(copy.detect(frame).rows, detector.detect(frame).rows)


def test_repr_tells_file_size_backend_and_threads(path):
    shown = repr(FaceDetector(path, num_threads=1))
    assert str(path) in shown
    assert "96x64" in shown
    assert "native" in shown
    assert shown.endswith("1 thread)")
    assert repr(FaceDetector(path, num_threads=2)).endswith("2 threads)")


def test_threads_may_share_a_detector(path):
    detector = FaceDetector(path, num_threads=2)
    frames = [picture(100 + 7 * i, 160 + 5 * i, seed=i) for i in range(8)]
    wants = [detector.detect(frame).rows for frame in frames]
    start = threading.Barrier(4)

    def work(first):
        start.wait()
        order = [(first + i) % len(frames) for i in range(40)]
        return all(np.array_equal(detector.detect(frames[i]).rows, wants[i]) for i in order)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_a_detector_for_each_thread_works_in_parallel(path):
    frames = [picture(seed=i) for i in range(4)]
    wants = [FaceDetector(path).detect(frame).rows for frame in frames]

    def work(i):
        with FaceDetector(path, num_threads=2) as detector:
            return all(np.array_equal(detector.detect(frames[i]).rows, wants[i]) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


# --- Backends ---------------------------------------------------------------------------------------------


def test_the_environment_chooses_what_auto_means(path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("EDGEFACE_BACKEND", "onnxruntime")
    assert str(FaceDetector(path).backend) == "onnxruntime"
    assert str(FaceDetector(path, backend="native").backend) == "native"
    monkeypatch.setenv("EDGEFACE_BACKEND", "tpu")
    with pytest.raises(ValueError, match="'tpu'"):
        FaceDetector(path)
    monkeypatch.setenv("EDGEFACE_BACKEND", "")
    assert str(FaceDetector(path).backend) == "native"


def test_a_forced_isa_never_falls_back_to_another_backend(path, monkeypatch):
    monkeypatch.setenv("EDGEFACE_ISA", "neon9")
    with pytest.raises(BackendError, match="neon9"):
        FaceDetector(path, backend="native")


# --- Released models --------------------------------------------------------------------------------------

ULTRAFACE = SHARED / "weights" / "ultraface"
TMFILES = SHARED / "weights" / "tmfile"
RELEASED = {
    "rfb320.tmfile": TMFILES / "rfb320.tmfile",
    "RFB-320_simplified.onnx": ULTRAFACE / "version-RFB-320_simplified.onnx",
}
PHOTOGRAPHS = ("1", "2", "3", "10", "17", "26")
RUNNERS = [("native", param.values[0], param.marks) for param in ISAS] + [("onnxruntime", "", ())]


@pytest.fixture(scope="module")
def photographs():
    cv2 = pytest.importorskip("cv2")
    return {name: cv2.imread(str(SHARED / "images" / f"{name}.jpg")) for name in PHOTOGRAPHS}


@pytest.fixture(scope="module")
def published_faces(photographs):
    """What version-RFB-320.onnx, which decodes its boxes itself, finds in plain onnxruntime."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        str(ULTRAFACE / "version-RFB-320.onnx"), options, providers=["CPUExecutionProvider"]
    )
    found = {}
    for name, frame in photographs.items():
        image = _core.preprocess(frame, reference.core_spec(), "bgr")
        scores, boxes = session.run(["scores", "boxes"], {"input": image})
        size = np.tile(frame.shape[1::-1], 2)
        rows = np.column_stack([boxes[0] * np.float64(size), scores[0, :, 1]])
        rows = reference.nms(rows[rows[:, 4] >= 0.7], "hard", 0.3)
        rows[:, :4] = np.clip(rows[:, :4], 0, size)
        found[name] = Faces(rows)
    return found


@needs_shared
@pytest.mark.parametrize(
    ("backend", "isa"),
    [pytest.param(backend, isa, marks=marks) for backend, isa, marks in RUNNERS],
)
@pytest.mark.parametrize("model", RELEASED.values(), ids=RELEASED)
def test_released_models_find_what_their_own_graph_finds(
    model, backend, isa, photographs, published_faces, monkeypatch
):
    needs(backend)
    monkeypatch.setenv("EDGEFACE_ISA", isa)
    detector = FaceDetector(model, backend=backend)
    for name, frame in photographs.items():
        want = published_faces[name]
        assert len(want) > 0
        # Both are float32 networks about 50 layers deep, where errors of 2^-24 grow to some 1e-5 of a score
        # and of an offset; 0.05 px at a width of 640 is a third of 0.1 % of the smallest prior's 10 px of 320.
        assert_same(detector.detect(frame), want, 0.05 * max(1, frame.shape[1] / 640), 1e-4)


ONNX_FILES = [
    "version-RFB-320",
    "version-RFB-320_simplified",
    "version-RFB-320_without_postprocessing",
    "version-RFB-640",
    "version-slim-320",
    "version-slim-320_simplified",
]


@needs_shared
@pytest.mark.parametrize("name", ONNX_FILES)
def test_every_released_onnx_file_finds_the_same_face_on_every_backend(name, photographs):
    pytest.importorskip("onnxruntime")
    frame = photographs["1"]
    found = [
        FaceDetector(ULTRAFACE / f"{name}.onnx", backend=backend).detect(frame)
        for backend in ("native", "onnxruntime")
    ]
    assert len(found[0]) > 0
    assert_same(*found, 0.05 * max(1, frame.shape[1] / 640), 1e-4)


@needs_shared
@pytest.mark.parametrize("size", [(128, 96), (160, 120), (480, 360), (640, 480)])
@pytest.mark.parametrize("model", RELEASED.values(), ids=RELEASED)
def test_released_models_work_at_other_sizes(model, size, photographs):
    pytest.importorskip("onnxruntime")
    frame = photographs["1"]
    found = [
        FaceDetector(model, input_size=size, backend=backend).detect(frame)
        for backend in ("native", "onnxruntime")
    ]
    assert len(found[0]) > 0
    assert_same(*found, 0.05 * max(1, frame.shape[1] / 640), 1e-4)


@needs_shared
@pytest.mark.slow
def test_released_models_work_at_1280x960(photographs):
    frame = photographs["17"]
    small = FaceDetector(RELEASED["rfb320.tmfile"]).detect(frame)
    large = FaceDetector(RELEASED["rfb320.tmfile"], input_size=(1280, 960)).detect(frame)
    assert len(large) > len(small)


@needs_shared
@pytest.mark.parametrize("name", ["rfb320-int8.tmfile", "rfb320-uint8.tmfile"])
def test_quantised_tmfiles_find_what_their_float_twin_finds(name, photographs):
    wants = [FaceDetector(RELEASED["rfb320.tmfile"]).detect(f) for f in photographs.values()]
    detector = FaceDetector(TMFILES / name)
    missed = 0
    for frame, want in zip(photographs.values(), wants):
        got = detector.detect(frame)
        missed += sum(max(map(partial(_overlap, face), got), default=0) < 0.5 for face in want)
    # Tengine itself, on other photographs: 10 (int8) and 29 (uint8) of 581 missed. Twice that.
    assert missed <= 0.1 * sum(map(len, wants))


def _overlap(a, b):
    shared = max(0, min(a.x2, b.x2) - max(a.x1, b.x1)) * max(0, min(a.y2, b.y2) - max(a.y1, b.y1))
    return shared / (a.width * a.height + b.width * b.height - shared)
