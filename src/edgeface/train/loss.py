"""What a batch costs: MultiboxLoss, and how far a student is from its teacher."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from .priors import NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .blocks import Heads
    from .priors import Targets


class Losses(NamedTuple):
    """Scalars, each a mean over positive priors."""

    scores: Tensor
    boxes: Tensor
    landmarks: Tensor


class Taught(NamedTuple):
    """Scalars: how far a student is from its teacher."""

    scores: Tensor
    boxes: Tensor
    features: Tensor


def multibox_loss(
    heads: Heads, targets: Targets, *, negatives: float, spared: Tensor | None = None
) -> Losses:
    """Cross-entropy and smooth L1 ("SSD", arXiv 1512.02325, section 2.2).

    Args:
        heads: What the network says.
        targets: What it should say.
        negatives: So many of an image's negatives for each of its positives count: the hardest.
        spared: (N, P) bool, negatives that never count.
    """
    scores = heads.scores.float()
    positive = targets.labels == POSITIVE
    candidates = targets.labels == NEGATIVE
    if spared is not None:
        candidates = candidates & ~spared
    counted = positive | hardest(scores, positive, candidates, negatives)
    wanted = positive.long()
    count = positive.sum().clamp(min=1)
    cross_entropy = functional.cross_entropy(scores[counted], wanted[counted], reduction="sum")
    boxes = _smooth_l1(heads.boxes, targets.boxes, positive)
    landmarks = scores.new_zeros(())
    if heads.landmarks is not None:
        known = targets.has_landmarks
        landmarks = _smooth_l1(heads.landmarks, targets.landmarks, known)
        landmarks = landmarks / known.sum().clamp(min=1)
    return Losses(cross_entropy / count, boxes / count, landmarks)


def endless(targets: Targets, *, landmarks: bool) -> list[int]:
    """Which images of a batch have labels that cost more than a number can say, whatever a network says."""
    distance = torch.where(targets.labels == POSITIVE, targets.boxes.abs().sum(-1), 0.0)
    if landmarks:
        distance = distance + torch.where(
            targets.has_landmarks, targets.landmarks.abs().sum(-1), 0.0
        )
    return [i for i, cost in enumerate(distance.sum(1).tolist()) if not math.isfinite(cost)]


def hardest(scores: Tensor, positive: Tensor, candidates: Tensor, ratio: float) -> Tensor:
    """(N, P) bool: of each image the `ratio` * positives candidates that look most like a face.

    An image without a face has `ratio` of them: it would teach nothing otherwise.
    """
    with torch.no_grad():
        cost = functional.softplus(scores[..., 1] - scores[..., 0])
        cost = torch.where(candidates, cost, -1.0)
        rank = cost.argsort(1, descending=True).argsort(1)
        wanted = ratio * positive.sum(1, keepdim=True).clamp(min=1)
        return candidates & (rank < wanted)


def distillation_loss(
    student: Heads, teacher: Heads, *, temperature: float, confident: float
) -> tuple[Tensor, Tensor]:
    """Divergence of the scores ("Distilling the Knowledge", arXiv 1503.02531) and smooth L1 of the offsets.

    Every prior counts in the scores, each as much as its image's share of the teacher's faces. Offsets count
    where the teacher's score reaches `confident`, and by that score.
    """
    with torch.no_grad():
        face = teacher.scores.float().softmax(-1)[..., 1]
        soft = (teacher.scores.float() / temperature).softmax(-1)
        count = face.sum().clamp(min=1)
    said = functional.log_softmax(student.scores.float() / temperature, -1)
    divergence = functional.kl_div(said, soft, reduction="sum") * temperature**2
    return divergence / count, _where_sure(student.boxes, teacher.boxes, face, confident)


def landmark_distillation_loss(student: Heads, teacher: Heads, *, confident: float) -> Tensor:
    """Smooth L1 of the landmarks' offsets, where and as those of boxes count; 0 without any."""
    if student.landmarks is None or teacher.landmarks is None:
        return student.scores.new_zeros(())
    face = teacher.scores.float().softmax(-1)[..., 1]
    return _where_sure(student.landmarks, teacher.landmarks, face, confident)


def _where_sure(said: Tensor, wanted: Tensor, face: Tensor, confident: float) -> Tensor:
    """Smooth L1, by the teacher's score where that reaches `confident`."""
    weight = torch.where(face >= confident, face, 0.0)
    distance = functional.smooth_l1_loss(said.float(), wanted.float(), reduction="none")
    return (distance.sum(-1) * weight).sum() / weight.sum().clamp(min=1)


def feature_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Squared distance of what the heads look at over its mean square, the mean of all levels.

    "FitNets" (arXiv 1412.6550, section 2.2), without their regressor: student and teacher are of one shape.
    """
    parts = []
    for ours, theirs in zip(student, teacher):
        wanted = theirs.float()
        distance = (ours.float() - wanted).square().mean()
        parts.append(distance / wanted.square().mean().clamp(min=1e-6))
    return torch.stack(parts).mean()


def _smooth_l1(said: Tensor, wanted: Tensor, where: Tensor) -> Tensor:
    return functional.smooth_l1_loss(said[where].float(), wanted[where], reduction="sum")
