from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import reference
from edgeface import _core
from edgeface.errors import BackendError
from edgeface.graph import Tensor

FRAME_CHANNELS = {"bgr": 3, "rgb": 3, "bgra": 4, "rgba": 4, "gray": 1}
ORDERS = ("rgb", "bgr", "gray")
MEAN, SCALE = (104.0, 117.0, 123.5), (1 / 128, 0.0173, 1.0)
# width, height of the frame -> of the network
SIZES = [
    ((1, 1), (1, 1)),
    ((1, 1), (7, 5)),
    ((1, 9), (4, 3)),
    ((9, 1), (3, 4)),
    ((1, 17), (1, 8)),
    ((40, 30), (40, 30)),
    ((40, 30), (20, 15)),
    ((20, 15), (40, 30)),
    ((41, 29), (17, 13)),
    ((17, 13), (41, 29)),
    ((640, 3), (7, 64)),
    ((33, 64), (32, 65)),
    ((1000, 2), (1, 1)),
    ((6999, 1), (7000, 1)),  # weights that round to 1
    ((1, 6999), (1, 7000)),
]


def noise(size, channels, seed=0):
    width, height = size
    shape = (height, width) if channels == "gray" else (height, width, FRAME_CHANNELS[channels])
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def run(frame, channels, size, order="rgb", resize="stretch", mean=MEAN, scale=SCALE, isa=""):
    width, height = size
    spec = reference.core_spec(
        width=width, height=height, channels=order, mean=mean, scale=scale, resize=resize
    )
    return _core.preprocess(frame, spec, channels, isa)


def pixels(frame, size, channels="bgr", resize="stretch"):
    """(H, W, C) in the frame's own channel order, before mean and scale."""
    order = "gray" if channels == "gray" else channels[:3]
    out = run(frame, channels, size, order, resize, mean=(0, 0, 0), scale=(1, 1, 1))
    return out[0].transpose(1, 2, 0)


def expected(frame, channels, size, order="rgb"):
    return reference.preprocess(
        frame, channels, width=size[0], height=size[1], order=order, mean=MEAN, scale=SCALE
    )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", FRAME_CHANNELS)
@pytest.mark.parametrize("isa", reference.ISAS)
def test_every_frame_becomes_every_network_order_exactly(isa, channels, order):
    frame = noise((41, 29), channels)
    assert_array_equal(
        run(frame, channels, (24, 32), order, isa=isa), expected(frame, channels, (24, 32), order)
    )


@pytest.mark.parametrize(("size", "network"), SIZES)
@pytest.mark.parametrize("channels", ["bgr", "bgra", "gray"])
@pytest.mark.parametrize("isa", reference.ISAS)
def test_every_size_is_resized_exactly(isa, channels, size, network):
    frame = noise(size, channels)
    assert_array_equal(run(frame, channels, network, isa=isa), expected(frame, channels, network))


@pytest.mark.parametrize("isa", reference.ISAS)
def test_vectors_end_with_the_line(isa):
    frame = noise((50, 3), "bgr")
    for width in range(1, 70):
        assert_array_equal(
            run(frame, "bgr", (width, 2), isa=isa), expected(frame, "bgr", (width, 2))
        )


def test_a_forced_isa_never_falls_back():
    with pytest.raises(BackendError, match="no kernels for 'neon9'"):
        run(noise((4, 4), "bgr"), "bgr", (8, 8), isa="neon9")


@given(
    size=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    network=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    channels=st.sampled_from(sorted(FRAME_CHANNELS)),
    order=st.sampled_from(ORDERS),
    isa=st.sampled_from(_core.isas()),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_random_sizes_are_resized_exactly(size, network, channels, order, isa, seed):
    frame = noise(size, channels, seed)
    assert_array_equal(
        run(frame, channels, network, order, isa=isa), expected(frame, channels, network, order)
    )


@pytest.mark.parametrize(("size", "network"), SIZES)
def test_the_resize_is_bilinear(size, network):
    frame = noise(size, "bgr", seed=3)
    # A weight is off by up to half of 1/2048, which moves a value between two pixels by 255 times that, in
    # each of two passes; the first is rounded to 1/128, the second to 1.
    bound = 2 * 255 / 4096 + 1 / 256 + 1 / 2
    difference = pixels(frame, network) - reference.resize_float(frame, *network)
    assert np.abs(difference).max() <= bound


@pytest.mark.parametrize(("size", "network"), SIZES)
def test_the_resize_agrees_with_opencv(size, network):
    cv2 = pytest.importorskip("cv2")
    frame = noise(size, "bgr", seed=4)
    theirs = cv2.resize(frame, network, interpolation=cv2.INTER_LINEAR)
    # Theirs has weights of 11 bits and rounds as well: two results less than 0.63 from the same real number
    # are at most 1 apart.
    assert np.abs(pixels(frame, network) - theirs).max() <= 1


def test_the_same_size_changes_no_pixel():
    frame = noise((33, 17), "bgr")
    assert_array_equal(pixels(frame, (33, 17)), frame)


def test_a_frame_of_one_colour_keeps_it():
    frame = np.full((31, 47, 3), (1, 128, 255), np.uint8)
    assert_array_equal(pixels(frame, (20, 50)), np.broadcast_to((1, 128, 255), (50, 20, 3)))


def test_white_and_black_survive_the_conversion_to_gray():
    for value in (0, 255):
        frame = np.full((4, 4, 3), value, np.uint8)
        gray = run(frame, "bgr", (4, 4), "gray", mean=(0, 0, 0), scale=(1, 1, 1))
        assert_array_equal(gray, np.full((1, 1, 4, 4), value))


def test_alpha_is_ignored():
    frame = noise((20, 10), "bgra")
    other = frame.copy()
    other[..., 3] ^= 255
    assert_array_equal(run(frame, "bgra", (8, 8)), run(other, "bgra", (8, 8)))
    assert_array_equal(
        run(frame, "bgra", (8, 8)), run(np.ascontiguousarray(frame[..., :3]), "bgr", (8, 8))
    )


VIEWS = {
    "padded rows": lambda big: big[:, :20],
    "bottom up": lambda big: big[::-1],
    "every other row": lambda big: big[::2],
    "a region": lambda big: big[5:17, 3:21],
    "a region bottom up": lambda big: big[17:5:-1, 3:21],
    "the last pixel": lambda big: big[-1:, -1:],
    "one row for all": lambda big: np.broadcast_to(big[:1], big.shape),
}


@pytest.mark.parametrize("channels", ["bgr", "bgra", "gray"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_rows_any_distance_apart_need_no_copy(view, channels):
    frame = view(noise((30, 24), channels))
    # The core takes no copies by itself: it refuses pixels that are not packed.
    assert_array_equal(run(frame, channels, (16, 12)), expected(frame, channels, (16, 12)))


@pytest.mark.parametrize(
    ("frame", "channels"),
    [
        (noise((20, 10), "bgr")[:, ::2], "bgr"),
        (noise((20, 10), "bgr")[:, ::-1], "bgr"),
        (noise((20, 10), "bgr")[..., ::-1], "bgr"),
        (np.asfortranarray(noise((20, 10), "gray")), "gray"),
    ],
)
def test_pixels_that_are_not_packed_are_refused(frame, channels):
    with pytest.raises(ValueError, match="not packed"):
        run(frame, channels, (8, 8))


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((4, 4, 3), "bgra"),
        ((4, 4, 4), "bgr"),
        ((4, 4, 3), "gray"),
        ((4, 4), "bgr"),
        ((0, 4, 3), "bgr"),
        ((4, 0, 3), "bgr"),
        ((4,), "gray"),
        ((1, 4, 4, 3), "bgr"),
    ],
)
def test_a_frame_of_another_shape_is_refused(shape, channels):
    with pytest.raises(ValueError, match=f"channels '{channels}'"):
        run(np.zeros(shape, np.uint8), channels, (8, 8))


def test_unknown_channels_are_named():
    with pytest.raises(ValueError, match="channels is 'yuv'; expected one of bgr"):
        run(noise((4, 4), "bgr"), "yuv", (8, 8))


@pytest.mark.parametrize(
    ("size", "network", "covered"),
    [
        ((200, 100), (32, 32), (32, 16)),  # wide: the free part lies below
        ((100, 200), (32, 32), (16, 32)),  # tall: it lies on the right
        ((64, 48), (32, 24), (32, 24)),  # the same shape: none
        ((3000, 2), (32, 24), (32, 1)),  # never less than a row
        ((2, 3000), (32, 24), (1, 24)),
        ((10, 10), (40, 30), (30, 30)),
        ((101, 57), (32, 24), (32, 18)),  # 18.06
    ],
)
@pytest.mark.parametrize("channels", ["bgr", "gray"])
@pytest.mark.parametrize("isa", reference.ISAS)
def test_letterbox_keeps_the_shape_and_starts_top_left(isa, size, network, covered, channels):
    frame = noise(size, channels)
    got = run(frame, channels, network, resize="letterbox", isa=isa)
    width, height = covered
    assert_array_equal(got[..., :height, :width], expected(frame, channels, covered))
    # 0 is the mean colour.
    assert not got[..., height:, :].any()
    assert not got[..., width:].any()


def test_stretch_covers_the_whole_input():
    frame = noise((200, 100), "bgr")
    assert_array_equal(run(frame, "bgr", (32, 32)), expected(frame, "bgr", (32, 32)))


def test_the_frame_is_not_written_to():
    frame = noise((20, 10), "bgr")
    before = frame.copy()
    frame.flags.writeable = False
    run(frame, "bgr", (8, 8))
    assert_array_equal(frame, before)


# --- Cameras' frames --------------------------------------------------------------------------------------

CAMERA_CHANNELS = ("yuyv", "uyvy", "nv12", "nv21", "i420")
CAMERA_SIZES = [
    ((2, 2), (1, 1)),
    ((2, 2), (7, 5)),
    ((4, 2), (3, 3)),
    ((6, 4), (5, 9)),
    ((8, 6), (4, 3)),
    ((10, 2), (31, 2)),
    ((40, 30), (40, 30)),
    ((40, 30), (20, 15)),
    ((20, 14), (40, 30)),
    ((42, 28), (17, 13)),
    ((640, 4), (7, 64)),
    ((1000, 2), (1, 1)),
    ((6998, 2), (7000, 1)),
    ((2, 6998), (1, 7000)),
]


# By how much integers are off: coefficients by 1/16384, of Y to 239, U and V to 128; three products by 1/64
# each; and the result by 1/2.
CONVERSION = (239 + 2 * 128) / 16384 + 3 / 64 + 1 / 2


def camera_noise(size, channels, seed=0):
    """Every Y, U and V there is, with those that are no colour."""
    width, height = size
    shape = (height, width, 2) if channels in ("yuyv", "uyvy") else (height // 2 * 3, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def planes(frame, channels):
    """The frame as the core takes it: pixels, and U and V apart from them."""
    if channels in ("yuyv", "uyvy"):
        return frame, None
    height = len(frame) // 3 * 2
    chroma = frame[height:]
    return frame[:height], chroma.reshape(2, height // 2, -1) if channels == "i420" else chroma


def run_camera(frame, channels, size, order="rgb", isa="", **changes):
    width, height = size
    values = {"mean": MEAN, "scale": SCALE, "resize": "stretch", **changes}
    spec = reference.core_spec(width=width, height=height, channels=order, **values)
    pixels, chroma = planes(frame, channels)
    return _core.preprocess(pixels, spec, channels, isa, chroma=chroma)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", CAMERA_CHANNELS)
@pytest.mark.parametrize("isa", reference.ISAS)
def test_every_camera_frame_becomes_every_network_order_exactly(isa, channels, order):
    frame = camera_noise((42, 30), channels)
    assert_array_equal(
        run_camera(frame, channels, (24, 32), order, isa),
        expected(frame, channels, (24, 32), order),
    )


@pytest.mark.parametrize(("size", "network"), CAMERA_SIZES)
@pytest.mark.parametrize("channels", ["yuyv", "uyvy", "nv12", "i420"])
@pytest.mark.parametrize("isa", reference.ISAS)
def test_camera_frames_of_every_size_are_resized_exactly(isa, channels, size, network):
    frame = camera_noise(size, channels)
    assert_array_equal(
        run_camera(frame, channels, network, isa=isa), expected(frame, channels, network)
    )


@given(
    half=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    network=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
    channels=st.sampled_from(CAMERA_CHANNELS),
    order=st.sampled_from(ORDERS),
    isa=st.sampled_from(_core.isas()),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_every_part_of_a_camera_frame_is_resized_exactly(
    half, network, corners, channels, order, isa, seed
):
    width, height = 2 * half[0], 2 * half[1]
    frame = camera_noise((width, height), channels, seed)
    x, right = sorted(int(share * (width - 1)) for share in corners[:2])
    y, bottom = sorted(int(share * (height - 1)) for share in corners[2:])
    roi = x, y, right - x + 1, bottom - y + 1
    pixels, chroma = planes(frame, channels)
    steps = {"dtype": "float32", "steps": (1.0, 0), "order": order, "isa": isa}
    got = run_native(pixels, channels, network, chroma=chroma, roi=roi, **steps)
    want = reference.preprocess(
        frame,
        channels,
        width=network[0],
        height=network[1],
        order=order,
        mean=MEAN,
        scale=SCALE,
        roi=roi,
    )
    assert_array_equal(got, want)


def upsampled(frame, channels):
    """(H, W, 3) float64 Y, U and V, linear between the places of U and V."""

    def line(values, count):
        position = np.clip((np.arange(count) + 0.5) / 2 - 0.5, 0, len(values) - 1)
        first = np.floor(position).astype(int)
        second = np.minimum(first + 1, len(values) - 1)
        weight = (position - first).reshape(-1, 1, 1)
        return values[first] * (1 - weight) + values[second] * weight

    luma, chroma = (plane.astype(np.float64) for plane in reference.yuv_planes(frame, channels))
    if len(chroma) < len(luma):
        chroma = line(chroma, len(luma))
    chroma = line(chroma.transpose(1, 0, 2), luma.shape[1]).transpose(1, 0, 2)
    return np.concatenate([luma, chroma], axis=2)


@pytest.mark.parametrize("channels", CAMERA_CHANNELS)
@pytest.mark.parametrize("size", [(40, 30), (12, 2), (2, 12), (64, 48)])
def test_at_the_frames_own_size_its_colours_are_those_of_the_definition(size, channels):
    frame = camera_noise(size, channels, seed=3)
    got = run_camera(frame, channels, size, mean=(0, 0, 0), scale=(1, 1, 1))
    want = reference.yuv_to_rgb_float(upsampled(frame, channels))
    # Y is exact, as its weights are; U and V, of weights 1/4 and 3/4, are rounded to 1/128 and to 1. At most
    # 2.0172 of that is in a colour (green has less of both).
    bound = 255 / 224 * 1.772 * (1 / 256 + 1 / 2) + CONVERSION
    assert np.abs(got[0].transpose(1, 2, 0) - want).max() <= bound


@pytest.mark.parametrize("channels", CAMERA_CHANNELS)
@pytest.mark.parametrize("network", [(24, 32), (11, 7), (80, 50)])
def test_a_camera_frame_is_resized_as_its_planes_are(network, channels):
    frame = camera_noise((40, 30), channels, seed=4)
    luma, chroma = reference.yuv_planes(frame, channels)
    resized = [reference.resize_float(plane, *network) for plane in (luma, chroma)]
    want = reference.yuv_to_rgb_float(np.concatenate(resized, axis=2))
    got = run_camera(frame, channels, network, mean=(0, 0, 0), scale=(1, 1, 1))
    # Y, U and V are off as in test_the_resize_is_bilinear; blue has the largest sum of coefficients.
    error = 2 * 255 / 4096 + 1 / 256 + 1 / 2
    bound = (255 / 219 + 255 / 224 * 1.772) * error + CONVERSION
    assert np.abs(got[0].transpose(1, 2, 0) - want).max() <= bound


def test_the_colours_of_a_television_are_what_they_are_called():
    # Y, U and V of the bars at 100 percent, of which standards print the rounded values.
    bars = {
        (235, 128, 128): (255, 255, 255),
        (16, 128, 128): (0, 0, 0),
        (82, 90, 240): (255, 0, 0),
        (145, 54, 34): (0, 255, 0),
        (41, 240, 110): (0, 0, 255),
    }
    for (y, u, v), colour in bars.items():
        frame = np.tile(np.uint8([[y, u], [y, v]]), (4, 2, 1)).reshape(4, 4, 2)
        got = run_camera(frame, "yuyv", (3, 3), mean=(0, 0, 0), scale=(1, 1, 1))
        # Half a step of Y, U and V each.
        assert np.abs(got[0].transpose(1, 2, 0) - colour).max() <= 2


@pytest.mark.parametrize("channels", ["nv12", "nv21"])
def test_the_two_planes_may_lie_anywhere(channels):
    frame = camera_noise((40, 30), channels)
    pixels, chroma = planes(frame, channels)
    wide = np.full((50, 64), 7, np.uint8)
    wide[3:33, 1:41] = pixels  # an odd address, as a 32-bit machine would trap on
    low = np.full((20, 43), 9, np.uint8)[::-1]
    low[2:17, 3:43] = chroma
    spec = reference.core_spec(width=24, height=32, channels="rgb", mean=MEAN, scale=SCALE)
    got = _core.preprocess(wide[3:33, 1:41], spec, channels, chroma=low[2:17, 3:43])
    assert_array_equal(got, expected(frame, channels, (24, 32)))


@pytest.mark.parametrize("isa", reference.ISAS)
def test_u_and_v_with_a_plane_each_give_the_same_bytes_as_in_one(isa):
    frame = camera_noise((42, 30), "i420")
    luma, chroma = planes(frame, "i420")
    pairs = np.stack(chroma, axis=-1).reshape(15, 42)
    for network in ((24, 32), (7, 5), (80, 50)):
        want = run_camera(np.concatenate([luma, pairs]), "nv12", network, isa=isa)
        assert_array_equal(run_camera(frame, "i420", network, isa=isa), want)


def test_the_three_planes_may_lie_anywhere():
    frame = camera_noise((40, 30), "i420")
    pixels, chroma = planes(frame, "i420")
    wide = np.full((50, 64), 7, np.uint8)
    wide[3:33, 1:41] = pixels
    low = np.full((2, 20, 23), 9, np.uint8)[::-1, ::-1]  # V before U, and both from bottom to top
    low[:, 2:17, 1:21] = chroma
    spec = reference.core_spec(width=24, height=32, channels="rgb", mean=MEAN, scale=SCALE)
    got = _core.preprocess(wide[3:33, 1:41], spec, "i420", chroma=low[:, 2:17, 1:21])
    assert_array_equal(got, expected(frame, "i420", (24, 32)))


@pytest.mark.parametrize("isa", reference.ISAS)
def test_packed_rows_may_have_any_distance_and_address(isa):
    frame = camera_noise((40, 30), "yuyv")
    wide = np.zeros((30, 91), np.uint8)
    wide[:, 3:83] = frame.reshape(30, 80)
    view = wide[:, 3:83].reshape(30, 40, 2)
    assert np.shares_memory(view, wide)
    assert_array_equal(
        run_camera(view, "yuyv", (24, 32), isa=isa), expected(frame, "yuyv", (24, 32))
    )


@pytest.mark.parametrize(
    ("luma", "chroma"),
    [
        ((4, 6), None),
        ((4, 6), (2, 4)),
        ((4, 6), (1, 6)),
        ((5, 6), (2, 6)),
        ((4, 5), (2, 5)),
        ((4, 6), (2, 3, 2)),
    ],
)
def test_a_chroma_plane_that_does_not_fit_is_refused(luma, chroma):
    chroma = None if chroma is None else np.zeros(chroma, np.uint8)
    spec = reference.core_spec(width=8, height=8)
    with pytest.raises(ValueError, match="chroma plane does not fit"):
        _core.preprocess(np.zeros(luma, np.uint8), spec, "nv12", chroma=chroma)


@pytest.mark.parametrize(
    ("luma", "chroma"),
    [
        ((4, 6), None),
        ((4, 6), (2, 6)),
        ((4, 6), (2, 2, 6)),
        ((4, 6), (2, 1, 3)),
        ((4, 6), (1, 2, 3)),
        ((4, 6), (3, 2, 3)),
        ((5, 6), (2, 2, 3)),
        ((4, 7), (2, 2, 3)),
    ],
)
def test_two_chroma_planes_that_do_not_fit_are_refused(luma, chroma):
    chroma = None if chroma is None else np.zeros(chroma, np.uint8)
    spec = reference.core_spec(width=8, height=8)
    with pytest.raises(ValueError, match="chroma plane does not fit"):
        _core.preprocess(np.zeros(luma, np.uint8), spec, "i420", chroma=chroma)


def test_an_odd_width_is_refused_where_two_pixels_share_their_colour():
    with pytest.raises(ValueError, match="width is odd"):
        run_camera(np.zeros((4, 5, 2), np.uint8), "yuyv", (8, 8))


# --- The native engine's inputs ---------------------------------------------------------------------------

STORED_TYPES = tuple(reference.STORED_RANGE)


def run_native(
    frame,
    channels,
    size,
    dtype,
    steps,
    *,
    order="rgb",
    isa="",
    chroma=None,
    roi=None,
    **spec_changes,
):
    """What a native network is given, pixel by pixel: it shows its input as an output."""
    width, height = size
    count = 1 if order == "gray" else 3
    network = _core.Network(height, width, count, dtype=dtype, scale=steps)
    network.output("seen", network.rows("seen", 0, columns=count))
    for name, columns in (("scores", 2), ("boxes", 4)):  # of one prior
        network.output(name, add_head(network, columns, count, size, dtype))
    engine = _core.Engine(network, num_threads=1, isa="")
    spec = {"mean": MEAN, "scale": SCALE, **spec_changes}
    spec |= {"strides": (max(size),), "min_sizes": ((10.0,),)}
    options = _core.Options(
        score_threshold=0.5,
        iou_threshold=0.5,
        nms="hard",
        max_faces=1,
        pre_nms_top_k=1,
        min_face=0,
        isa=isa,
    )
    core_spec = reference.core_spec(width=width, height=height, channels=order, **spec)
    detector = _core.Detector(engine, core_spec, options)
    roi = roi or (0, 0, frame.shape[1], frame.shape[0])
    detector.detect(frame, channels, roi, chroma=chroma)
    seen = engine.output("seen")
    assert seen.dtype == dtype
    return seen.reshape(1, height, width, count).transpose(0, 3, 1, 2).copy()


def add_head(network, columns, count, size, dtype):
    """A convolution of a single output pixel, all zeros."""
    width, height = size
    window = {
        "stride": (height, width),
        "dilation": (1, 1),
        "pad": (0, 0),
        "groups": 1,
        "clamp": (-np.inf, np.inf, 1.0),
        "output": (1, 1, columns),
    }
    shape = (columns, count, 1, 1)
    if dtype == "float32":
        weight, bias = np.zeros(shape, np.float32), np.zeros(columns, np.float32)
        return network.conv("head", 0, weight=weight, bias=bias, **window)
    return network.quantized_conv(
        "head",
        0,
        weight=np.zeros(shape, np.int16),
        bias=np.zeros(columns, np.int32),
        weight_scale=np.ones(columns, np.float32),
        scale=(1.0, 0),
        **window,
    )


@pytest.mark.parametrize("channels", FRAME_CHANNELS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("isa", reference.ISAS)
def test_real_numbers_are_exact_pixel_by_pixel(isa, order, channels):
    for size in ((24, 32), (7, 5), (33, 2)):
        frame = noise((41, 29), channels)
        got = run_native(frame, channels, size, "float32", (1.0, 0), order=order, isa=isa)
        assert_array_equal(got, expected(frame, channels, size, order))


def expected_quantized(values, dtype, steps):
    source = Tensor("input", values.shape, np.dtype(dtype), None, reference.one_scale(*steps))
    return reference.quantized_pixels(values, source)


# Scale and zero point; the first is that of released networks.
INPUT_SCALES = {
    "int8": [(0.007874, 0), (0.5, -7), (1e-6, 100), (3.0, -127), (1e30, 5)],
    "uint8": [(0.007874, 126), (0.5, 0), (1e-6, 255), (3.0, 9), (1e30, 5)],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("channels", FRAME_CHANNELS)
@pytest.mark.parametrize("dtype", STORED_TYPES)
@pytest.mark.parametrize("isa", reference.ISAS)
def test_every_frame_is_quantised_exactly_in_every_network_order(isa, dtype, channels, order):
    frame = noise((41, 29), channels)
    want = expected(frame, channels, (24, 32), order)
    for steps in INPUT_SCALES[dtype]:
        assert_array_equal(
            run_native(frame, channels, (24, 32), dtype, steps, order=order, isa=isa),
            expected_quantized(want, dtype, steps),
        )


@pytest.mark.parametrize("order", ["gray", "rgb"])
@pytest.mark.parametrize(("dtype", "zero"), [("int8", 0), ("int8", 9), ("uint8", 128)])
@pytest.mark.parametrize("isa", reference.ISAS)
def test_every_pixel_value_is_rounded_to_even_and_ends_at_the_types_bounds(isa, dtype, zero, order):
    frame = np.arange(256, dtype=np.uint8).reshape(1, 256)
    got = run_native(
        frame,
        "gray",
        (256, 1),
        dtype,
        (1.0, zero),
        order=order,
        isa=isa,
        mean=(131.0,) * 3,
        scale=(1.25,) * 3,
    )
    low, high = reference.STORED_RANGE[dtype]
    want = [min(max(round((p - 131) * 1.25) + zero, low), high) for p in range(256)]
    for channel in got[0]:
        assert channel.ravel().tolist() == want
    assert low in want
    assert high in want


@pytest.mark.parametrize(("size", "network"), SIZES)
@pytest.mark.parametrize("dtype", STORED_TYPES)
@pytest.mark.parametrize("isa", reference.ISAS)
def test_every_size_is_quantised_exactly(isa, dtype, size, network):
    frame = noise(size, "bgr")
    steps = INPUT_SCALES[dtype][0]
    assert_array_equal(
        run_native(frame, "bgr", network, dtype, steps, isa=isa),
        expected_quantized(expected(frame, "bgr", network), dtype, steps),
    )


@pytest.mark.parametrize(
    ("size", "covered"), [((200, 100), (32, 16)), ((100, 200), (16, 32)), ((64, 64), (32, 32))]
)
@pytest.mark.parametrize("channels", ["bgr", "gray"])
@pytest.mark.parametrize("dtype", STORED_TYPES)
def test_letterbox_fills_up_with_what_stands_for_zero(dtype, channels, size, covered):
    frame = noise(size, channels)
    for steps in INPUT_SCALES[dtype]:
        _, zero = steps
        got = run_native(frame, channels, (32, 32), dtype, steps, resize="letterbox")
        width, height = covered
        want = expected_quantized(expected(frame, channels, covered), dtype, steps)
        assert_array_equal(got[..., :height, :width], want)
        assert (got[..., height:, :] == zero).all()
        assert (got[..., width:] == zero).all()


def test_a_quantised_input_ends_where_endless_values_begin():
    # (255 - mean) * scale is beyond float32: still the type's highest value.
    frame = np.uint8([[0, 255]])
    got = run_native(
        frame,
        "gray",
        (2, 1),
        "int8",
        (1e-3, 0),
        order="gray",
        mean=(100.0,) * 3,
        scale=(3e38,) * 3,
    )
    assert got.ravel().tolist() == [-127, 127]
