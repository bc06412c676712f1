"""RetinaFace, as PyTorch modules whose weights are called as in the released files of Pytorch_Retinaface.

`edgeface.networks.retinaface` has the same network as a Graph, and its constants.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..networks.retinaface import (
    HEADS,
    MOBILENET,
    MOBILENET_STAGES,
    PRIORS,
    RESNET50,
    RESNET50_EXPANSION,
    RESNET50_STAGES,
    Backbone,
)
from .blocks import Detector, Heads, conv_norm, conv_norm_relu, depthwise_separable, rows

if TYPE_CHECKING:
    from collections.abc import Sequence

MOBILENET_NAME = "retinaface-mobilenet0.25"
RESNET50_NAME = "retinaface-resnet50"
NETWORKS = (MOBILENET_NAME, RESNET50_NAME)


class RetinaFace(Detector):
    """One of NETWORKS: backbone, feature pyramid, context modules and heads."""

    def __init__(self, network: str, *, landmarks: bool, slope: float | None = None) -> None:
        super().__init__()
        backbone = RESNET50 if network == RESNET50_NAME else MOBILENET
        if slope is not None:
            backbone = replace(backbone, slope=slope)
        self.slope = backbone.slope
        self.body = ResNet50() if network == RESNET50_NAME else MobileNet(backbone.slope)
        self.fpn = Pyramid(backbone)
        self.ssh1, self.ssh2, self.ssh3 = (Context(backbone) for _ in backbone.stages)
        for output, name, values in HEADS:
            if landmarks or output != "landmarks":
                levels = (Head(backbone.pyramid, PRIORS * values) for _ in backbone.stages)
                self.add_module(name, nn.ModuleList(levels))

    def features(self, image: Tensor) -> list[Tensor]:
        levels = self.fpn(self.body(image))
        return [ssh(level) for ssh, level in zip((self.ssh1, self.ssh2, self.ssh3), levels)]

    def heads(self, features: Sequence[Tensor]) -> Heads:
        made: dict[str, Tensor | None] = {"landmarks": None}
        for output, name, values in HEADS:
            if hasattr(self, name):
                made[output] = rows(self.get_submodule(name), features, values)
        return Heads(**made)


class MobileNet(nn.Module):
    """A quarter of the width; an image -> the values of its three stages."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        before = 3
        for number, layers in enumerate(MOBILENET_STAGES, 1):
            stage = nn.Sequential()
            for after, stride in layers:
                block = conv_norm_relu if before == 3 else depthwise_separable
                stage.append(block(before, after, stride, slope=slope))
                before = after
            self.add_module(f"stage{number}", stage)

    def forward(self, image: Tensor) -> list[Tensor]:
        values = [image]
        for stage in self.children():
            values.append(stage(values[-1]))
        return values[1:]


class ResNet50(nn.Module):
    """Named as torchvision's; an image -> the values of its last three stages."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_norm(3, 64, 7, 2)
        before = 64
        for number, (blocks, inside, stride) in enumerate(RESNET50_STAGES, 1):
            layer = nn.Sequential()
            for index in range(blocks):
                layer.append(Bottleneck(before, inside, stride if index == 0 else 1))
                before = RESNET50_EXPANSION * inside
            self.add_module(f"layer{number}", layer)

    def forward(self, image: Tensor) -> list[Tensor]:
        value = functional.relu(self.bn1(self.conv1(image)), inplace=True)
        values = [functional.max_pool2d(value, 3, 2, 1)]
        for number in range(1, len(RESNET50_STAGES) + 1):
            values.append(self.get_submodule(f"layer{number}")(values[-1]))
        return values[2:]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 beside a shortcut ("Deep Residual Learning", arXiv 1512.03385, figure 5)."""

    def __init__(self, before: int, inside: int, stride: int) -> None:
        super().__init__()
        after = RESNET50_EXPANSION * inside
        self.conv1, self.bn1 = conv_norm(before, inside, 1)
        self.conv2, self.bn2 = conv_norm(inside, inside, 3, stride)
        self.conv3, self.bn3 = conv_norm(inside, after, 1)
        self.downsample = None
        if before != after or stride != 1:
            self.downsample = nn.Sequential(*conv_norm(before, after, 1, stride))

    def forward(self, data: Tensor) -> Tensor:
        short = data if self.downsample is None else self.downsample(data)
        value = functional.relu(self.bn1(self.conv1(data)), inplace=True)
        value = functional.relu(self.bn2(self.conv2(value)), inplace=True)
        return functional.relu(self.bn3(self.conv3(value)) + short, inplace=True)


class Pyramid(nn.Module):
    """Every level with what the next coarser one saw, the finest first ("FPN", arXiv 1612.03144)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        channels, slope = backbone.pyramid, backbone.slope
        self.output1, self.output2, self.output3 = (
            conv_norm_relu(before, channels, kernel=1, slope=slope) for before in backbone.stages
        )
        self.merge1 = conv_norm_relu(channels, channels, slope=slope)
        self.merge2 = conv_norm_relu(channels, channels, slope=slope)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        fine, middle, coarse = stages
        coarse = self.output3(coarse)
        middle = self.output2(middle)
        middle = self.merge2(middle + _upsampled(coarse, middle))
        fine = self.output1(fine)
        fine = self.merge1(fine + _upsampled(middle, fine))
        return [fine, middle, coarse]


class Context(nn.Module):
    """What 3x3, 5x5 and 7x7 pixels around see ("SSH", arXiv 1708.03979, section 3.3)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        channels, slope = backbone.pyramid, backbone.slope
        half, quarter = channels // 2, channels // 4
        self.conv3X3 = nn.Sequential(*conv_norm(channels, half, 3))
        self.conv5X5_1 = conv_norm_relu(channels, quarter, slope=slope)
        self.conv5X5_2 = nn.Sequential(*conv_norm(quarter, quarter, 3))
        self.conv7X7_2 = conv_norm_relu(quarter, quarter, slope=slope)
        self.conv7x7_3 = nn.Sequential(*conv_norm(quarter, quarter, 3))

    def forward(self, data: Tensor) -> Tensor:
        shared = self.conv5X5_1(data)
        middle, large = self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared))
        return functional.relu(torch.cat((self.conv3X3(data), middle, large), 1))


class Head(nn.Module):
    """One output of one level."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(before, after, 1)

    def forward(self, data: Tensor) -> Tensor:
        return self.conv1x1(data)


def _upsampled(data: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(data, like.shape[-2:], mode="nearest")
