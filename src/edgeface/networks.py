"""Networks that are published as PyTorch weights -> Graph.

A state dict names its arrays but not the operations between them: those stand here, for the slim and
the RFB network of Ultra-Light-Fast-Generic-Face-Detector-1MB and for the variants with five landmarks
of Face-Detector-1MB-with-landmark. All share one skeleton under other names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ModelError
from .graph import (
    Add,
    Concat,
    Conv,
    Graph,
    Node,
    Op,
    Reshape,
    Softmax,
    Tensor,
    Transpose,
    infer_shape,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Weights = Mapping[str, NDArray[Any]]

INPUT = "input"
DEFAULT_SIZE = (320, 240)  # weights do not know the size of their input
EPSILON = 1e-5  # of every BatchNorm in these networks; not stored either

# Channels and stride of each layer; the first is a plain convolution, the others depthwise and pointwise.
_LAYERS = (
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
_RFB_LAYER = 7  # where the RFB networks have their receptive field block
# Each level of priors: after which layer (13 is the extra one), and how many a cell.
_LEVELS = ((7, 3), (10, 2), (12, 2), (13, 3))

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


_ULTRAFACE = _Names(
    layers=tuple(f"base_net.{index}" for index in range(13)),
    extra="extras.0",
    heads=(("scores", "classification_headers", 2), ("boxes", "regression_headers", 4)),
)
_LANDMARK = _Names(
    layers=tuple(f"conv{index}" for index in range(1, 14)),
    extra="conv14",
    heads=(("scores", "conf", 2), ("boxes", "loc", 4), ("landmarks", "landm", 10)),
)

# One array that tells each network from the others.
_KNOWN = {"base_net.0.0.weight": _ULTRAFACE, "landm.3.weight": _LANDMARK}
_UNSUPPORTED = {
    "ClassHead.0.conv1x1.weight": "RetinaFace, which is not supported yet: it needs leaky ReLU and "
    "upsampling",
    "stage1.0.0.weight": "the pretrained backbone of RetinaFace, which finds no faces by itself",
}


def build(weights: Weights, size: tuple[int, int] = DEFAULT_SIZE) -> Graph:
    """The network with these weights for inputs of (width, height); BatchNorm is folded.

    Input "input" (1, 3, height, width); outputs "scores" (1, priors, 2) after softmax, "boxes"
    (1, priors, 4) and, where it has them, "landmarks" (1, priors, 10), both raw offsets.

    Raises:
        ModelError: It is no network known here, or an array is missing, unexpected or misshapen.
    """
    names = _recognised(weights)
    builder = _Builder(weights, size)
    _skeleton(builder, names, has_block=_has_block(weights, names))
    return builder.finish(tuple(output for output, _, _ in names.heads))


def _recognised(weights: Weights) -> _Names:
    for key, names in _KNOWN.items():
        if key in weights:
            return names
    for key, what in _UNSUPPORTED.items():
        if key in weights:
            raise ModelError(f"these are weights of {what}")
    found = ", ".join(list(weights)[:3])
    raise ModelError(
        "these are weights of no network known here (slim or RFB, with landmarks or without): "
        f"{found:.200}, ..."
    )


def _has_block(weights: Weights, names: _Names) -> bool:
    return f"{names.layers[_RFB_LAYER]}.shortcut.conv.weight" in weights


def _skeleton(builder: _Builder, names: _Names, *, has_block: bool) -> None:
    value = INPUT
    features = []
    for index, (name, (channels, stride)) in enumerate(zip(names.layers, _LAYERS)):
        if index == 0:
            value = builder.conv(value, f"{name}.0", f"{name}.1", channels, stride=stride)
        elif index == _RFB_LAYER and has_block:
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


def _receptive_field_block(builder: _Builder, value: str, name: str) -> str:
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


def _head(builder: _Builder, features: list[str], output: str, head: str, values: int) -> None:
    """One output, from every level: rows of `values` numbers, a row for each prior."""
    rows = []
    for level, (layer, priors) in enumerate(_LEVELS):
        name, value = f"{head}.{level}", features[layer]
        if layer < len(_LAYERS):
            value = builder.depthwise(value, f"{name}.0", None)
            last, kernel = f"{name}.2", 1
        else:
            last, kernel = name, 3
        value = builder.conv(value, last, None, priors * values, kernel=kernel, activation="none")
        value = builder.emit(Transpose((0, 2, 3, 1)), f"{name}.transpose", value)
        rows.append(builder.emit(Reshape((1, -1, values)), f"{name}.reshape", value))
    if output != "scores":
        builder.emit(Concat(1), output, *rows)
    else:
        builder.emit(Softmax(2), output, builder.emit(Concat(1), f"{head}.concat", *rows))


class _Builder:
    """A graph that grows, and the names of the arrays it has used; a node is called as its output."""

    def __init__(self, weights: Weights, size: tuple[int, int]) -> None:
        width, height = size
        self.weights = weights
        self.used: set[str] = set()
        self.nodes: list[Node] = []
        self.tensors = {INPUT: Tensor(INPUT, (1, 3, height, width))}

    def emit(self, op: Op, name: str, *inputs: str) -> str:
        node = Node(op, name, inputs, name)
        shape = infer_shape(node, [self.tensors[source].shape for source in inputs])
        self.nodes.append(node)
        self.tensors[name] = Tensor(name, shape)
        return name

    def conv(
        self,
        data: str,
        name: str,
        norm: str | None,  # the BatchNorm behind it; without one it has a bias
        channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        activation: str = "relu",
    ) -> str:
        before = self.tensors[data].shape[1]
        shape = (channels, before // groups, kernel, kernel)
        weight = self.take(f"{name}.weight", shape)
        if norm is None:
            shift = self.take(f"{name}.bias", (channels,))
        else:
            factor, shift = self.affine(norm, channels)
            with np.errstate(over="ignore", invalid="ignore"):  # Graph refuses what is not finite
                weight = weight * factor[:, None, None, None]
        pad = dilation * (kernel // 2)
        op = Conv((stride, stride), (dilation, dilation), (pad,) * 4, groups, activation)
        weight_name = self.constant(f"{name}.weight", weight)
        return self.emit(op, name, data, weight_name, self.constant(f"{name}.bias", shift))

    def depthwise(self, data: str, name: str, norm: str | None, *, stride: int = 1) -> str:
        channels = self.tensors[data].shape[1]
        return self.conv(data, name, norm, channels, stride=stride, groups=channels)

    def affine(self, name: str, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """BatchNorm as x * factor + shift."""
        gamma, beta, mean, variance = (
            self.take(f"{name}.{part}", (channels,))
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        self.used.add(f"{name}.num_batches_tracked")  # counts training steps; PyTorch 0.4 began to
        if not (variance > -EPSILON).all():
            raise ModelError(f"'{name}.running_var' holds a variance that is not positive")
        with np.errstate(over="ignore", invalid="ignore"):
            factor = gamma / np.sqrt(variance + EPSILON)
            return factor, beta - mean * factor

    def take(self, key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        values = self.weights.get(key)
        if values is None:
            raise ModelError(f"the weights lack '{key}', of shape {shape}")
        if values.shape != shape or values.dtype.kind != "f":
            found = f"{values.dtype} {values.shape}"
            raise ModelError(f"the weights '{key}' are {found}; expected floats {shape}")
        self.used.add(key)
        return values.astype(np.float64)

    def constant(self, name: str, values: NDArray[np.float64]) -> str:
        with np.errstate(over="ignore"):
            data = values.astype(np.float32)
        self.tensors[name] = Tensor(name, data.shape, data=data)
        return name

    def finish(self, outputs: tuple[str, ...]) -> Graph:
        unexpected = sorted(set(self.weights) - self.used)
        if unexpected:
            raise ModelError(
                f"the weights have {len(unexpected)} arrays too many: "
                f"{', '.join(unexpected[:3]):.200}"
            )
        return Graph(tuple(self.nodes), self.tensors, INPUT, outputs)
