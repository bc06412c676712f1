"""Models, opened for the protocol, and what they find in every scene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import model
from ..detector import FaceDetector

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from ..faces import Faces
    from .truth import Scene, Truth

# The protocol of the published Ultra-Light and RetinaFace figures.
SCORE_THRESHOLD = 0.02
IOU_THRESHOLD = 0.3
MAX_FACES = 750


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model to be evaluated, or anything else that finds faces."""

    name: str
    detect: Callable[[NDArray[np.uint8]], Faces]  # of a BGR frame, best score first
    input_size: tuple[int, int]
    resize: str  # stretch or letterbox, or more words
    backend: str
    score_threshold: float  # its own: from where on its users see a face

    def scale(self, frame_size: tuple[int, int]) -> float:
        """Input pixels a frame pixel, along the height."""
        across, down = (i / f for i, f in zip(self.input_size, frame_size))
        return min(across, down) if self.resize == "letterbox" else down


@dataclass(frozen=True, eq=False)
class Found:
    """What one candidate finds in every scene."""

    rows: tuple[NDArray[np.float32], ...]  # (N, 5) or (N, 15) as in Faces, best score first
    sizes: tuple[tuple[int, int], ...]  # width, height of every frame


def open_model(path: str | os.PathLike[str], name: str = "", **options: Any) -> Candidate:
    """A model file with a detector's options `spec`, `backend`, `num_threads`, `input_size` and `resize`.

    Raises:
        ModelError, BackendError, ValueError, FileNotFoundError: As FaceDetector.
    """
    detector = FaceDetector(
        path,
        score_threshold=SCORE_THRESHOLD,
        iou_threshold=IOU_THRESHOLD,
        max_faces=MAX_FACES,
        # Every candidate: which of those with equal scores a smaller number keeps would be chance.
        pre_nms_top_k=2**31 - 1,
        **options,
    )
    used = detector.spec.input
    return Candidate(
        name or str(path),
        detector.detect,
        (used.width, used.height),
        used.resize,
        str(detector.backend),
        model.load(path, options.get("spec")).spec.score_threshold,
    )


def find_all(
    truth: Truth,
    candidates: Sequence[Candidate],
    progress: Callable[[Sequence[Scene]], Iterable[Scene]] = iter,
) -> list[Found]:
    """What each candidate finds; every image is read once.

    Args:
        truth: The images.
        candidates: What looks at them.
        progress: Puts a progress bar round the scenes.

    Raises:
        DataError: An image cannot be read.
    """
    rows: list[list[NDArray[np.float32]]] = [[] for _ in candidates]
    sizes = []
    for scene in progress(truth.scenes):
        frame = truth.frame(scene)
        sizes.append((frame.shape[1], frame.shape[0]))
        for candidate, found in zip(candidates, rows):
            found.append(candidate.detect(frame).rows)
    return [Found(tuple(found), tuple(sizes)) for found in rows]
