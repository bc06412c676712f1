from __future__ import annotations

import dataclasses
import hashlib
import shutil

import numpy as np
import pytest
from numpy.testing import assert_allclose

from edgeface import FaceDetector, ModelError, model, zoo
from edgeface import spec as specs
from edgeface.formats import onnx
from reference import SHARED, detector_graph, detector_spec, needs_shared, picture
from test_networks import make_weights
from test_torch_weights import save_stream, save_zip, state_dict

WEIGHTS = SHARED / "weights"
PUBLISHED = next(p for p in zoo.MODELS if p.file == "version-slim-640.pth")


@pytest.fixture(scope="module")
def saved():
    return {name: save_zip(state_dict(make_weights(name))) for name in ("slim", "RFB-landmark")}


@pytest.fixture
def path(saved, tmp_path):
    """Weights of an Ultra-Light network that nobody published."""
    path = tmp_path / "mine.pth"
    path.write_bytes(saved["slim"])
    return path


def publish(monkeypatch, path, **changes):
    """From now on the file is a published one."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = dataclasses.replace(PUBLISHED, sha256=digest, **changes)
    monkeypatch.setattr(zoo, "known", {digest: entry}.get)
    return entry


# --- PyTorch weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".PTH"])
def test_weights_open_at_320x240_with_the_spec_of_their_family(saved, tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    path.write_bytes(saved["slim"])
    opened = model.load(path)
    assert opened.graph.input_size == (320, 240)
    assert opened.spec == zoo.ultraface(opened.graph)
    assert opened.spec_source == "the published ultraface models"


def test_weights_with_landmarks_open_with_theirs(saved, tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(saved["RFB-landmark"])
    opened = model.load(path)
    assert opened.spec == zoo.ultraface_landmark(opened.graph)
    assert opened.spec_source == "the published ultraface-landmark models"


def test_the_older_format_opens_too(tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(save_stream(state_dict(make_weights("RFB"))))
    assert model.load(path).spec.name == "ultraface"


@pytest.mark.parametrize("name", ["slim", "RFB-landmark"])
def test_a_detector_opens_weights_at_any_size(saved, tmp_path, name):
    path = tmp_path / "mine.pth"
    path.write_bytes(saved[name])
    with FaceDetector(path, input_size=(128, 96), score_threshold=0) as detector:
        faces = detector.detect(picture(96, 128))
    assert (detector.spec.input.width, detector.spec.input.height) == (128, 96)
    assert len(faces) > 0
    assert (faces.landmarks is not None) == (name == "RFB-landmark")


def test_damaged_weights_are_named(path):
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"mine\.pth: the zip file is damaged"):
        model.load(path)


def test_other_kinds_of_files_are_told_what_is_read(tmp_path):
    with pytest.raises(ModelError, match=r"expected \.tmfile or \.onnx or \.pth or \.pt"):
        model.load(tmp_path / "mine.tflite")


# --- Where a spec comes from -------------------------------------------------------------------------


def test_a_published_file_has_the_size_and_spec_of_its_release(path, monkeypatch):
    publish(monkeypatch, path)
    opened = model.load(path)
    assert opened.graph.input_size == (640, 480)
    assert opened.spec == zoo.published_spec(PUBLISHED, opened.graph)
    assert opened.spec_source == "the published file version-slim-640.pth"
    path.rename(path.with_name("renamed.pt"))
    assert model.load(path.with_name("renamed.pt")).spec.licence == "MIT"


def test_a_given_spec_goes_before_a_sidecar_before_the_table(path, monkeypatch):
    publish(monkeypatch, path, size=(320, 240))
    table = model.load(path).spec
    sidecar = dataclasses.replace(table, name="sidecar")
    path.with_suffix(".json").write_text(specs.to_json(sidecar))
    assert model.load(path).spec == sidecar
    assert model.load(path).spec_source == str(path.with_suffix(".json"))
    given = dataclasses.replace(table, name="given")
    assert model.load(path, given).spec == given
    assert model.load(path, given).spec_source == "the caller"


def test_metadata_goes_before_the_table(tmp_path, monkeypatch):
    graph = detector_graph()
    spec = detector_spec(graph, name="inside")
    path = tmp_path / "mine.onnx"
    path.write_bytes(onnx.write(graph, metadata={model.METADATA_KEY: specs.to_json(spec)}))
    publish(monkeypatch, path)
    assert model.load(path).spec == spec
    assert model.load(path).spec_source == "the file's metadata"


def test_the_table_goes_before_the_shapes(path, monkeypatch):
    publish(monkeypatch, path, name="told by its digest", size=(320, 240))
    assert model.load(path).spec.name == "told by its digest"
    monkeypatch.undo()
    assert model.load(path).spec.name == "ultraface"


# --- The released files on photographs ---------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs():
    cv2 = pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    paths = sorted((SHARED / "images").glob("*.jpg"))
    return {path.name: cv2.imread(str(path)) for path in paths}


@needs_shared
@pytest.mark.parametrize("name", ["version-slim-320", "version-RFB-320", "version-RFB-640"])
def test_weights_find_the_faces_that_their_onnx_finds(name, photographs, tmp_path):
    copy = tmp_path / "copied.pth"  # neither its name nor a sidecar tells
    shutil.copy(WEIGHTS / "ultraface" / f"{name}.pth", copy)
    with FaceDetector(copy) as mine, FaceDetector(WEIGHTS / "ultraface" / f"{name}.onnx") as other:
        assert mine.spec == other.spec
        for frame in photographs.values():
            found, wanted = mine.detect(frame), other.detect(frame)
            assert len(found) == len(wanted) > 0
            # Networks differ by 1e-5 in offsets; a prior is at most 256 pixels of an input, and a frame
            # five times as wide as that.
            assert_allclose(found.boxes, wanted.boxes, rtol=0, atol=0.05)


@needs_shared
@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("ultraface-landmark/slim_Final", {}),
        ("ultraface-landmark/RBF_Final", {}),
        ("ultraface-landmark/slim_Final", {"input_size": (640, 480)}),
        ("ultraface-landmark/RBF_Final", {"input_size": (640, 480)}),
        ("ultraface-landmark/mobilenet0.25_Final", {"input_size": "frame", "max_side": 480}),
        ("retinaface/mobilenet0.25_Final", {}),
        ("retinaface/mobilenet0.25_Final", {"input_size": "frame"}),
        ("retinaface/mobilenet0.25_Final", {"input_size": "frame", "levels": (16, 32)}),
    ],
)
def test_landmarks_lie_where_a_face_has_them(file, options, photographs):
    """2.jpg has four large faces that look at the camera, 3.jpg five, 10.jpg nineteen."""
    path = WEIGHTS / f"{file}.pth"
    with FaceDetector(path, **options) as detector:
        for photograph, count in {"2.jpg": 4, "3.jpg": 5, "10.jpg": 19}.items():
            faces = detector.detect(photographs[photograph])
            assert len(faces) == count
            for face in faces:
                left_eye, right_eye, nose, mouth_left, mouth_right = np.float64(face.landmarks)
                assert left_eye[0] < nose[0] < right_eye[0]
                assert mouth_left[0] < mouth_right[0]
                eyes, mouth = (left_eye + right_eye) / 2, (mouth_left + mouth_right) / 2
                assert face.y1 < eyes[1] < nose[1] < mouth[1] < face.y2
                # Eyes are about half a face apart, and about as far above the mouth.
                assert 0.3 < (right_eye[0] - left_eye[0]) / face.width < 0.7
                assert 0.25 < (mouth[1] - eyes[1]) / face.height < 0.6


@needs_shared
@pytest.mark.parametrize(
    "file",
    [
        "ultraface-landmark/slim_Final",
        "ultraface-landmark/RBF_Final",
        "ultraface-landmark/mobilenet0.25_Final",
        "retinaface/mobilenet0.25_Final",
    ],
)
def test_networks_with_landmarks_find_the_faces_that_ultra_light_finds(file, photographs):
    """They were trained apart, with other means, channels and priors: those must all be right."""
    weights = WEIGHTS / f"{file}.pth"
    ultra_light = WEIGHTS / "ultraface" / "version-RFB-640.pth"
    with FaceDetector(weights, input_size=(640, 480)) as mine, FaceDetector(ultra_light) as other:
        for photograph in ("2.jpg", "3.jpg", "10.jpg"):
            found = mine.detect(photographs[photograph]).boxes
            wanted = other.detect(photographs[photograph]).boxes
            assert overlaps(found, wanted).max(axis=0).min() > 0.5
            assert overlaps(found, wanted).max(axis=0).mean() > 0.75


def overlaps(a, b):
    """IoU of every box of a with every box of b."""
    a, b = np.float64(a)[:, None], np.float64(b)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (a, b)]
    return shared / (areas[0] + areas[1] - shared)
