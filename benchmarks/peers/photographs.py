"""Photographs as a network's input and back, and the faces in its heads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edgeface import _core, media, model
from edgeface.faces import Faces

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from edgeface.spec import ModelSpec

    from . import Floats, Heads


def read(source: Path, spec: ModelSpec) -> Iterator[tuple[str, Floats]]:
    """Name and (1, 3, H, W) input of a photograph, or of every one in a folder."""
    files = sorted(p for p in source.iterdir() if _is_image(p)) if source.is_dir() else [source]
    if not files:
        raise SystemExit(f"{source} holds no photographs")
    for path in files:
        frame = media.read_image(path)
        yield path.name, _core.preprocess(frame, model.core_spec(spec), "bgr")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in media.IMAGE_SUFFIXES


def write(
    folder: str, images: Sequence[Floats], mean: Sequence[float], scale: Sequence[float]
) -> None:
    """Pictures that become these (1, 3, H, W) RGB inputs again with that mean and scale."""
    for i, image in enumerate(images):
        pixels = image[0].transpose(1, 2, 0) / np.float32(scale) + np.float32(mean)
        rounded: NDArray[np.uint8] = np.rint(pixels).astype(np.uint8)
        cv2.imwrite(str(Path(folder) / f"{i}.png"), rounded[..., ::-1])


def faces(heads: Heads, spec: ModelSpec) -> Faces:
    """By edgeface's own decoding, whichever runtime computed them; in input pixels."""
    scores, boxes = heads
    rows = _core.decode(scores, boxes, None, model.core_spec(spec), spec.score_threshold)
    return Faces(_core.non_max_suppression(rows, nms_options(spec)))


def nms_options(spec: ModelSpec) -> _core.Options:
    """As a detector's own, hard."""
    return _core.Options(
        score_threshold=spec.score_threshold,
        iou_threshold=spec.iou_threshold,
        nms="hard",
        max_faces=750,
        pre_nms_top_k=5000,
        min_face=0.0,
    )
