"""The slim and RFB networks, as PyTorch modules whose weights are called as in the released files.

`edgeface.networks` has the same skeleton as a Graph and shares its constants: channels, strides and which
layer feeds which level of priors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..networks.ultraface import LAYERS, LEVELS, RFB_LAYER
from . import retinaface
from .blocks import Detector, Heads, conv_norm, conv_norm_relu, depthwise_separable, rows
from .depthwise import Depthwise

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NETWORKS = ("slim", "rfb", *retinaface.NETWORKS)


def make_network(network: str, *, landmarks: bool, slope: float | None = None) -> Detector:
    """One of NETWORKS with random weights; RetinaFace's leaky ReLUs have the usual slope unless given.

    Raises:
        ValueError: It is none of them.
    """
    if network not in NETWORKS:
        raise ValueError(f"unknown network {network!r}; known: {', '.join(NETWORKS)}")
    made: Detector
    if network in retinaface.NETWORKS:
        made = retinaface.RetinaFace(network, landmarks=landmarks, slope=slope)
    else:
        made = UltrafaceLandmark(network) if landmarks else Ultraface(network)
    made.apply(_initialise)
    return made


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Ultraface(Detector):
    """Slim or RFB with scores and boxes, named as in Ultra-Light-Fast-Generic-Face-Detector-1MB."""

    def __init__(self, network: str) -> None:
        super().__init__()
        self.base_net = nn.ModuleList(_layers(network))
        self.extras = nn.ModuleList([_extra()])
        self.classification_headers = _head(2)
        self.regression_headers = _head(4)

    def features(self, image: Tensor) -> list[Tensor]:
        return _features((*self.base_net, *self.extras), image)

    def heads(self, features: Sequence[Tensor]) -> Heads:
        scores = rows(self.classification_headers, features, 2)
        return Heads(scores, rows(self.regression_headers, features, 4), None)


class UltrafaceLandmark(Detector):
    """The same with five landmarks, named as in Face-Detector-1MB-with-landmark."""

    def __init__(self, network: str) -> None:
        super().__init__()
        for index, layer in enumerate((*_layers(network), _extra()), 1):
            self.add_module(f"conv{index}", layer)
        self.loc = _head(4)
        self.conf = _head(2)
        self.landm = _head(10)

    def features(self, image: Tensor) -> list[Tensor]:
        return _features([self.get_submodule(f"conv{index}") for index in range(1, 15)], image)

    def heads(self, features: Sequence[Tensor]) -> Heads:
        boxes, scores = rows(self.loc, features, 4), rows(self.conf, features, 2)
        return Heads(scores, boxes, rows(self.landm, features, 10))


def _layers(network: str) -> Iterable[nn.Module]:
    before = 3
    for index, (channels, stride) in enumerate(LAYERS):
        if index == 0:
            yield conv_norm_relu(before, channels, stride)
        elif index == RFB_LAYER and network == "rfb":
            yield ReceptiveField(before, channels)
        else:
            yield depthwise_separable(before, channels, stride)
        before = channels


def _extra() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(256, 64, 1),
        nn.ReLU(inplace=True),
        separable(64, 256, stride=2),
        nn.ReLU(inplace=True),
    )


def _head(values: int) -> nn.ModuleList:
    """A module for every level of priors; the last looks at 3x3 of all channels."""
    last = len(LAYERS)
    made: list[nn.Module] = []
    for layer, priors in LEVELS:
        if layer < last:
            made.append(separable(LAYERS[layer][0], priors * values))
        else:
            made.append(nn.Conv2d(256, priors * values, 3, padding=1))
    return nn.ModuleList(made)


def _features(layers: Sequence[nn.Module], image: Tensor) -> list[Tensor]:
    used = {layer for layer, _ in LEVELS}
    features, value = [], image
    for index, layer in enumerate(layers):
        value = layer(value)
        if index in used:
            features.append(value)
    return features


def separable(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """3x3 on each channel, ReLU, 1x1 across them; with bias, without BatchNorm."""
    return nn.Sequential(
        Depthwise(before, stride),
        nn.ReLU(inplace=True),
        nn.Conv2d(before, after, 1),
    )


class ReceptiveField(nn.Module):
    """Branches of growing dilation, joined, beside a shortcut ("RFB Net", arXiv 1711.07767)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        narrow, wide = before // 8, before // 4
        self.branch0 = nn.Sequential(
            _Basic(before, narrow, 1, relu=False),
            _Basic(narrow, wide, 3),
            _Basic(wide, wide, 3, dilation=2, relu=False),
        )
        self.branch1 = nn.Sequential(
            _Basic(before, narrow, 1, relu=False),
            _Basic(narrow, wide, 3),
            _Basic(wide, wide, 3, dilation=3, relu=False),
        )
        self.branch2 = nn.Sequential(
            _Basic(before, narrow, 1, relu=False),
            _Basic(narrow, narrow // 2 * 3, 3),
            _Basic(narrow // 2 * 3, wide, 3),
            _Basic(wide, wide, 3, dilation=5, relu=False),
        )
        self.ConvLinear = _Basic(3 * wide, after, 1, relu=False)
        self.shortcut = _Basic(before, after, 1, relu=False)

    def forward(self, data: Tensor) -> Tensor:
        joined = torch.cat((self.branch0(data), self.branch1(data), self.branch2(data)), 1)
        return functional.relu(self.ConvLinear(joined) + self.shortcut(data))


class _Basic(nn.Module):
    """A convolution and its BatchNorm, under the names that the block's weights have."""

    def __init__(
        self, before: int, after: int, kernel: int, *, dilation: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv, self.bn = conv_norm(before, after, kernel, dilation=dilation)
        self.relu = relu

    def forward(self, data: Tensor) -> Tensor:
        data = self.bn(self.conv(data))
        return functional.relu(data, inplace=True) if self.relu else data
