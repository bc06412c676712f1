from __future__ import annotations

import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import reference
from edgeface import FaceDetector, ModelError, detector, fitting, zoo
from edgeface import spec as specs
from edgeface.formats import onnx
from test_trim import flat_graph

# --- The input size that follows a frame --------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "size"),
    [
        ((1280, 720), (1280, 736)),
        ((640, 480), (640, 480)),
        ((639, 479), (640, 480)),
        ((1, 1), (32, 32)),
        ((33, 32), (64, 32)),
        ((1920, 1080), (1280, 736)),
        ((1080, 1920), (736, 1280)),
        ((16384, 10), (1280, 32)),
    ],
)
def test_the_input_is_as_large_as_the_frame_in_whole_cells(frame, size):
    assert fitting.followed(frame, 1280, 32) == size


def test_a_frame_keeps_its_pixels_unless_it_is_too_long():
    for width, height in itertools.product((1, 31, 32, 100, 640, 1000), repeat=2):
        w, h = fitting.followed((width, height), 640, 64)
        assert (w % 64, h % 64) == (0, 0)
        shown = min(1, 640 / max(width, height))
        assert 0 <= w - width * shown < 64
        assert 0 <= h - height * shown < 64


# --- Keeping what was made ----------------------------------------------------------------------------


def fit(number):
    return fitting.Fit(number, number, (8,))


def test_the_last_few_are_kept_and_others_made_again():
    made = []
    kept = fitting.Kept(lambda fit: made.append(fit.width) or fit.width)
    for number in (1, 2, 1, 3, 4, 1, 5, 2):  # 2 was not asked for the longest when 5 came
        assert kept.get(fit(number)) == number
    assert made == [1, 2, 3, 4, 5, 2]


def test_what_cannot_be_made_is_tried_again():
    attempts = iter([ModelError("no"), 7])

    def make(_):
        attempt = next(attempts)
        if isinstance(attempt, Exception):
            raise attempt
        return attempt

    kept = fitting.Kept(make)
    with pytest.raises(ModelError):
        kept.get(fit(1))
    assert kept.get(fit(1)) == 7


# --- A detector whose network follows the frame -------------------------------------------------------


def write_model(folder, graph, spec):
    path = folder / "net.onnx"
    path.write_bytes(onnx.write(graph))
    path.with_suffix(".json").write_text(specs.to_json(spec))
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Levels of strides 8 (priors of 12 and 20) and 16 (of 32)."""
    graph = reference.detector_graph(landmarks=True)
    return write_model(tmp_path_factory.mktemp("model"), graph, reference.detector_spec(graph))


@pytest.fixture
def opened(monkeypatch):
    """The input size and the strides of every network that is opened meanwhile."""
    graphs = []
    open_backend = detector.open_backend

    def spy(graph, *rest):
        graphs.append(graph.input_size)
        return open_backend(graph, *rest)

    monkeypatch.setattr(detector, "open_backend", spy)
    return graphs


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


SIZES = [(96, 64), (100, 60), (64, 100), (33, 17)]


def test_faces_are_those_of_a_network_of_that_size(path):
    follows = FaceDetector(path, input_size="frame", score_threshold=0.5)
    for size in SIZES + SIZES:
        frame = picture(*size)
        fixed = FaceDetector(
            path,
            input_size=fitting.followed(size, 1280, 16),
            resize="letterbox",
            score_threshold=0.5,
        )
        assert len(fixed.detect(frame)) > 0
        assert_array_equal(follows.detect(frame).rows, fixed.detect(frame).rows)
        assert follows.spec == fixed.spec


def test_a_size_that_comes_again_costs_nothing(path, opened):
    follows = FaceDetector(path, input_size="frame")
    assert opened == [(96, 64)]
    for size in SIZES * 3:
        follows.detect(picture(*size))
    assert opened == [(96, 64), (112, 64), (64, 112), (48, 32)]
    follows.detect(picture(90, 61))  # in whole cells as large as one before
    assert len(opened) == 4


def test_no_frame_is_looked_at_larger_than_asked(path, opened):
    follows = FaceDetector(path, input_size="frame", max_side=64)
    follows.detect(picture(640, 320))
    assert opened[-1] == (64, 32)
    follows.detect(picture(60, 300))
    assert opened[-1] == (16, 64)
    assert opened[0] == (64, 48)  # of the file's own size, before any frame


def test_a_region_is_followed_like_a_frame(path, opened):
    follows = FaceDetector(path, input_size="frame", score_threshold=0.5)
    frame = picture(200, 150)
    faces = follows.detect(frame, roi=(40, 30, 64, 48))
    assert opened[-1] == (64, 48)
    alone = follows.detect(np.ascontiguousarray(frame[30:78, 40:104]))
    assert len(faces) == len(alone) > 0
    assert_array_equal(faces.scores, alone.scores)


def test_a_jpeg_that_is_decoded_smaller_is_followed_at_its_own_size(path, opened):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    frame = np.full((320, 640, 3), 90, np.uint8)
    cv2.circle(frame, (400, 150), 90, (150, 190, 230), -1)
    jpeg = cv2.imencode(".jpg", frame)[1]
    options = {"input_size": "frame", "max_side": 96, "score_threshold": 0.3, "levels": (16,)}
    small = FaceDetector(path, channels="mjpeg", **options).detect(jpeg)
    assert opened == [(96, 64), (96, 48)]
    whole = FaceDetector(path, **options).detect(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    assert len(small) == len(whole) > 0
    # A quarter of the JPEG's sides is no more than an input of 96 needs; the two are resized differently.
    assert_allclose(small.boxes, whole.boxes, rtol=0, atol=0.02 * 640)


def test_min_face_is_in_pixels_of_the_whole_jpeg(path):
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    jpeg = cv2.imencode(".jpg", picture(768, 512))[1]  # eight times the input
    for min_face, strides in [(319, (8, 16)), (320, (16,))]:
        one = FaceDetector(path, channels="mjpeg", min_face=min_face)
        one.detect(jpeg)
        assert one.spec.priors.strides == strides


def test_resize_says_what_becomes_of_the_rest(path):
    assert FaceDetector(path, input_size="frame").spec.input.resize == "letterbox"
    assert FaceDetector(path, input_size="frame", resize="stretch").spec.input.resize == "stretch"


def test_threads_may_bring_frames_of_different_sizes(path):
    frames = [picture(*size, seed) for seed, size in enumerate([*SIZES, (50, 50)] * 4)]
    follows = FaceDetector(path, input_size="frame", score_threshold=0.5, num_threads=1)
    wanted = [follows.detect(frame).rows for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda frame: follows.detect(frame).rows, frames))
    for one, other in zip(found, wanted):
        assert_array_equal(one, other)


def test_a_copy_follows_too(path):
    copy = pickle.loads(pickle.dumps(FaceDetector(path, input_size="frame", levels=(16,))))
    copy.detect(picture(50, 20))
    assert (copy.spec.input.width, copy.spec.input.height) == (64, 32)
    assert copy.spec.priors.strides == (16,)


def test_a_closed_one_finds_nothing_more(path):
    follows = FaceDetector(path, input_size="frame")
    follows.close()
    with pytest.raises(ValueError, match="the detector is closed"):
        follows.detect(picture(20, 20))


# --- Levels that do not run ---------------------------------------------------------------------------


def test_levels_give_what_they_give_in_the_whole_network(path):
    frame = picture(96, 64)
    options = {"score_threshold": 0.0, "iou_threshold": 1.0}
    whole = {row.tobytes() for row in FaceDetector(path, **options).detect(frame).rows}
    rows = {}
    for level in (8, 16):
        part = FaceDetector(path, levels=(level,), **options)
        assert part.spec.priors.strides == (level,)
        rows[level] = {row.tobytes() for row in part.detect(frame).rows}
        assert rows[level]
        assert rows[level] < whole
    assert rows[8] | rows[16] == whole


def test_a_level_runs_as_long_as_a_face_may_need_it(path, opened):
    """That of stride 8 is for faces up to 40 pixels of the input, 96x64."""
    for frame, min_face, strides in [
        ((96, 64), 39.9, (8, 16)),
        ((96, 64), 40.0, (16,)),
        ((192, 128), 79.9, (8, 16)),
        ((192, 128), 80.0, (16,)),
        # Stretched to half the width and a quarter of the height: by the quarter.
        ((192, 256), 159.0, (8, 16)),
        ((192, 256), 160.0, (16,)),
    ]:
        one = FaceDetector(path, min_face=min_face)
        one.detect(picture(*frame))
        assert one.spec.priors.strides == strides
    opened.clear()
    one = FaceDetector(path, min_face=80)
    for frame in [(192, 128), (96, 64), (960, 640)] * 2:
        one.detect(picture(*frame))
    assert len(opened) == 2


def test_min_face_filters_as_before_where_levels_are_given(path):
    frame = picture(96, 64)
    every = FaceDetector(path, score_threshold=0.3).detect(frame)
    assert len(every) > 0
    one = FaceDetector(path, score_threshold=0.3, min_face=1e6, levels=(8, 16))
    assert len(one.detect(frame)) == 0
    assert one.spec.priors.strides == (8, 16)


def test_without_min_face_every_level_runs(path):
    one = FaceDetector(path)
    one.detect(picture(4, 4))
    assert one.spec.priors.strides == (8, 16)


def test_a_network_that_joins_its_levels_in_another_way_runs_whole(tmp_path):
    pytest.importorskip("onnxruntime", reason="no other backend runs this network")
    graph = flat_graph()
    path = write_model(tmp_path, graph, reference.detector_spec(graph))
    assert FaceDetector(path, min_face=1000).spec.priors.strides == (8, 16)
    with pytest.raises(ModelError, match="levels cannot be left out"):
        FaceDetector(path, levels=(16,))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_size": "frames"}, TypeError, 'or "frame"'),
        ({"max_side": 0}, ValueError, "max_side is 0"),
        ({"max_side": 1 << 15}, ValueError, "max_side"),
        ({"levels": 16}, TypeError, "levels is 16; expected strides"),
        ({"levels": (16.0,)}, TypeError, "a stride in levels"),
        ({"levels": ()}, ValueError, r"levels are \(\); expected one or more of 8, 16"),
        ({"levels": (8, 32)}, ValueError, r"levels are \(8, 32\); expected"),
    ],
)
def test_bad_options_are_refused(path, options, error, message):
    with pytest.raises(error, match=message):
        FaceDetector(path, **options)


def test_the_rule_is_that_of_the_whole_network():
    rule = fitting.Rule(zoo.retinaface(reference.detector_graph()).priors, None, 1280, None, 64.0)
    assert rule.fit(1280, 720) == (1280, 736, (16, 32))
    assert rule.fit(2560, 1440) == (1280, 736, (8, 16, 32))
