"""Which network looks at a frame: of what input size, and with which levels of priors.

Both may follow the frame's size. Then a detector has a network for each of the sizes that it saw last.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from . import trim

if TYPE_CHECKING:
    from collections.abc import Callable

    from .spec import PriorSpec

FRAME = "frame"  # the input size that follows the frame
# The long side of a frame of 720p, which so is looked at pixel by pixel.
MAX_SIDE = 1280
# A camera upright and on its side, say, and a region of each. Every network has buffers of its own: 18 MB
# natively for RetinaFace's MobileNet at 1280x736, 177 MB for its ResNet-50.
KEPT = 4

_T = TypeVar("_T")


class Fit(NamedTuple):
    """A network's input and the strides of its levels."""

    width: int
    height: int
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """How a detector fits its network to frames."""

    priors: PriorSpec  # of the whole network
    size: tuple[int, int] | None  # of its input; None: the frame's
    max_side: int  # of the frame inside such an input
    strides: tuple[int, ...] | None  # of the levels; None: those that min_face needs
    min_face: float  # in frame pixels

    def fit(self, frame_width: int, frame_height: int) -> Fit:
        """For a frame or region of that size."""
        frame = (frame_width, frame_height)
        size = self.size
        if size is None:
            size = followed(frame, self.max_side, max(self.priors.strides))
        strides = self.strides
        if strides is None:
            # Stretched, a face has two scales: by the smaller one it keeps a level that it may need.
            in_input = min(self.min_face * side / whole for side, whole in zip(size, frame))
            strides = trim.needed_strides(self.priors, in_input)
        return Fit(*size, strides)


def followed(frame: tuple[int, int], max_side: int, stride: int) -> tuple[int, int]:
    """The input size for a frame of (width, height): no side beyond `max_side`, rounded up to the stride.

    So the coarsest level has whole cells, and frames of nearly one size share a network.
    """
    longest = max(frame)
    shown = min(longest, max_side)
    # -(-a // b) is a / b rounded up, in whole numbers.
    width, height = (-(-side * shown // (longest * stride)) * stride for side in frame)
    return width, height


class Kept(Generic[_T]):
    """The last few things made, by their fit; threads may share it."""

    def __init__(self, make: Callable[[Fit], _T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: OrderedDict[Fit, _T] = OrderedDict()

    def get(self, fit: Fit) -> _T:
        """Makes it where it is not there; others wait meanwhile, and nothing is made twice."""
        with self._lock:
            if fit not in self._made:
                self.put(fit, self._make(fit))
            self._made.move_to_end(fit)
            return self._made[fit]

    def put(self, fit: Fit, made: _T) -> None:
        """Keeps it, and lets go of what was not asked for the longest."""
        self._made[fit] = made
        while len(self._made) > KEPT:
            self._made.popitem(last=False)
