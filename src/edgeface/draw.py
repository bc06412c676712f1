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
TEXT_PER_PIXEL = 1 / 1400


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
    scale = max(0.3, max(picture.shape[:2]) * TEXT_PER_PIXEL)
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x, y = corner[0], max(corner[1], height + below)
    cv2.rectangle(picture, (x, y - height - below), (x + width, y), GREEN, -1)
    cv2.putText(
        picture, text, (x, y - below // 2), cv2.FONT_HERSHEY_SIMPLEX, scale, BLACK, 1, cv2.LINE_AA
    )
