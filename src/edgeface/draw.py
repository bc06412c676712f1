"""Faces on a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

try:
    import cv2
except ImportError as error:
    raise ImportError("drawing needs OpenCV: pip install edgeface[image]") from error

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .faces import Face, Faces

GREEN = (80, 220, 60)
RED = (60, 60, 240)
BLACK = (0, 0, 0)
# Looks right at any size: a 640 pixel picture gets lines of 2 pixels.
LINE_PER_PIXEL = 1 / 320
# A score is as wide as its face, within what can be read and what does not shout.
SMALLEST_TEXT, LARGEST_TEXT = 0.35, 1.2
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_faces(frame: NDArray[np.uint8], faces: Faces) -> NDArray[np.uint8]:
    """A BGR copy of a BGR, BGRA or gray frame, with boxes, scores and landmarks."""
    picture = _bgr_copy(frame)
    for face in faces:
        _draw_box(picture, face)
        for x, y in face.landmarks or ():
            cv2.circle(picture, (round(x), round(y)), _line(picture), RED, -1, cv2.LINE_AA)
    return picture


def _bgr_copy(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if frame.ndim == 2:
        return np.repeat(frame[:, :, np.newaxis], 3, axis=2)
    picture: NDArray[np.uint8] = frame[:, :, :3].copy(order="C")
    return picture


def _line(picture: NDArray[np.uint8]) -> int:
    longer: int = max(picture.shape[:2])
    return max(1, round(longer * LINE_PER_PIXEL))


def _draw_box(picture: NDArray[np.uint8], face: Face) -> None:
    corner, opposite = (round(face.x1), round(face.y1)), (round(face.x2), round(face.y2))
    cv2.rectangle(picture, corner, opposite, GREEN, _line(picture), cv2.LINE_AA)
    text = f"{face.score:.2f}"
    (unit, _), _ = cv2.getTextSize(text, FONT, 1.0, 1)
    scale = min(face.width / unit, LARGEST_TEXT)
    # In a crowd it would hide the neighbours.
    if scale >= SMALLEST_TEXT:
        _draw_label(picture, text, corner, scale)


def _draw_label(
    picture: NDArray[np.uint8], text: str, corner: tuple[int, int], scale: float
) -> None:
    """Above the corner, or below it where the picture ends."""
    (width, height), below = cv2.getTextSize(text, FONT, scale, 1)
    x = max(0, min(corner[0], picture.shape[1] - width))
    y = max(corner[1], height + below)
    cv2.rectangle(picture, (x, y - height - below), (x + width, y), GREEN, -1)
    cv2.putText(picture, text, (x, y - below // 2), FONT, scale, BLACK, 1, cv2.LINE_AA)
