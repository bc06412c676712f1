"""The slim and the RFB network of Ultra-Light-Fast-Generic-Face-Detector-1MB, and the same with landmarks.

Those are of Face-Detector-1MB-with-landmark. All share one skeleton under other names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..graph import Add, Concat
from .builder import INPUT

if TYPE_CHECKING:
    from .builder import Builder

# Channels and stride of each layer; the first is a plain convolution, the others depthwise and pointwise.
LAYERS = (
    (16, 2),
    (32, 1),
    (32, 2),
    (32, 1),
    (64, 2),
    (64, 1),
    (64, 1),
    (64, 1),
    (128, 2),
    (128, 1),
    (128, 1),
    (256, 2),
    (256, 1),
)
RFB_LAYER = 7  # where the RFB networks have their receptive field block
# Each level of priors: after which layer (13 is the extra one), and how many a cell.
LEVELS = ((7, 3), (10, 2), (12, 2), (13, 3))

# A receptive field block's branches: the channels of each convolution, and what is special about it.
_REDUCE = (8, {"kernel": 1, "activation": "none"})
_BRANCHES: tuple[tuple[tuple[int, dict[str, Any]], ...], ...] = (
    (_REDUCE, (16, {}), (16, {"dilation": 2, "activation": "none"})),
    (_REDUCE, (16, {}), (16, {"dilation": 3, "activation": "none"})),
    (_REDUCE, (12, {}), (16, {}), (16, {"dilation": 5, "activation": "none"})),
)


@dataclass(frozen=True)
class _Names:
    """What a training repository calls the skeleton's parts."""

    layers: tuple[str, ...]
    extra: str
    heads: tuple[tuple[str, str, int], ...]  # output, its modules, values per prior


_PLAIN = _Names(
    layers=tuple(f"base_net.{index}" for index in range(13)),
    extra="extras.0",
    heads=(("scores", "classification_headers", 2), ("boxes", "regression_headers", 4)),
)
_LANDMARK = _Names(
    layers=tuple(f"conv{index}" for index in range(1, 14)),
    extra="conv14",
    heads=(("scores", "conf", 2), ("boxes", "loc", 4), ("landmarks", "landm", 10)),
)


def with_landmarks(name: str) -> str:
    """What an array of slim or RFB is called in the same network with five landmarks."""
    own = (*_PLAIN.layers, _PLAIN.extra, *(modules for _, modules, _ in _PLAIN.heads))
    theirs = (*_LANDMARK.layers, _LANDMARK.extra, *(modules for _, modules, _ in _LANDMARK.heads))
    for one, other in zip(own, theirs):
        if name.startswith(f"{one}."):
            return other + name[len(one) :]
    raise ValueError(f"{name} is none of its arrays")


def draw(builder: Builder) -> tuple[str, ...]:
    """Slim or RFB with scores and boxes."""
    return _skeleton(builder, _PLAIN)


def draw_with_landmarks(builder: Builder) -> tuple[str, ...]:
    """The same with five landmarks."""
    return _skeleton(builder, _LANDMARK)


def _skeleton(builder: Builder, names: _Names) -> tuple[str, ...]:
    has_block = f"{names.layers[RFB_LAYER]}.shortcut.conv.weight" in builder.weights
    value = INPUT
    features = []
    for index, (name, (channels, stride)) in enumerate(zip(names.layers, LAYERS)):
        if index == 0:
            value = builder.conv(value, f"{name}.0", f"{name}.1", channels, stride=stride)
        elif index == RFB_LAYER and has_block:
            value = _receptive_field_block(builder, value, name)
        else:
            value = builder.depthwise(value, f"{name}.0", f"{name}.1", stride=stride)
            value = builder.conv(value, f"{name}.3", f"{name}.4", channels, kernel=1)
        features.append(value)
    value = builder.conv(value, f"{names.extra}.0", None, 64, kernel=1)
    value = builder.depthwise(value, f"{names.extra}.2.0", None, stride=2)
    features.append(builder.conv(value, f"{names.extra}.2.2", None, 256, kernel=1))
    for output, head, values in names.heads:
        _head(builder, features, output, head, values)
    return tuple(output for output, _, _ in names.heads)


def _receptive_field_block(builder: Builder, value: str, name: str) -> str:
    """Branches of growing dilation, joined, beside a shortcut ("RFB Net", arXiv 1711.07767)."""

    def conv(data: str, part: str, channels: int, **options: Any) -> str:
        return builder.conv(data, f"{name}.{part}.conv", f"{name}.{part}.bn", channels, **options)

    ends = []
    for branch, convolutions in enumerate(_BRANCHES):
        end = value
        for index, (channels, options) in enumerate(convolutions):
            end = conv(end, f"branch{branch}.{index}", channels, **options)
        ends.append(end)
    joined = builder.emit(Concat(1), f"{name}.concat", *ends)
    linear = conv(joined, "ConvLinear", 64, kernel=1, activation="none")
    short = conv(value, "shortcut", 64, kernel=1, activation="none")
    return builder.emit(Add("relu"), f"{name}.add", linear, short)


def _head(builder: Builder, features: list[str], output: str, head: str, values: int) -> None:
    """One output, from every level: rows of `values` numbers, a row for each prior."""
    rows = []
    for level, (layer, priors) in enumerate(LEVELS):
        name, value = f"{head}.{level}", features[layer]
        if layer < len(LAYERS):
            value = builder.depthwise(value, f"{name}.0", None)
            last, kernel = f"{name}.2", 1
        else:
            last, kernel = name, 3
        value = builder.conv(value, last, None, priors * values, kernel=kernel, activation="none")
        rows.append(builder.rows(value, name, values))
    builder.head(output, head, rows)
