"""What networks are built from in PyTorch, and what all of them offer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from ..networks import EPSILON
from .depthwise import Depthwise

if TYPE_CHECKING:
    from collections.abc import Sequence

# How far the running mean and variance follow each batch; PyTorch's own default.
_MOMENTUM = 0.1


class Heads(NamedTuple):
    """A network's outputs, a row for every prior; the scores are logits: background, face."""

    scores: Tensor  # (N, priors, 2)
    boxes: Tensor  # (N, priors, 4) offsets
    landmarks: Tensor | None  # (N, priors, 10) offsets


class Detector(nn.Module):
    """Features, level by level, and heads that look at them."""

    def features(self, image: Tensor) -> list[Tensor]:
        """(N, 3, height, width) float32, (pixel - mean) * scale -> a value for every level of priors."""
        raise NotImplementedError

    def heads(self, features: Sequence[Tensor]) -> Heads:
        raise NotImplementedError

    def forward(self, image: Tensor) -> Heads:
        """(N, 3, height, width) float32, (pixel - mean) * scale -> Heads."""
        return self.heads(self.features(image))


def conv_norm_relu(
    before: int, after: int, stride: int = 1, *, kernel: int = 3, slope: float = 0.0
) -> nn.Sequential:
    """A convolution without bias, BatchNorm, ReLU."""
    return nn.Sequential(*conv_norm(before, after, kernel, stride), relu(slope))


def depthwise_separable(
    before: int, after: int, stride: int = 1, *, slope: float = 0.0
) -> nn.Sequential:
    """3x3 on each channel, then 1x1 across them; BatchNorm and ReLU behind each (MobileNet)."""
    return nn.Sequential(
        Depthwise(before, stride, bias=False),
        _norm(before),
        relu(slope),
        *conv_norm(before, after, 1),
        relu(slope),
    )


def conv_norm(
    before: int, after: int, kernel: int, stride: int = 1, *, dilation: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    pad = dilation * (kernel // 2)
    conv = nn.Conv2d(before, after, kernel, stride, pad, dilation, bias=False)
    return conv, _norm(after)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON, momentum=_MOMENTUM)


def relu(slope: float) -> nn.Module:
    """Leaky where there is a slope below zero."""
    return nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)


def rows(head: nn.ModuleList, features: Sequence[Tensor], values: int) -> Tensor:
    """(N, priors, values): of each level, row by row, the priors of a cell next to each other."""
    made = []
    for module, feature in zip(head, features):
        last = module(feature).permute(0, 2, 3, 1)
        made.append(last.reshape(last.shape[0], -1, values))
    return torch.cat(made, 1)
