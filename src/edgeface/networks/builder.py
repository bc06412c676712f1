"""A graph that grows from weights, layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError
from ..graph import (
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
EPSILON = 1e-5  # of every BatchNorm in these networks; not stored


class Builder:
    """A graph that grows, and the names of the arrays it has used; a node is called as its output."""

    def __init__(self, weights: Weights, size: tuple[int, int], slope: float | None) -> None:
        width, height = size
        self.weights = weights
        self.slope = slope  # of leaky ReLUs; None: as the skeleton has them
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
        slope: float = 0.0,
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
        op = Conv((stride, stride), (dilation, dilation), (pad,) * 4, groups, activation, slope)
        weight_name = self.constant(f"{name}.weight", weight)
        return self.emit(op, name, data, weight_name, self.constant(f"{name}.bias", shift))

    def depthwise(
        self, data: str, name: str, norm: str | None, *, stride: int = 1, **activation: Any
    ) -> str:
        channels = self.tensors[data].shape[1]
        return self.conv(data, name, norm, channels, stride=stride, groups=channels, **activation)

    def rows(self, data: str, name: str, values: int) -> str:
        """An image's values, `values` a row: the priors of a cell next to each other, cells row by row."""
        last = self.emit(Transpose((0, 2, 3, 1)), f"{name}.transpose", data)
        return self.emit(Reshape((1, -1, values)), f"{name}.reshape", last)

    def head(self, output: str, name: str, levels: list[str]) -> None:
        """An output: rows of every level one after another, scores behind a softmax."""
        if output != "scores":
            self.emit(Concat(1), output, *levels)
        else:
            self.emit(Softmax(2), output, self.emit(Concat(1), f"{name}.concat", *levels))

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
