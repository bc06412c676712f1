"""Cross-layer equalisation: channels that are small next to their neighbours get steps of their own size.

After Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1:
relu(s x) = s relu(x) for s > 0, with a slope too, so a factor can move from one convolution to those behind it. There it equals
ranges of weights; here weights have a scale for each output channel, and what has one scale for all
channels is the value between, whose ranges were observed.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ..graph import Conv, LeakyRelu, Relu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ..graph import Graph, Node, Tensor
    from .observing import Statistics

    Factors = NDArray[np.float64]

# Channels that never get further than this share of the largest are as good as off; to blow them up to its
# range would only cost later weights.
_LEAST = 1e-3


def equalized(graph: Graph, statistics: Mapping[str, Statistics]) -> Graph:
    """A float32 network that computes the same, with less unequal channels inside.

    Args:
        graph: A network of which no two convolutions share a constant.
        statistics: What was observed in it.
    """
    tensors = dict(graph.tensors)
    for node in graph.nodes:
        values, readers = _behind(graph, node)
        if readers:
            relative = _relative([statistics[name].largest for name in values])
            factors = _factors(relative, readers, tensors)
            for name in node.inputs[1:]:
                _multiply(tensors, name, 1 / factors)
            for reader in readers:
                _multiply_inputs(tensors, reader, factors)
    return dataclasses.replace(graph, tensors=tensors)


def _behind(graph: Graph, node: Node) -> tuple[list[str], list[Node]]:
    """A convolution's output with what ReLUs make of it, and the convolutions that read those.

    None of these where a factor cannot pass or is seen outside.
    """
    if not isinstance(node.op, Conv) or node.op.activation == "relu6":
        return [], []
    values, convolutions = [node.output], []
    for name in values:
        readers = [other for other in graph.nodes if name in other.inputs]
        values += [other.output for other in readers if isinstance(other.op, (Relu, LeakyRelu))]
        rest = [other for other in readers if not isinstance(other.op, (Relu, LeakyRelu))]
        if name in graph.outputs or not all(isinstance(other.op, Conv) for other in rest):
            return [], []
        convolutions += rest
    return values, convolutions


def _relative(largest: Sequence[NDArray[np.float32]]) -> Factors:
    """(channels,) the range of each next to the largest one's, in whichever value that is most."""
    tiny = np.finfo(np.float32).tiny
    shares = [np.float64(one) / max(float(one.max()), tiny) for one in largest]
    found = np.maximum.reduce(shares)
    return np.asarray(np.where(found > _LEAST, found, 1.0))


def _factors(relative: Factors, readers: Sequence[Node], tensors: Mapping[str, Tensor]) -> Factors:
    """What each channel is divided by, at most 1: its range, where only depthwise convolutions read it.

    Those have a scale for each channel. In other ones a channel that is multiplied takes steps from its
    neighbours: there it is the geometric mean of what would equal the values and what would equal the weights.
    """
    shares = np.zeros(len(relative))
    for reader in readers:
        shares = np.maximum(shares, _shares(reader, tensors))
    if not shares.any():
        return relative
    factors = np.sqrt(relative / np.maximum(shares, _LEAST))
    return np.asarray(np.clip(factors / factors.max(), _LEAST, 1.0))


def _shares(reader: Node, tensors: Mapping[str, Tensor]) -> Factors:
    """(channels,) how much of the range of its weights each input channel takes, at most 1; 0 if depthwise."""
    weight = tensors[reader.inputs[1]].data
    assert weight is not None
    assert isinstance(reader.op, Conv)
    groups, per_group = reader.op.groups, weight.shape[1]
    if per_group == 1:
        return np.zeros(groups)
    sizes = np.abs(np.float64(weight)).max(axis=(2, 3))  # by output and input channel
    sizes /= np.maximum(sizes.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(sizes.reshape(groups, -1, per_group).max(axis=1).reshape(-1))


def _multiply_inputs(tensors: dict[str, Tensor], reader: Node, factors: Factors) -> None:
    assert isinstance(reader.op, Conv)
    name = reader.inputs[1]
    outputs, per_group = tensors[name].shape[:2]
    by_group = factors.reshape(reader.op.groups, per_group)
    _multiply(tensors, name, np.repeat(by_group, outputs // reader.op.groups, axis=0))


def _multiply(tensors: dict[str, Tensor], name: str, factors: Factors) -> None:
    """By output channel, or by output and input channel."""
    tensor = tensors[name]
    assert tensor.data is not None
    missing = len(tensor.shape) - factors.ndim
    product = np.float64(tensor.data) * factors.reshape(factors.shape + (1,) * missing)
    tensors[name] = dataclasses.replace(tensor, data=product.astype(np.float32))
