"""Priors, box coding and matching: the counterpart of the core's priors and decode, in PyTorch.

Boxes are corners x1, y1, x2, y2 relative to the input (0 to 1), as the priors are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..spec import PriorSpec

# What cpp/decode.cpp allows a box to be, as the logarithm of its size over its prior's.
MAX_LOG_SCALE = 10.0
# Below this share of its own area or of both a prior does not look at an ignored face: then it may be a
# negative. Faces of 4 px are ignored, too, and cover 0.16 of the smallest prior (10 px).
_IGNORED_OWN_SHARE = 0.5
_IGNORED_IOU = 0.1

POSITIVE, NEGATIVE, NEITHER = 1, 0, -1


def make_priors(spec: PriorSpec, size: tuple[int, int]) -> Tensor:
    """(P, 4) float32 centre x, y and width, height, relative to an input of (width, height)."""
    width, height = size
    levels = []
    for stride, min_sizes in zip(spec.strides, spec.min_sizes):
        x = _centres(spec.grid, stride, width)
        y = _centres(spec.grid, stride, height)
        sides = torch.tensor(min_sizes, dtype=torch.float64)
        rows, columns, count = len(y), len(x), len(sides)
        level = torch.empty(rows, columns, count, 4, dtype=torch.float64)
        level[..., 0] = x[None, :, None]
        level[..., 1] = y[:, None, None]
        level[..., 2] = sides / width
        level[..., 3] = sides / height
        levels.append(level.reshape(-1, 4))
    priors = torch.cat(levels)
    return (priors.clamp(0, 1) if spec.clip else priors).float()


def _centres(grid: str, stride: int, size: int) -> Tensor:
    count = -(-size // stride)
    index = torch.arange(count, dtype=torch.float64) + 0.5
    return index / count if grid == "cell" else index * stride / size


def encode(boxes: Tensor, priors: Tensor, variances: tuple[float, float]) -> Tensor:
    """(..., P, 4) boxes, each with an area -> offsets from their priors; the inverse of `decode`."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    size = boxes[..., 2:] - boxes[..., :2]
    move = (centre - priors[:, :2]) / (priors[:, 2:] * variances[0])
    scale = torch.log(size / priors[:, 2:]) / variances[1]
    return torch.cat((move, scale), -1)


def decode(offsets: Tensor, priors: Tensor, variances: tuple[float, float]) -> Tensor:
    """(..., P, 4) offsets -> boxes."""
    centre = priors[:, :2] + offsets[..., :2] * variances[0] * priors[:, 2:]
    scale = (offsets[..., 2:] * variances[1]).clamp(max=MAX_LOG_SCALE)
    half = priors[:, 2:] * torch.exp(scale) / 2
    return torch.cat((centre - half, centre + half), -1)


def encode_points(points: Tensor, priors: Tensor, variances: tuple[float, float]) -> Tensor:
    """(..., P, 5, 2) points relative to the input -> (..., P, 10) offsets."""
    moved = (points - priors[:, None, :2]) / (priors[:, None, 2:] * variances[0])
    return moved.flatten(-2)


def decode_points(offsets: Tensor, priors: Tensor, variances: tuple[float, float]) -> Tensor:
    """(..., P, 10) offsets -> (..., P, 5, 2)."""
    moved = offsets.unflatten(-1, (5, 2))
    return priors[:, None, :2] + moved * variances[0] * priors[:, None, 2:]


class Targets(NamedTuple):
    """What the heads should say about an image; of a batch, with N in front."""

    labels: Tensor  # (P,) int64: POSITIVE, NEGATIVE or NEITHER
    boxes: Tensor  # (P, 4) offsets, of use where positive
    landmarks: Tensor  # (P, 10) offsets, of use where `has_landmarks`
    has_landmarks: Tensor  # (P,) bool


def match(
    boxes: Tensor,
    landmarks: Tensor,
    is_ignored: Tensor,
    priors: Tensor,
    variances: tuple[float, float],
    *,
    iou_threshold: float,
) -> Targets:
    """Gives every prior a face, the background or neither ("SSD", arXiv 1512.02325, section 2.2).

    A prior is positive for the face that it overlaps most, where that is at least `iou_threshold`; and
    the best prior of each face is its, however little they overlap. Priors over ignored faces are neither.

    Args:
        boxes: (M, 4) relative to the input, each with an area.
        landmarks: (M, 5, 2) relative to the input, NaN where absent.
        is_ignored: (M,) bool: neither to be found nor background.
        priors: (P, 4) of `make_priors`.
        variances: Of the centre and of the size.
        iou_threshold: See above.
    """
    labels = torch.zeros(len(priors), dtype=torch.int64)
    targets = torch.zeros(len(priors), 4)
    points = torch.zeros(len(priors), 10)
    has_points = torch.zeros(len(priors), dtype=torch.bool)
    if is_ignored.any():
        iou, own_share = _overlaps(boxes[is_ignored], priors)
        over = (own_share >= _IGNORED_OWN_SHARE) | (iou >= _IGNORED_IOU)
        labels[over.any(0)] = NEITHER
    boxes, landmarks = boxes[~is_ignored], landmarks[~is_ignored]
    if len(boxes) > 0:
        overlap, which = _best_faces(_overlaps(boxes, priors)[0])
        at = (overlap >= iou_threshold).nonzero()[:, 0]
        which = which[at]
        labels[at] = POSITIVE
        targets[at] = encode(boxes[which], priors[at], variances)
        encoded = encode_points(landmarks[which], priors[at], variances)
        has_points[at] = encoded.isfinite().all(1)
        points[at] = encoded.nan_to_num(0.0)
    return Targets(labels, targets, points, has_points)


def corners(priors: Tensor) -> Tensor:
    """(P, 4) x1, y1, x2, y2 of priors."""
    return torch.cat((priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2), 1)


def _overlaps(boxes: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """(M, P) intersection over union, and over the prior's area."""
    prior = corners(priors).T.contiguous()
    x1, y1, x2, y2 = boxes[..., None].unbind(1)
    width = torch.minimum(x2, prior[2]) - torch.maximum(x1, prior[0])
    height = torch.minimum(y2, prior[3]) - torch.maximum(y1, prior[1])
    shared = width.clamp_(min=0).mul_(height.clamp_(min=0))
    own = priors[:, 2] * priors[:, 3]
    return shared / (own + (x2 - x1) * (y2 - y1) - shared), shared / own


def _best_faces(iou: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) overlap and which face; each face has its best prior, of two with the same the later one."""
    overlap, which = iou.max(0)
    for face, prior in enumerate(iou.argmax(1).tolist()):
        overlap[prior], which[prior] = 2.0, face  # beyond any threshold
    return overlap, which
