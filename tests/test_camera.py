"""Cameras' frames from detect to boxes; test_preprocess.py compares what the network is given."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import reference
from edgeface import FaceDetector
from edgeface import spec as specs
from edgeface.bench import iou
from edgeface.formats import onnx
from reference import ROUNDING, SHARED, needs_shared, photograph, picture

CHANNELS = ("yuyv", "uyvy", "nv12", "nv21")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    graph = reference.detector_graph(landmarks=True)
    path = tmp_path_factory.mktemp("models") / "little.onnx"
    path.write_bytes(onnx.write(graph))
    path.with_suffix(".json").write_text(specs.to_json(reference.detector_spec(graph)))
    return path


def to_yuv(frame):
    """(H, W, 3) BGR -> Y, U and V in float64, BT.601 in limited range."""
    blue, green, red = np.moveaxis(frame / 255, -1, 0)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    u, v = (blue - y) / (2 * (1 - 0.114)), (red - y) / (2 * (1 - 0.299))
    return 16 + 219 * y, 128 + 224 * u, 128 + 224 * v


def camera_frame(frame, channels):
    """As a camera would send it: U and V the means of the pixels that share them."""
    height, width = (length // 2 * 2 for length in frame.shape[:2])
    y, u, v = to_yuv(frame[:height, :width])
    if channels in ("yuyv", "uyvy"):
        u, v = ((plane[:, ::2] + plane[:, 1::2]) / 2 for plane in (u, v))
        pair = (
            [y[:, ::2], u, y[:, 1::2], v] if channels == "yuyv" else [u, y[:, ::2], v, y[:, 1::2]]
        )
        return np.rint(np.stack(pair, axis=-1)).astype(np.uint8).reshape(height, width, 2)
    u, v = (plane.reshape(height // 2, 2, -1, 2).mean(axis=(1, 3)) for plane in (u, v))
    pair = np.stack([u, v] if channels == "nv12" else [v, u], axis=-1)
    return np.rint(np.concatenate([y, pair.reshape(height // 2, width)])).astype(np.uint8)


@pytest.fixture(scope="module")
def frames():
    bgr = picture(140, 210, seed=4)
    return {channels: camera_frame(bgr, channels) for channels in CHANNELS}


def halves(frame):
    height = len(frame) // 3 * 2
    return frame[:height], frame[height:]


def test_the_order_of_u_and_v_or_of_y_is_that_of_the_name(path, frames):
    for one, other in (("yuyv", "uyvy"), ("nv12", "nv21")):
        want = FaceDetector(path, channels=one).detect(frames[one])
        assert len(want) > 1
        got = FaceDetector(path, channels=other).detect(frames[other])
        assert_array_equal(got.rows, want.rows)
        wrong = FaceDetector(path, channels=other).detect(frames[one])
        assert not np.array_equal(wrong.rows, want.rows)


def test_nv12_may_be_one_array_or_its_planes(path, frames):
    detector, frame = FaceDetector(path, channels="nv12"), frames["nv12"]
    want = detector.detect(frame)
    luma, chroma = halves(frame)
    assert_array_equal(detector.detect((luma, chroma)).rows, want.rows)
    pairs = chroma.reshape(len(chroma), -1, 2)
    assert_array_equal(detector.detect([luma, pairs]).rows, want.rows)


def test_a_buffer_with_longer_rows_is_a_view_away(path, frames):
    detector, frame = FaceDetector(path, channels="nv12"), frames["nv12"]
    rows, width = frame.shape
    buffer = bytearray(rows * 256)  # bytesperline 256
    view = np.frombuffer(buffer, np.uint8).reshape(rows, 256)[:, :width]
    view[:] = frame
    assert_array_equal(detector.detect(view).rows, detector.detect(frame).rows)


@pytest.mark.parametrize("view", [lambda f: f[:, ::2], np.asfortranarray])
@pytest.mark.parametrize("channels", CHANNELS)
def test_pixels_that_are_not_packed_are_copied(path, frames, channels, view):
    frame = frames[channels]
    if channels in ("nv12", "nv21"):
        luma, chroma = halves(frame)
        frame = view(luma[:, :208]), view(chroma[:, :208])
        copy = tuple(map(np.ascontiguousarray, frame))
    else:
        frame = view(frame)[:, : frame.shape[1] // 4 * 2]
        copy = np.ascontiguousarray(frame)
    detector = FaceDetector(path, channels=channels)
    want = detector.detect(copy)
    assert len(want) > 0
    assert_array_equal(detector.detect(frame).rows, want.rows)


def cropped(frame, channels, roi):
    x, y, width, height = roi
    if channels in ("yuyv", "uyvy"):
        return frame[y : y + height, x : x + width]
    luma, chroma = halves(frame)
    low = chroma[y // 2 : (y + height) // 2, x : x + width]
    return luma[y : y + height, x : x + width], low


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_region_is_the_cropped_frame_moved(path, frames, channels):
    detector = FaceDetector(path, channels=channels)
    x, y, _, _ = roi = (38, 22, 120, 100)
    inside = detector.detect(cropped(frames[channels], channels, roi))
    assert len(inside) > 1
    moved = inside.rows.copy()
    moved[:, [0, 2, *range(5, 15, 2)]] += x
    moved[:, [1, 3, *range(6, 15, 2)]] += y
    got = detector.detect(frames[channels], roi=roi)
    # Scaled and moved in one or in two steps, which rounds once more.
    assert np.abs(got.rows - moved).max() <= 2 * ROUNDING * np.abs(moved).max()


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_region_may_begin_and_end_anywhere(path, frames, channels):
    detector = FaceDetector(path, channels=channels)
    for roi in ((37, 21, 121, 101), (209, 139, 1, 1), (1, 1, 2, 3), (0, 0, 210, 140)):
        for face in detector.detect(frames[channels], roi=roi):
            x, y, width, height = roi
            assert x <= face.x1 < face.x2 <= x + width
            assert y <= face.y1 < face.y2 <= y + height


@pytest.mark.parametrize(
    ("channels", "shape", "message"),
    [
        ("yuyv", (4, 6), r"shape \(4, 6\); expected \(H, W, 2\) for yuyv"),
        ("yuyv", (4, 6, 3), r"expected \(H, W, 2\) for yuyv"),
        ("uyvy", (4, 5, 2), "5 wide; uyvy has an even width"),
        ("nv12", (7, 6), r"\(4, 6\) and \(3, 6\); expected"),
        ("nv12", (6, 5), "even H and W"),
        ("nv12", (4, 6, 3), r"expected \(H, W\) and"),
        ("nv12", (1, 6), r"\(0, 6\) and \(1, 6\)"),
        ("nv21", (0, 0), "the frame is 0x0"),
        ("nv12", (24,), "for nv12"),
    ],
)
def test_a_frame_of_another_shape_is_refused(path, channels, shape, message):
    with pytest.raises(ValueError, match=message):
        FaceDetector(path, channels=channels).detect(np.zeros(shape, np.uint8))


def test_planes_that_do_not_fit_are_refused(path):
    detector = FaceDetector(path, channels="nv12")
    luma = np.zeros((4, 6), np.uint8)
    for chroma in (luma, np.zeros((2, 4), np.uint8), np.zeros((2, 6, 2), np.uint8)):
        with pytest.raises(ValueError, match=r"the frame's planes have shapes \(4, 6\)"):
            detector.detect((luma, chroma))
    for frame in ((luma,), (luma, luma, luma), b"abc", None):
        with pytest.raises(TypeError, match="expected a NumPy array"):
            detector.detect(frame)
    with pytest.raises(TypeError, match="float64; expected uint8"):
        detector.detect((luma, luma * 1.0))


@needs_shared
@pytest.mark.parametrize("channels", ["yuyv", "nv12"])
def test_the_faces_of_a_photograph_are_found_in_a_cameras_frame_of_it(channels):
    frame = photograph("17.jpg")
    model = SHARED / "weights" / "tmfile" / "rfb320.tmfile"
    want = FaceDetector(model, score_threshold=0.9).detect(frame)
    assert len(want) > 20
    # The camera keeps fewer colours: a face's score moves a little, and its box.
    found = FaceDetector(model, channels=channels, score_threshold=0.8).detect(
        camera_frame(frame, channels)
    )
    for face in want:
        assert max(iou(face, other) for other in found) > 0.8
