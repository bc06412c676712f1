"""Pixels -> network input on the device, with the very bytes of the core's preprocessing (cpp/preprocess.cpp).

Those are made in integers, which every device has: positions and weights are computed here once for a size of
frames, the rest is gathering, multiplying and shifting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ...spec import InputSpec

_ONE = 1 << 11  # bits of a weight, as in the core
# BT.601 in limited range, as the core has it: what is taken off Y, U and V, and what is then added to red,
# green and blue for each of it, in 1/8192.
_MIDDLES = (16, 128, 128)
_TO_RGB = ((9539, 9539, 9539), (0, -3209, 16525), (13075, -6660, 0))
_LUMA = (77, 150, 29)  # of red, green and blue, in 1/256

_PACKED_YUV = {"yuyv": (0, 1, 3), "uyvy": (1, 0, 2)}  # where Y, U and V lie in their bytes
_TWO_PLANES = {"nv12": (0, 1), "nv21": (1, 0)}  # where U and V do


class View(NamedTuple):
    """What of a frame is looked at: of every plane the rows, and their bytes that count."""

    planes: tuple[NDArray[np.uint8], ...]
    size: tuple[int, int]  # width and height in pixels
    channels: str
    # 1 where it begins with the second of the pixels that share a U and a V.
    phase: tuple[int, int] = (0, 0)

    @property
    def geometry(self) -> tuple[object, ...]:
        """Views that have the same can be resized together."""
        return self.size, self.channels, self.phase


def cut(
    pixels: NDArray[np.uint8],
    channels: str,
    region: Sequence[int],
    chroma: NDArray[np.uint8] | None = None,
) -> View:
    """The region x, y, width, height of a frame (edgeface.frames.Frame); nothing is copied."""
    x, y, width, height = region
    size = (width, height)
    rows = pixels[y : y + height]
    if channels in _PACKED_YUV:
        phase = (x % 2, 0)
        end = x - phase[0] + 2 * _chroma_count(width, phase[0])
        return View((_bytes(rows[:, x - phase[0] : end]),), size, channels, phase)
    plane = _bytes(rows[:, x : x + width])
    if chroma is None:
        return View((plane,), size, channels)
    phase = (x % 2, y % 2)
    across, down = _chroma_count(width, phase[0]), _chroma_count(height, phase[1])
    left, top = x // 2 * 2, y // 2
    return View((plane, chroma[top : top + down, left : left + 2 * across]), size, channels, phase)


def upload(views: Sequence[View], device: torch.device) -> tuple[torch.Tensor, ...]:
    """The planes of views of one geometry, each as (N, rows, bytes) uint8."""
    return tuple(_uploaded(planes, device) for planes in zip(*(view.planes for view in views)))


def _uploaded(planes: Sequence[NDArray[np.uint8]], device: torch.device) -> torch.Tensor:
    readable = [torch.from_numpy(_readable(plane)) for plane in planes]
    if len(planes) == 1:
        return readable[0][None].to(device)
    both = torch.empty((len(planes), *planes[0].shape), dtype=torch.uint8, device=device)
    for tensor, plane in zip(both, readable):
        tensor.copy_(plane)
    return both


def _readable(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy where PyTorch does not take it: rows from bottom to top, memory that must not be written."""
    return plane if plane.flags.writeable and min(plane.strides) > 0 else plane.copy()


def _bytes(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels.reshape(len(pixels), -1)


# --- Where pixels are taken from -------------------------------------------------------------------------


class _Taps(NamedTuple):
    """Of every column or row: two places, and the weight of the second in 1/2048."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.int64]


def _taps(size: int, to: int) -> _Taps:
    """Pixel centres coincide: source = (i + 0.5) * size / to - 0.5, clamped to the image."""
    return _taps_at((2 * np.arange(to, dtype=np.int64) + 1) * size - to, 2 * to, size)


def _chroma_taps(size: int, to: int, phase: int) -> _Taps:
    """The same of U and V, each in the middle of its pixels."""
    positions = (2 * np.arange(to, dtype=np.int64) + 1) * size + 2 * to * (phase - 1)
    return _taps_at(positions, 4 * to, _chroma_count(size, phase))


def _taps_at(numerators: NDArray[np.int64], denominator: int, count: int) -> _Taps:
    inside = np.clip(numerators, 0, (count - 1) * denominator)
    first = inside // denominator
    weight = ((inside - first * denominator) * _ONE + denominator // 2) // denominator
    return _Taps(first, np.minimum(first + 1, count - 1), weight)


def _chroma_count(pixels: int, phase: int) -> int:
    """How many U there are along pixels that begin with the first (0) or second (1) of two that share one."""
    return (pixels + phase + 1) // 2


def _columns(taps: _Taps, step: int, offset: int) -> _Taps:
    """The taps of one of a pixel's values, in bytes of a row; pixels lie `step` apart."""
    return _Taps(taps.first * step + offset, taps.second * step + offset, taps.weight)


def _woven(values: Sequence[_Taps]) -> _Taps:
    """Of several values a pixel, pixel by pixel."""
    return _Taps(*(np.stack(parts, axis=1).ravel() for parts in zip(*values)))


def _pixel_taps(view: View, order: str, to: int) -> _Taps:
    """The network's colours, or Y, U and V, of interleaved pixels."""
    taps = _taps(view.size[0], to)
    if view.channels in _PACKED_YUV:
        y, u, v = _PACKED_YUV[view.channels]
        luma = _Taps(taps.first + view.phase[0], taps.second + view.phase[0], taps.weight)
        chroma = _chroma_taps(view.size[0], to, view.phase[0])
        return _woven([_columns(luma, 2, y), _columns(chroma, 4, u), _columns(chroma, 4, v)])
    if view.channels == "gray":
        return _woven([taps] * 3)
    wanted = "bgr" if order == "bgr" else "rgb"
    places = [view.channels.index(colour) for colour in wanted]
    return _woven([_columns(taps, len(view.channels), place) for place in places])


# --- Resizing ----------------------------------------------------------------------------------------------


class _Blend:
    """One pass of a resize along an axis, by tensors on the device."""

    def __init__(self, taps: _Taps, size: int, device: torch.device) -> None:
        self.is_blended = bool(taps.weight.any())
        self.is_identity = not self.is_blended and np.array_equal(taps.first, np.arange(size))
        self.first, self.second = (torch.from_numpy(taps[i]).to(device) for i in range(2))
        self.weight = torch.from_numpy(taps.weight.astype(np.int32)).to(device)

    def __call__(self, values: torch.Tensor, axis: int) -> torch.Tensor:
        """int32, 2048 times as large."""
        first = self.picked(values, axis).to(torch.int32)
        if not self.is_blended:
            return first * _ONE
        second = values.index_select(axis, self.second).to(torch.int32)
        weight = self.weight if axis == 2 else self.weight[:, None]
        return first * _ONE + (second - first) * weight

    def picked(self, values: torch.Tensor, axis: int) -> torch.Tensor:
        """The first places' values alone."""
        return values if self.is_identity else values.index_select(axis, self.first)


class _Plane:
    """The resize of one plane."""

    def __init__(
        self, across: _Taps, down: _Taps, shape: tuple[int, int], device: torch.device
    ) -> None:
        # Only rows that count are worked on: the further a frame is reduced, the fewer.
        needed, places = np.unique(np.stack(down[:2]), return_inverse=True)
        first, second = places.reshape(2, -1)
        rows = _Taps(first, second, down.weight)
        self._needed = None if len(needed) == shape[0] else torch.from_numpy(needed).to(device)
        self._across = _Blend(across, shape[1], device)
        self._down = _Blend(rows, len(needed), device)

    def __call__(self, plane: torch.Tensor) -> torch.Tensor:
        """(N, rows, bytes) uint8 -> (N, height, width * values), integers from 0 to 255."""
        if self._needed is not None:
            plane = plane.index_select(1, self._needed)
        if not self._across.is_blended and not self._down.is_blended:
            # A frame of the network's size: what follows would give the same.
            return self._down.picked(self._across.picked(plane, 2), 1)
        # 7 bits of fraction are kept between the passes.
        lines = (self._across(plane, 2) + 8) >> 4
        return (self._down(lines, 1) + (1 << 17)) >> 18


class Preprocess:
    """Everything that is the same for all frames of a geometry."""

    def __init__(self, view: View, spec: InputSpec, device: torch.device) -> None:
        self._spec = spec
        self._size = _letterboxed(view.size, spec)
        self._planes = _planes(view, spec.channels, self._size, device)
        self._is_yuv = view.channels in _PACKED_YUV or view.channels in _TWO_PLANES
        self._mean, self._scale = (
            torch.tensor(values, dtype=torch.float32).to(device)
            for values in (spec.mean, spec.scale)
        )
        self._middles = torch.tensor(_MIDDLES, dtype=torch.int32).to(device)
        self._to_rgb = torch.tensor(_TO_RGB, dtype=torch.int32).to(device)
        # Network input pixels -> frame pixels, along x and y.
        size, to = np.array([view.size, self._size], np.float32)
        self.scale: NDArray[np.float32] = size / to

    def __call__(self, planes: Sequence[torch.Tensor]) -> torch.Tensor:
        """(N, C, H, W) float32, channels last in memory; what a letterbox leaves free is 0, the mean colour."""
        width, height = self._size
        parts = [resize(plane) for resize, plane in zip(self._planes, planes)]
        shaped = [part.reshape(len(part), height, width, -1) for part in parts]
        pixels = torch.cat(shaped, dim=3) if len(shaped) > 1 else shaped[0]
        if self._is_yuv:
            pixels = self._converted(pixels)
        if self._spec.channels == "gray":
            pixels = _gray(pixels)
        count = pixels.shape[3]
        values = pixels.to(torch.float32).sub_(self._mean[:count]).mul_(self._scale[:count])
        free = (0, 0, 0, self._spec.width - width, 0, self._spec.height - height)
        if any(free):
            values = functional.pad(values, free)
        return values.permute(0, 3, 1, 2)

    def _converted(self, yuv: torch.Tensor) -> torch.Tensor:
        terms = ((yuv.to(torch.int32) - self._middles)[..., None] * self._to_rgb + 128) >> 8
        rgb = ((terms.sum(dim=3, dtype=torch.int32) + 16) >> 5).clamp_(0, 255)
        return rgb.flip(3) if self._spec.channels == "bgr" else rgb


def _planes(
    view: View, order: str, to: tuple[int, int], device: torch.device
) -> tuple[_Plane, ...]:
    width, height = view.size
    down = _taps(height, to[1])
    shapes = [plane.shape for plane in view.planes]
    if view.channels not in _TWO_PLANES:
        return (_Plane(_pixel_taps(view, order, to[0]), down, shapes[0], device),)
    chroma = _chroma_taps(width, to[0], view.phase[0])
    across = _woven([_columns(chroma, 2, place) for place in _TWO_PLANES[view.channels]])
    chroma_down = _chroma_taps(height, to[1], view.phase[1])
    return (
        _Plane(_taps(width, to[0]), down, shapes[0], device),
        _Plane(across, chroma_down, shapes[1], device),
    )


def _letterboxed(frame: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """The part of the input that the frame covers, from its top left corner."""
    width, height = frame
    if spec.resize != "letterbox":
        return spec.width, spec.height
    if spec.width * height <= spec.height * width:
        return spec.width, _scaled(height, spec.width, width)
    return _scaled(width, spec.height, height), spec.height


def _scaled(length: int, numerator: int, denominator: int) -> int:
    """Rounded to the nearest pixel, never to nothing."""
    return max(1, (2 * length * numerator + denominator) // (2 * denominator))


def _gray(rgb: torch.Tensor) -> torch.Tensor:
    red, green, blue = (rgb[..., i, None].to(torch.int32) * w for i, w in enumerate(_LUMA))
    return (red + green + blue + 128) >> 8
