"""Models, opened for the protocol, and what they find in every scene."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import fitting, model
from ..detector import FaceDetector

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

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
    input_size: tuple[int, int] | None  # None: it follows each frame
    resize: str  # begins with stretch or letterbox, and may have more words
    backend: str
    score_threshold: float  # its own: from where on its users see a face
    follow: Callable[[tuple[int, int]], tuple[int, int]] | None = (
        None  # a frame's size -> its input's
    )

    def scale(self, frame_size: tuple[int, int]) -> float:
        """Input pixels a frame pixel, along the height."""
        size = self.input_size
        if size is None:
            assert self.follow is not None
            size = self.follow(frame_size)
        across, down = (i / f for i, f in zip(size, frame_size))
        return min(across, down) if self.resize.startswith("letterbox") else down


@dataclass(frozen=True, eq=False)
class Found:
    """What one candidate finds in every scene."""

    rows: tuple[NDArray[np.float32], ...]  # (N, 5) or (N, 15) as in Faces, best score first
    sizes: tuple[tuple[int, int], ...]  # width, height of every frame


def open_model(path: str | os.PathLike[str], name: str = "", **options: Any) -> Candidate:
    """A model file with a detector's options.

    Args:
        path: As FaceDetector's.
        name: What figures call it; by default its path.
        options: FaceDetector's, but for those that the protocol sets: thresholds and counts. `input_size`,
            `max_side`, `min_face` and `levels` are told with the figures.

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
    used, own = detector.spec.input, model.load(path, options.get("spec")).spec
    follow = None
    if options.get("input_size") == fitting.FRAME:
        side, stride = options.get("max_side", fitting.MAX_SIDE), max(own.priors.strides)
        follow = functools.partial(fitting.followed, max_side=side, stride=stride)
    return Candidate(
        name or str(path),
        detector.detect,
        (used.width, used.height) if follow is None else None,
        ", ".join([used.resize, *_words(options)]),
        str(detector.backend),
        own.score_threshold,
        follow,
    )


def _words(options: Mapping[str, Any]) -> Iterator[str]:
    """What else decides which faces are found at all."""
    if options.get("input_size") == fitting.FRAME:
        yield f"input as the frame, up to {options.get('max_side', fitting.MAX_SIDE)}"
    if options.get("min_face", 0) > 0:
        yield f"faces from {options['min_face']:g} pixels"
    if options.get("levels") is not None:
        yield f"levels {' '.join(map(str, options['levels']))}"


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
