"""What detect returns: arrays for those who compute, objects for those who look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

LANDMARKS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


@dataclass(frozen=True)
class Face:
    """One face, in frame pixels."""

    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    landmarks: (
        tuple[tuple[float, float], ...] | None
    )  # as in LANDMARKS, left and right in the image

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Corners x1, y1, x2, y2."""
        return self.x1, self.y1, self.x2, self.y2

    @property
    def width(self) -> float:
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        return self.y2 - self.y1

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        values: dict[str, Any] = {"box": list(self.box), "score": self.score}
        if self.landmarks is not None:
            values["landmarks"] = dict(zip(LANDMARKS, map(list, self.landmarks)))
        return values


class Faces:
    """The faces of one frame, best score first: a sequence of Face over one array.

    Args:
        rows: (N, 5) float32, x1 y1 x2 y2 score, or (N, 15) with the landmarks' x, y behind.
    """

    __slots__ = ("rows",)

    def __init__(self, rows: NDArray[np.float32]) -> None:
        if rows.ndim != 2 or rows.shape[1] not in (5, 15):
            raise ValueError(f"rows have shape {rows.shape}; expected (N, 5) or (N, 15)")
        self.rows = rows

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(N, 4) corners x1, y1, x2, y2 in frame pixels; a view."""
        return self.rows[:, :4]

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,) in 0..1; a view."""
        return self.rows[:, 4]

    @property
    def landmarks(self) -> NDArray[np.float32] | None:
        """(N, 5, 2) x, y in frame pixels, in the order of LANDMARKS; a view. None: the model has none."""
        if self.rows.shape[1] == 5:
            return None
        return self.rows[:, 5:].reshape(-1, 5, 2)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Face: ...
    @overload
    def __getitem__(self, index: slice) -> Faces: ...
    def __getitem__(self, index: int | slice) -> Face | Faces:
        if isinstance(index, slice):
            return Faces(self.rows[index])
        x1, y1, x2, y2, score, *points = self.rows[index].tolist()
        landmarks = tuple(zip(points[::2], points[1::2])) if points else None
        return Face(x1, y1, x2, y2, score, landmarks)

    def __iter__(self) -> Iterator[Face]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Faces({len(self)} face{'' if len(self) == 1 else 's'})"

    def to_dict(self) -> dict[str, Any]:
        """{"faces": [{"box": [x1, y1, x2, y2], "score": s, "landmarks": {...}}, ...]}."""
        return {"faces": [face.to_dict() for face in self]}

    def draw(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of the BGR or gray frame with boxes, scores and landmarks on it (extra `image`)."""
        from .draw import draw_faces

        return draw_faces(frame, self)
