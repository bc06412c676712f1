"""RetinaFace (arXiv 1905.00641) as published in Pytorch_Retinaface, with a MobileNet or a ResNet-50.

A backbone's last three stages, a feature pyramid ("FPN", arXiv 1612.03144) over them, a context module
("SSH", arXiv 1708.03979, section 3.3) on each of its levels, and heads of 1x1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..graph import Add, Concat, MaxPool, Upsample
from .builder import INPUT

if TYPE_CHECKING:
    from .builder import Builder


@dataclass(frozen=True)
class Backbone:
    """What depends on it: channels of its last three stages and of the pyramid above them."""

    stages: tuple[int, int, int]
    pyramid: int
    slope: float  # below zero, of the ReLUs in the pyramid, the context modules and a MobileNet


# The training code makes these leaky where the pyramid is narrow, of at most 64 channels.
MOBILENET = Backbone(stages=(64, 128, 256), pyramid=64, slope=0.1)
RESNET50 = Backbone(stages=(512, 1024, 2048), pyramid=256, slope=0.0)

# MobileNet (arXiv 1704.04861) of a quarter of the width: channels and stride of each stage's layers. The very
# first is a plain convolution, the others depthwise and pointwise.
MOBILENET_STAGES = (
    ((8, 2), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)),
    ((128, 2), (128, 1), (128, 1), (128, 1), (128, 1), (128, 1)),
    ((256, 2), (256, 1)),
)
# ResNet-50 (arXiv 1512.03385, table 1): blocks, channels inside them and stride of each stage. The stride is that
# of the 3x3, and not of the 1x1 before it as in the paper: so has torchvision it, whose weights it begins with.
RESNET50_STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
RESNET50_EXPANSION = 4  # channels of a block's output over those inside

PRIORS = 2  # a cell, on each of the three levels
# Output, its modules, values per prior.
HEADS = (("scores", "ClassHead", 2), ("boxes", "BboxHead", 4), ("landmarks", "LandmarkHead", 10))

# Told by an array of its own; one with neither is a MobileNet that lacks it.
_RESNET50_KEY = "body.conv1.weight"


def draw(builder: Builder) -> tuple[str, ...]:
    """All of it; without LandmarkHead it has no landmarks."""
    backbone = RESNET50 if _RESNET50_KEY in builder.weights else MOBILENET
    if builder.slope is not None:
        backbone = replace(backbone, slope=builder.slope)
    stages = (
        _resnet50(builder) if backbone.stages == RESNET50.stages else _mobilenet(builder, backbone)
    )
    levels = _pyramid(builder, backbone, stages)
    features = [
        _context(builder, backbone, value, f"ssh{index}") for index, value in enumerate(levels, 1)
    ]
    outputs = []
    for output, head, values in HEADS:
        if output == "landmarks" and not any(key.startswith(head) for key in builder.weights):
            continue
        _head(builder, features, output, head, values)
        outputs.append(output)
    return tuple(outputs)


def _activation(slope: float) -> dict[str, Any]:
    return {"activation": "leaky_relu", "slope": slope} if slope else {"activation": "relu"}


def _mobilenet(builder: Builder, backbone: Backbone) -> list[str]:
    """Values of the three stages."""
    leaky = _activation(backbone.slope)
    value, values = INPUT, []
    for number, layers in enumerate(MOBILENET_STAGES, 1):
        for index, (channels, stride) in enumerate(layers):
            name = f"body.stage{number}.{index}"
            if value == INPUT:
                value = builder.conv(
                    value, f"{name}.0", f"{name}.1", channels, stride=stride, **leaky
                )
                continue
            value = builder.depthwise(value, f"{name}.0", f"{name}.1", stride=stride, **leaky)
            value = builder.conv(value, f"{name}.3", f"{name}.4", channels, kernel=1, **leaky)
        values.append(value)
    return values


def _resnet50(builder: Builder) -> list[str]:
    """Values of the last three stages."""
    value = builder.conv(INPUT, "body.conv1", "body.bn1", 64, kernel=7, stride=2)
    value = builder.emit(MaxPool((3, 3), (2, 2), (1, 1, 1, 1)), "body.maxpool", value)
    values = []
    for number, (blocks, inside, stride) in enumerate(RESNET50_STAGES, 1):
        for index in range(blocks):
            name = f"body.layer{number}.{index}"
            value = _bottleneck(builder, value, name, inside, stride if index == 0 else 1)
        values.append(value)
    return values[1:]


def _bottleneck(builder: Builder, value: str, name: str, inside: int, stride: int) -> str:
    channels = RESNET50_EXPANSION * inside
    short = value
    if builder.tensors[value].shape[1] != channels or stride != 1:
        part = f"{name}.downsample"
        short = builder.conv(
            value, f"{part}.0", f"{part}.1", channels, kernel=1, stride=stride, activation="none"
        )
    value = builder.conv(value, f"{name}.conv1", f"{name}.bn1", inside, kernel=1)
    value = builder.conv(value, f"{name}.conv2", f"{name}.bn2", inside, stride=stride)
    value = builder.conv(
        value, f"{name}.conv3", f"{name}.bn3", channels, kernel=1, activation="none"
    )
    return builder.emit(Add("relu"), f"{name}.add", value, short)


def _pyramid(builder: Builder, backbone: Backbone, stages: list[str]) -> list[str]:
    """Every level with what the next coarser one saw, the finest first."""
    leaky = _activation(backbone.slope)
    levels = [
        builder.conv(
            value, f"fpn.output{i}.0", f"fpn.output{i}.1", backbone.pyramid, kernel=1, **leaky
        )
        for i, value in enumerate(stages, 1)
    ]
    for fine in (1, 0):
        name = f"fpn.merge{fine + 1}"
        coarse = builder.emit(Upsample(), f"{name}.up", levels[fine + 1], levels[fine])
        both = builder.emit(Add(), f"{name}.add", levels[fine], coarse)
        levels[fine] = builder.conv(both, f"{name}.0", f"{name}.1", backbone.pyramid, **leaky)
    return levels


def _context(builder: Builder, backbone: Backbone, value: str, name: str) -> str:
    """What 3x3, 5x5 and 7x7 pixels around see, the larger two by 3x3 after 3x3."""
    half, quarter, leaky = backbone.pyramid // 2, backbone.pyramid // 4, _activation(backbone.slope)

    def conv(data: str, part: str, channels: int, **activation: Any) -> str:
        part = f"{name}.{part}"
        return builder.conv(data, f"{part}.0", f"{part}.1", channels, **activation)

    # The ReLU behind the join is on each part here: the same values, and nothing to do for it.
    small = conv(value, "conv3X3", half)
    shared = conv(value, "conv5X5_1", quarter, **leaky)
    middle = conv(shared, "conv5X5_2", quarter)
    large = conv(conv(shared, "conv7X7_2", quarter, **leaky), "conv7x7_3", quarter)
    return builder.emit(Concat(1), f"{name}.concat", small, middle, large)


def _head(builder: Builder, features: list[str], output: str, head: str, values: int) -> None:
    """One output, from every level: rows of `values` numbers, a row for each prior."""
    rows = []
    for level, feature in enumerate(features):
        name = f"{head}.{level}"
        made = builder.conv(
            feature, f"{name}.conv1x1", None, PRIORS * values, kernel=1, activation="none"
        )
        rows.append(builder.rows(made, name, values))
    builder.head(output, head, rows)
