"""Faces painted over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# How wide the ring is that a colour comes from, in longer sides of the box, and at least in pixels.
RING, RING_PIXELS = 0.5, 2.0


def paint(
    image: NDArray[np.uint8], boxes: NDArray[np.float64], *, protected: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """The image with each box filled with the mean colour of the ring around it.

    Not with one gray for all: such a patch has hard edges wherever it lies, so a network learns to tell
    it from faces, and that is of no use where nothing is painted. Pixels in a `protected` box are neither
    painted nor mixed into a colour.

    Args:
        image: (height, width, 3).
        boxes: (N, 4) x1, y1, x2, y2 inside the image; pixels are painted that they touch.
        protected: (M, 4) boxes of the faces that stay.

    Returns:
        A new array, or the same where there is nothing to paint.
    """
    kept, painted = _mask(image, protected), _mask(image, boxes)
    if not (painted & ~kept).any():
        return image
    free = ~(painted | kept)
    elsewhere = _mean(image, free) if free.any() else _mean(image, ~kept)
    result: NDArray[np.uint8] = image.copy()
    for box in boxes:
        ring = _pixels(box, max(RING * (box[2:] - box[:2]).max(), RING_PIXELS))
        colour = _mean(image[ring], free[ring]) if free[ring].any() else elsewhere
        inside = _pixels(box, 0)
        result[inside][~kept[inside]] = colour
    return result


def _mask(image: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(height, width) which pixels a box touches."""
    mask = np.zeros(image.shape[:2], np.bool_)
    for box in boxes:
        mask[_pixels(box, 0)] = True
    return mask


def _pixels(box: NDArray[np.float64], margin: float) -> tuple[slice, slice]:
    """Rows and columns."""
    x1, y1 = np.maximum(np.floor(box[:2] - margin), 0).astype(int)
    x2, y2 = np.ceil(box[2:] + margin).astype(int)
    return slice(y1, y2), slice(x1, x2)


def _mean(image: NDArray[np.uint8], chosen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    mean: NDArray[np.uint8] = np.round(image[chosen].mean(axis=0)).astype(np.uint8)
    return mean
