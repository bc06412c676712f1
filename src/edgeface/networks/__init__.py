"""Networks that are published as PyTorch weights -> Graph.

A state dict names its arrays but not the operations between them: those stand here, a file for each
skeleton. `train` has the same networks in PyTorch and takes their constants from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ModelError
from . import retinaface, ultraface
from .builder import EPSILON, INPUT, Builder

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..graph import Graph
    from .builder import Weights

__all__ = ["DEFAULT_SIZE", "EPSILON", "INPUT", "build"]

DEFAULT_SIZE = (320, 240)  # weights do not know the size of their input

# One array that tells each skeleton from the others, and who draws it; that returns the outputs' names.
_KNOWN: dict[str, Callable[[Builder], tuple[str, ...]]] = {
    "base_net.0.0.weight": ultraface.draw,
    "landm.3.weight": ultraface.draw_with_landmarks,
    "ClassHead.0.conv1x1.weight": retinaface.draw,
}
_UNSUPPORTED = {
    "stage1.0.0.weight": "the pretrained backbone of RetinaFace, which finds no faces by itself",
}


def build(
    weights: Weights, size: tuple[int, int] = DEFAULT_SIZE, *, slope: float | None = None
) -> Graph:
    """The network with these weights for inputs of (width, height); BatchNorm is folded.

    Input "input" (1, 3, height, width); outputs "scores" (1, priors, 2) after softmax, "boxes"
    (1, priors, 4) and, where it has them, "landmarks" (1, priors, 10), both raw offsets.

    Weights do not tell the slope of leaky ReLUs, which RetinaFace with the MobileNet has: 0.1 unless given.

    Raises:
        ModelError: It is no network known here, or an array is missing, unexpected or misshapen.
    """
    draw = _recognised(weights)
    builder = Builder(weights, size, slope)
    return builder.finish(draw(builder))


def _recognised(weights: Weights) -> Callable[[Builder], tuple[str, ...]]:
    for key, draw in _KNOWN.items():
        if key in weights:
            return draw
    for key, what in _UNSUPPORTED.items():
        if key in weights:
            raise ModelError(f"these are weights of {what}")
    found = ", ".join(list(weights)[:3])
    raise ModelError(
        f"these are weights of no network known here (slim, RFB or RetinaFace): {found:.200}, ..."
    )
