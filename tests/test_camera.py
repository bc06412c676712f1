"""Cameras' frames from detect to boxes; test_preprocess.py compares what the network is given."""

from __future__ import annotations

import contextlib
import re
import runpy
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import edgeface
import reference
from edgeface import FaceDetector, media
from edgeface import spec as specs
from edgeface.bench import iou
from edgeface.formats import onnx
from edgeface.frames import checked_frame, in_pairs
from reference import ROUNDING, SHARED, needs_shared, photograph, picture

CHANNELS = ("yuyv", "uyvy", "nv12", "nv21", "i420", "yv12")


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
    if channels in ("i420", "yv12"):
        halves = [u, v] if channels == "i420" else [v, u]
        low = np.concatenate([half.reshape(-1) for half in halves]).reshape(height // 2, width)
        return np.rint(np.concatenate([y, low])).astype(np.uint8)
    pair = np.stack([u, v] if channels == "nv12" else [v, u], axis=-1)
    return np.rint(np.concatenate([y, pair.reshape(height // 2, width)])).astype(np.uint8)


@pytest.fixture(scope="module")
def frames():
    bgr = picture(140, 210, seed=4)
    return {channels: camera_frame(bgr, channels) for channels in CHANNELS}


def halves(frame):
    height = len(frame) // 3 * 2
    return frame[:height], frame[height:]


def planes(frame):
    """Of i420 and yv12."""
    luma, low = halves(frame)
    return luma, *low.reshape(2, len(luma) // 2, -1)


def test_the_order_of_u_and_v_or_of_y_is_that_of_the_name(path, frames):
    for one, other in (("yuyv", "uyvy"), ("nv12", "nv21"), ("i420", "yv12")):
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


@pytest.mark.parametrize("channels", ["i420", "yv12"])
def test_i420_may_be_one_array_or_its_planes(path, frames, channels):
    detector, frame = FaceDetector(path, channels=channels), frames[channels]
    want = detector.detect(frame)
    assert_array_equal(detector.detect(planes(frame)).rows, want.rows)
    wide = [np.pad(plane, ((0, 0), (3, 9)))[:, 3:-9] for plane in planes(frame)]
    assert_array_equal(detector.detect(wide).rows, want.rows)


def test_i420_has_the_very_faces_of_nv12(path, frames):
    luma, u, v = planes(frames["i420"])
    pairs = np.stack([u, v], axis=-1).reshape(len(u), -1)
    want = FaceDetector(path, channels="nv12").detect((luma, pairs))
    got = FaceDetector(path, channels="i420").detect(frames["i420"])
    assert len(want) > 1
    assert_array_equal(got.rows, want.rows)


def test_i420_in_pairs_is_nv12(frames):
    for channels in ("i420", "yv12"):
        pairs = in_pairs(checked_frame(frames[channels], channels, None))
        luma, chroma = halves(frames["nv12"])
        assert pairs.channels == "nv12"
        assert_array_equal(pairs.pixels, luma)
        assert_array_equal(pairs.chroma, chroma)
    other = checked_frame(frames["yuyv"], "yuyv", None)
    assert in_pairs(other) is other


@pytest.mark.parametrize("channels", ["i420", "yv12"])
def test_the_backend_torch_finds_the_faces_of_nv12_in_other_planes(path, frames, channels):
    pytest.importorskip("torch", reason="the backend torch needs PyTorch")
    want = FaceDetector(path, channels="nv12", backend="torch").detect(frames["nv12"])
    got = FaceDetector(path, channels=channels, backend="torch").detect(frames[channels])
    assert len(want) > 1
    assert_array_equal(got.rows, want.rows)


@pytest.mark.parametrize("channels", ["i420", "yv12"])
def test_one_array_of_three_planes_is_not_copied(frames, channels):
    frame = frames[channels]
    checked = checked_frame(frame, channels, None)
    assert np.shares_memory(checked.pixels, frame)
    assert np.shares_memory(checked.chroma, frame)


def test_three_planes_in_rows_with_gaps_are_refused(path, frames):
    wide = np.pad(frames["i420"], ((0, 0), (0, 6)))
    with pytest.raises(ValueError, match="without gaps between its rows, for i420"):
        FaceDetector(path, channels="i420").detect(wide[:, :-6])


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
    elif channels in ("i420", "yv12"):
        luma, *low = planes(frame)
        frame = view(luma[:, :208]), *(view(half[:, :104]) for half in low)
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
    if channels in ("i420", "yv12"):
        luma, *low = planes(frame)
        part = np.s_[y // 2 : (y + height) // 2, x // 2 : (x + width) // 2]
        return luma[y : y + height, x : x + width], *(half[part] for half in low)
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
        ("i420", (7, 6), r"\(4, 6\) and \(3, 6\); expected"),
        ("i420", (6, 5), "even H and W"),
        ("yv12", (4, 6, 3), r"expected \(H, W\) and twice"),
        ("i420", (0, 0), "the frame is 0x0"),
        ("yv12", (24,), "for yv12"),
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


def test_three_planes_that_do_not_fit_are_refused(path):
    detector = FaceDetector(path, channels="i420")
    luma, half = np.zeros((4, 6), np.uint8), np.zeros((2, 3), np.uint8)
    for low in ((half, luma), (luma, half), (half[:1], half[:1]), (half[0], half[0])):
        with pytest.raises(ValueError, match=r"the frame's planes have shapes \(4, 6\)"):
            detector.detect((luma, *low))
    with pytest.raises(ValueError, match="even H and W"):
        detector.detect((luma[:, :5], half[:, :2], half[:, :2]))
    for frame in ((luma, half), (luma, half, None)):
        with pytest.raises(TypeError, match="expected a NumPy array"):
            detector.detect(frame)


@needs_shared
@pytest.mark.parametrize("channels", ["yuyv", "nv12", "i420"])
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


# --- Motion JPEG ------------------------------------------------------------------------------------------

HUFFMAN_TABLES = b"\xff\xc4"


@pytest.fixture(scope="module")
def cv2():
    return pytest.importorskip("cv2", reason="opencv-python-headless is not installed")


def jpeg(cv2, frame, *options):
    written, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 90, *options])
    assert written
    return data.tobytes()


def large_picture(width, height):
    """Smooth, so that pictures decoded smaller show the same."""
    small = picture(height // 8, width // 8, seed=4)
    return np.repeat(np.repeat(small, 8, axis=0), 8, axis=1)


def with_size(data, width, height):
    """The same JPEG, which says that it is of another size."""
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def without_tables(data):
    """As cameras send them: whoever decodes has to know the usual Huffman tables."""
    while HUFFMAN_TABLES in data:
        at = data.index(HUFFMAN_TABLES)
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]
    return data


def turned(data):
    """With EXIF data that says: turn it by a quarter."""
    tiff = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x112, 3, 1, 6) + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


# The network's input is 96 x 64.
@pytest.mark.parametrize(
    ("size", "resize", "reduction"),
    [
        ((96, 64), "stretch", 1),
        ((191, 200), "stretch", 1),
        ((192, 128), "stretch", 2),
        ((400, 255), "stretch", 2),
        ((385, 257), "stretch", 4),
        ((1279, 719), "stretch", 8),
        ((400, 80), "stretch", 1),
        ((400, 80), "letterbox", 4),
        ((60, 40), "stretch", 1),
    ],
)
def test_a_jpeg_is_decoded_no_larger_than_the_network_needs(
    path, cv2, monkeypatch, size, resize, reduction
):
    used = []

    def decode(data, reduction, decode=media.decode_jpeg):
        used.append(reduction)
        return decode(data, reduction)

    monkeypatch.setattr(media, "decode_jpeg", decode)
    data = jpeg(cv2, picture(size[1], size[0]))
    FaceDetector(path, channels="mjpeg", resize=resize).detect(data)
    assert used == [reduction]


def test_the_faces_of_a_jpeg_are_those_of_the_smaller_picture_in_frame_pixels(path, cv2):
    data = jpeg(cv2, large_picture(800, 520))
    detector = FaceDetector(path, channels="mjpeg")
    smaller, _ = media.decode_jpeg(data, 8)
    assert smaller.shape == (65, 100, 3)
    want = FaceDetector(path).detect(smaller).rows.copy()
    assert len(want) > 1
    want[:, :4] *= 8
    want[:, 5:] *= 8
    got = detector.detect(data)
    assert np.abs(got.rows - want).max() <= 2 * ROUNDING * np.abs(want).max()
    assert detector.timings.preprocess > 0
    large = FaceDetector(path, channels="mjpeg", min_face=140).detect(data)
    assert 0 < len(large) < len(got)
    assert len(large) == len(FaceDetector(path, min_face=140 / 8).detect(smaller))


def test_a_region_of_a_jpeg_is_looked_at_in_full(path, cv2):
    data = jpeg(cv2, large_picture(800, 520))
    roi = (211, 97, 301, 205)
    whole = media.decode_jpeg(data, 1)[0]
    want = FaceDetector(path).detect(whole, roi=roi)
    assert len(want) > 0
    assert_array_equal(FaceDetector(path, channels="mjpeg").detect(data, roi=roi).rows, want.rows)


def test_a_jpeg_may_be_bytes_or_an_array(path, cv2):
    data = jpeg(cv2, picture())
    detector = FaceDetector(path, channels="mjpeg")
    want = detector.detect(data)
    assert len(want) > 0
    array = np.frombuffer(data, np.uint8)
    for frame in (bytearray(data), memoryview(data), array, array[None], data + bytes(99)):
        assert_array_equal(detector.detect(frame).rows, want.rows)
    for frame in (None, "a.jpg", array.astype(float)):
        with pytest.raises(TypeError, match=r"expected a NumPy array|expected uint8"):
            detector.detect(frame)


def test_what_cameras_leave_out_is_known_and_how_pictures_were_held_is_not_asked(path, cv2):
    data = jpeg(cv2, picture())
    detector = FaceDetector(path, channels="mjpeg")
    want = detector.detect(data)
    for other in (without_tables(data), turned(data)):
        assert other != data
        assert_array_equal(detector.detect(other).rows, want.rows)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (640, 480), (1279, 721)])
def test_the_size_of_a_jpeg_is_in_its_header(cv2, size):
    frame = picture(size[1], size[0])
    for options in ((), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 4)):
        data = jpeg(cv2, frame, *options)
        assert media.jpeg_size(data) == size
        assert media.jpeg_size(turned(data)) == size
        assert media.jpeg_size(data[:2] + b"\xff\xff\xff" + data[2:]) == size
    assert media.jpeg_size(jpeg(cv2, frame[..., 0])) == size


def test_frames_that_are_no_jpeg_are_refused(path, cv2):
    data = jpeg(cv2, picture())
    start = data.index(b"\xff\xc0")
    detector = FaceDetector(path, channels="mjpeg")
    for frame in (b"", b"\xff", data[:2], data[: start + 8], b"\x89PNG" + data, bytes(500)):
        with pytest.raises(ValueError, match="the frame is no JPEG"):
            detector.detect(frame)
    with pytest.raises(ValueError, match="the frame is no JPEG"):
        detector.detect(with_size(data, 0, 10))
    with pytest.raises(ValueError, match="the frame is 65535x65535; expected"):
        detector.detect(with_size(data, 65535, 65535))
    with pytest.raises(ValueError, match="the frame is"):
        detector.detect(data[: start + 19])


def test_a_damaged_jpeg_gives_faces_inside_the_frame_or_an_error(path, cv2, capfd):
    data = jpeg(cv2, picture())
    detector = FaceDetector(path, channels="mjpeg")
    random = np.random.default_rng(0)
    answers = []
    for _ in range(60):
        damaged = bytearray(data[: random.integers(2, len(data))])
        for _ in range(3):
            damaged[random.integers(2, len(damaged))] = random.integers(256)
        try:
            boxes = detector.detect(damaged).boxes
        except ValueError as error:
            answers.append(str(error))
        else:
            assert np.isfinite(boxes).all()
    assert 0 < len(answers) < 60
    assert all(answer.startswith("the frame is") for answer in answers)
    capfd.readouterr()  # libjpeg complains itself


def test_pillow_decodes_where_there_is_no_opencv(path, cv2, monkeypatch):
    pytest.importorskip("PIL", reason="Pillow is not installed")
    data = jpeg(cv2, large_picture(800, 520))
    want = {reduction: media.decode_jpeg(data, reduction)[0] for reduction in (1, 2, 4, 8)}

    def missing():
        raise ImportError

    monkeypatch.setattr(media, "opencv", missing)
    for reduction, pixels in want.items():
        got, channels = media.decode_jpeg(data, reduction)
        assert channels == "rgb"
        assert got.shape == pixels.shape
        # Two builds of one library, which may round the conversion of colours otherwise.
        assert np.abs(got[..., ::-1].astype(int) - pixels).max() <= 2
    assert len(FaceDetector(path, channels="mjpeg").detect(data)) > 0
    with pytest.raises(ValueError, match="the frame is Pillow cannot read it"):
        FaceDetector(path, channels="mjpeg").detect(data[: data.index(b"\xff\xc0") + 12])


def test_without_a_library_for_jpeg_opening_says_what_helps(path, monkeypatch):
    monkeypatch.setattr(media.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="JPEG frames need OpenCV or Pillow: pip install"):
        FaceDetector(path, channels="mjpeg")
    FaceDetector(path, channels="nv12")


@needs_shared
@pytest.mark.usefixtures("cv2")
def test_the_faces_of_a_photograph_are_found_in_its_file():
    data = (SHARED / "images" / "17.jpg").read_bytes()
    model = SHARED / "weights" / "tmfile" / "rfb320.tmfile"
    want = FaceDetector(model, score_threshold=0.95).detect(media.decode_jpeg(data, 1)[0])
    assert len(want) > 10
    found = FaceDetector(model, channels="mjpeg", score_threshold=0.7).detect(data)
    # Decoded smaller, a picture is sharper than bilinearly resized: small faces' boxes move.
    for face in want:
        assert max(iou(face, other) for other in found) > 0.6


# --- What docs/boards.md says -----------------------------------------------------------------------------

DOCUMENT = Path(__file__).parents[1] / "docs" / "boards.md"


def documented(name):
    """A program of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    return re.search(rf"<!-- run: {name} -->\n```python\n(.*?)```", text, re.DOTALL)[1]


def run_documented(name, path, monkeypatch, tmp_path, capsys):
    """Its output, with a model of ours in place of rfb320.tmfile."""
    opened = FaceDetector

    def open_little(model, **options):
        assert model == "rfb320.tmfile"
        return opened(path, **options)

    monkeypatch.setattr(edgeface, "FaceDetector", open_little)
    program = tmp_path / "program.py"
    program.write_text(documented(name), encoding="utf-8")
    runpy.run_path(str(program))
    return capsys.readouterr().out


def boxes_text(faces):
    return "".join(f"{face.box} {face.score}\n" for face in faces)


def test_the_documented_camera_loop_finds_faces(path, frames, cv2, monkeypatch, tmp_path, capsys):
    class Camera:
        """As OpenCV's for V4L2, with CONVERT_RGB off."""

        def __init__(self, index, api):
            assert (index, api) == (0, cv2.CAP_V4L2)
            self.left, self.settings = 2, {}

        def set(self, name, value):
            self.settings[name] = value

        def grab(self):
            self.left -= 1
            return self.left >= 0

        def retrieve(self):
            assert self.settings[cv2.CAP_PROP_CONVERT_RGB] == 0
            assert self.settings[cv2.CAP_PROP_FOURCC] == int.from_bytes(b"YUYV", "little")
            return True, frames["yuyv"]

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    out = run_documented("camera", path, monkeypatch, tmp_path, capsys)
    assert out == 2 * boxes_text(FaceDetector(path, channels="yuyv").detect(frames["yuyv"]))


def test_the_documented_loop_without_opencv_finds_faces(
    path, frames, monkeypatch, tmp_path, capsys
):
    frame = frames["nv12"]
    rows = np.full((len(frame), 256), 7, np.uint8)
    rows[:, : frame.shape[1]] = frame
    shape = types.SimpleNamespace(bytes_per_line=256)
    given = types.SimpleNamespace(
        data=rows.tobytes() + bytes(99),
        format=shape,
        width=frame.shape[1],
        height=len(frame) // 3 * 2,
    )

    class Device:
        @staticmethod
        def from_id(number):
            assert number == 0
            return contextlib.nullcontext("device")

    def open_capture(device):
        assert device == "device"
        return contextlib.nullcontext([given])

    module = types.SimpleNamespace(Device=Device, VideoCapture=open_capture)
    for name in ("linuxpy", "linuxpy.video", "linuxpy.video.device"):
        monkeypatch.setitem(sys.modules, name, module)
    out = run_documented("linuxpy", path, monkeypatch, tmp_path, capsys)
    assert out == boxes_text(FaceDetector(path, channels="nv12").detect(frame))
