"""What `detect` is passed, checked and as the core takes it."""

from __future__ import annotations

import numbers
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import media

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .spec import InputSpec

# What a frame may be; `auto` tells the first five apart by shape.
CHANNELS = (
    *("auto", "bgr", "rgb", "bgra", "rgba", "gray"),
    *("yuyv", "uyvy", "nv12", "nv21", "i420", "yv12", "mjpeg"),
)
# A frame beyond this (16384 x 16384) is a mistake; indices inside the core stay far from overflow.
MAX_PIXELS = 1 << 28

_PACKED = {"bgr": 3, "rgb": 3, "bgra": 4, "rgba": 4, "gray": 1, "yuyv": 2, "uyvy": 2}
_TWO_PLANES = ("nv12", "nv21")
_THREE_PLANES = ("i420", "yv12")


class Frame(NamedTuple):
    """Views where pixels are packed, copies where not."""

    pixels: NDArray[np.uint8]
    channels: str  # as the core calls them: i420 of yv12, too
    # Of two by two pixels: (H / 2, W) U and V in turns, or (2, H / 2, W / 2) U, then V.
    chroma: NDArray[np.uint8] | None = None
    # How many pixels of what the caller sees lie along one of these, and what decoding took.
    reduction: tuple[float, float] = (1.0, 1.0)
    milliseconds: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]


def checked_frame(frame: object, channels: str, network: InputSpec | None) -> Frame:
    """`channels` is one of CHANNELS; TypeError and ValueError say what the frame is instead.

    A JPEG is decoded no larger than `network` needs, if that is given.
    """
    if channels == "mjpeg":
        return _jpeg(frame, network)
    if channels in _TWO_PLANES:
        return _two_planes(frame, channels)
    if channels in _THREE_PLANES:
        return _three_planes(frame, channels)
    pixels = _checked_pixels(frame)
    count = 1 if pixels.ndim == 2 else pixels.shape[2] if pixels.ndim == 3 else 0
    if channels == "auto":
        channels = {1: "gray", 3: "bgr", 4: "bgra"}.get(count, "bgr")
    if _PACKED[channels] != count:
        wanted = "(H, W)" if channels == "gray" else f"(H, W, {_PACKED[channels]})"
        raise ValueError(f"the frame has shape {pixels.shape}; expected {wanted} for {channels}")
    _check_size(pixels)
    if channels in ("yuyv", "uyvy") and pixels.shape[1] % 2 != 0:
        raise ValueError(f"the frame is {pixels.shape[1]} wide; {channels} has an even width")
    # The stride of an axis of length 1 may be anything, and no copy would change it.
    in_row = pixels.shape[1] == 1 or pixels.strides[1] == count
    packed = in_row and (count == 1 or pixels.strides[2] == 1)
    return Frame(pixels if packed else np.ascontiguousarray(pixels), channels)


def _two_planes(frame: object, channels: str) -> Frame:
    if isinstance(frame, (tuple, list)) and len(frame) == 2:
        pixels, chroma = _checked_pixels(frame[0]), _checked_pixels(frame[1])
    else:
        both = _checked_pixels(frame)
        height = both.shape[0] // 3 * 2 if both.ndim == 2 else 0
        pixels, chroma = both[:height], both[height:]
    if pixels.ndim == 2 and chroma.shape == (pixels.shape[0] // 2, pixels.shape[1] // 2, 2):
        chroma = chroma.reshape(chroma.shape[0], -1)
    even = pixels.ndim == 2 and all(length % 2 == 0 for length in pixels.shape)
    if not even or chroma.shape != (pixels.shape[0] // 2, pixels.shape[1]):
        raise ValueError(
            f"the frame's planes have shapes {pixels.shape} and {chroma.shape}; expected (H, W) and "
            f"(H / 2, W), or one array of (H * 3 / 2, W), for {channels}, with even H and W"
        )
    _check_size(pixels)
    return Frame(_in_rows(pixels), channels, _in_rows(chroma))


def _three_planes(frame: object, channels: str) -> Frame:
    if isinstance(frame, (tuple, list)) and len(frame) == 3:
        pixels, *halves = map(_checked_pixels, frame)
        chroma = halves[1][None]
        if halves[0].shape == halves[1].shape:
            chroma = np.ascontiguousarray(np.stack(halves))
    else:
        whole = _checked_pixels(frame)
        height = whole.shape[0] // 3 * 2 if whole.ndim == 2 else 0
        pixels, chroma = whole[:height], whole[height:]
        # Two rows of U lie in one of the array: of an array cut out of a wider one they would not be all there.
        if chroma.flags.c_contiguous and chroma.size * 2 == pixels.size and whole.shape[1] % 2 == 0:
            chroma = chroma.reshape(2, height // 2, whole.shape[1] // 2)
    even = pixels.ndim == 2 and all(length % 2 == 0 for length in pixels.shape)
    if not even or chroma.shape != (2, pixels.shape[0] // 2, pixels.shape[1] // 2):
        raise ValueError(
            f"the frame's planes have shapes {pixels.shape} and {chroma.shape}; expected (H, W) and twice "
            f"(H / 2, W / 2), or one array of (H * 3 / 2, W) without gaps between its rows, for {channels}, with "
            "even H and W"
        )
    _check_size(pixels)
    ordered = chroma if channels == "i420" else chroma[::-1]
    return Frame(_in_rows(pixels), "i420", ordered)


def in_pairs(frame: Frame) -> Frame:
    """A frame of i420 as one of nv12, of which a network sees the same bytes; others as they are."""
    if frame.channels != "i420" or frame.chroma is None:
        return frame
    pairs = np.stack(list(frame.chroma), axis=-1)
    return frame._replace(channels="nv12", chroma=pairs.reshape(len(pairs), -1))


def _jpeg(frame: object, network: InputSpec | None) -> Frame:
    start = time.perf_counter()
    if isinstance(frame, (bytes, bytearray, memoryview)):
        data = bytes(frame)
    else:
        data = _checked_pixels(frame).tobytes()
    try:
        width, height = media.jpeg_size(data)
        _check_area(width, height)
        reduction = 1 if network is None else _reduction(width, height, network)
        pixels, channels = media.decode_jpeg(data, reduction)
    except media.MediaError as error:
        raise ValueError(f"the frame is {error}") from None
    return Frame(
        pixels,
        channels,
        reduction=(width / pixels.shape[1], height / pixels.shape[0]),
        milliseconds=(time.perf_counter() - start) * 1000,
    )


def _reduction(width: int, height: int, network: InputSpec) -> int:
    """The largest that leaves as many pixels as the network has."""
    ratios = width / network.width, height / network.height
    most = max(ratios) if network.resize == "letterbox" else min(ratios)
    return next((reduction for reduction in media.REDUCTIONS if reduction <= most), 1)


def _in_rows(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return plane if plane.strides[1] == 1 else np.ascontiguousarray(plane)


def _checked_pixels(pixels: object) -> NDArray[np.uint8]:
    if not isinstance(pixels, np.ndarray):
        raise TypeError(
            f"the frame is a {type(pixels).__name__}; expected a NumPy array "
            "(cv2.imread gives None for a file it cannot read)"
        )
    if pixels.dtype != np.uint8:
        raise TypeError(f"the frame is {pixels.dtype}; expected uint8")
    return pixels


def _check_size(pixels: NDArray[np.uint8]) -> None:
    height, width = pixels.shape[:2]
    _check_area(width, height)


def _check_area(width: int, height: int) -> None:
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"the frame is {width}x{height}; expected 1 to {MAX_PIXELS} pixels")


def checked_roi(roi: object, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Inside a frame of that width and height; None is all of it."""
    width, height = size
    if roi is None:
        return 0, 0, width, height
    if not isinstance(roi, (tuple, list, np.ndarray)) or len(roi) != 4:
        raise TypeError(f"roi is {roi!r}; expected (x, y, width, height)")
    for value in roi:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"roi is {roi!r}; expected whole frame pixels")
    x, y, w, h = map(int, roi)
    if not (0 <= x < width and 0 <= y < height and 1 <= w <= width - x and 1 <= h <= height - y):
        raise ValueError(f"roi {(x, y, w, h)} does not lie inside the {width}x{height} frame")
    return x, y, w, h
