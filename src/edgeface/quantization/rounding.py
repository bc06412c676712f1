"""A float32 network in int8: weights and biases rounded, every value with its scale."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Conv, Graph, Quantization, Relu, Sigmoid, Softmax, Tensor
from .observing import STORED_LIMIT
from .ranges import groups, passed_on

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ..graph import Node
    from .observing import Statistics

    Values = NDArray[np.float64]

INT8, INT32 = np.dtype(np.int8), np.dtype(np.int32)
# Half of int32 is left for the products: 3x3x256 of them, each at most 127 * 127, are 2**25.
_LARGEST_BIAS = 2.0**30


def with_own_constants(graph: Graph) -> Graph:
    """The same network, no constant of which is read twice; every convolution has a bias."""
    tensors = {t.name: t for t in graph.tensors.values() if not t.is_constant}
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.op, Conv):
            data, *constants = node.inputs
            own = [graph.tensors[name] for name in constants]
            if len(own) == 1:
                zeros = np.zeros(own[0].shape[0], np.float32)
                own.append(Tensor(f"{node.output}/bias", zeros.shape, data=zeros))
            own = [dataclasses.replace(t, name=_free(t.name, tensors)) for t in own]
            tensors.update((t.name, t) for t in own)
            node = dataclasses.replace(node, inputs=(data, *(t.name for t in own)))  # noqa: PLW2901
        nodes.append(node)
    return dataclasses.replace(graph, nodes=tuple(nodes), tensors=tensors)


def _free(name: str, taken: Mapping[str, Tensor]) -> str:
    while name in taken:
        name += "_"
    return name


@dataclasses.dataclass(frozen=True)
class Rounding:
    """How a network is rounded.

    Args:
        scale_steps: Weight scales are powers of 2**(1 / scale_steps), rounded up, of which a file holds each
            once. 0 leaves them as they are.
        correct_biases: Biases take back by how much rounding the weights moves the mean of a convolution's
            sums (Nagel et al., 2019, section 4.2, with means that were observed).
        zero_points: What a ReLU makes has twice as many steps, from a zero point of -127: for any backend
            but stock Tengine, and so not in a .tmfile.
    """

    scale_steps: int = 16
    correct_biases: bool = True
    zero_points: bool = False

    def __post_init__(self) -> None:
        if self.scale_steps < 0:
            raise ValueError(f"scale_steps is {self.scale_steps}; expected 0 or more")


def rounded_graph(
    graph: Graph,
    ranges: Mapping[str, float],
    statistics: Mapping[str, Statistics],
    rounding: Rounding,
) -> Graph:
    """The network in int8.

    Args:
        graph: A float32 network, every convolution with constants of its own and a bias.
        ranges: The largest magnitude to keep of the input and of every value.
        statistics: What was observed in that network.
        rounding: How.
    """
    positive = _positive(graph) if rounding.zero_points else frozenset()
    tensors: dict[str, Tensor] = {}
    for name in (graph.input, *(node.output for node in graph.nodes)):
        pair = _pair(ranges[name], is_positive=name in positive)
        tensors[name] = dataclasses.replace(graph.tensors[name], dtype=INT8, quantization=pair)
    for node in graph.nodes:
        if isinstance(node.op, Conv):
            data = tensors[node.inputs[0]].quantization
            assert data is not None
            mean = statistics[node.inputs[0]].mean if rounding.correct_biases else None
            constants = _rounded_constants(graph, node, data.scale, mean, rounding.scale_steps)
            tensors.update(zip(node.inputs[1:], constants))
    return dataclasses.replace(graph, tensors=tensors)


def _pair(limit: float, *, is_positive: bool) -> Quantization:
    steps, zero_point = (2 * STORED_LIMIT, -STORED_LIMIT) if is_positive else (STORED_LIMIT, 0)
    return Quantization(np.array([limit / steps], np.float32), np.array([zero_point], np.int32))


def _positive(graph: Graph) -> frozenset[str]:
    """Values that share their scale with no value that may be negative."""
    found: set[str] = set()
    for node in graph.nodes:
        passed = passed_on(node)
        is_clipped = getattr(node.op, "activation", "none") in ("relu", "relu6")
        made = isinstance(node.op, (Relu, Sigmoid, Softmax))
        if (passed and found.issuperset(passed)) or is_clipped or made:
            found.add(node.output)
    return frozenset(name for names in groups(graph) if found.issuperset(names) for name in names)


def _rounded_constants(
    graph: Graph,
    node: Node,
    step: NDArray[np.float32],
    mean: Values | None,
    scale_steps: int,
) -> tuple[Tensor, Tensor]:
    """Weight and bias, for an input with that step and mean."""
    assert isinstance(node.op, Conv)
    weight, bias = (graph.tensors[name] for name in node.inputs[1:])
    values, offset = np.float64(weight.data), np.float64(bias.data)
    scale = _weight_scale(values, offset / float(step[0]), scale_steps)
    column = np.float64(scale)[:, None, None, None]
    stored = np.clip(np.rint(values / column), -STORED_LIMIT, STORED_LIMIT)
    if mean is not None:
        offset = offset - _mean_sum(stored * column - values, mean, node.op.groups)
    units = step * scale
    sums = np.clip(np.rint(offset / np.float64(units)), -_LARGEST_BIAS, _LARGEST_BIAS)
    return _stored(weight, stored.astype(INT8), scale), _stored(bias, sums.astype(INT32), units)


def _stored(tensor: Tensor, data: NDArray[Any], scale: NDArray[np.float32]) -> Tensor:
    pairs = Quantization(scale, np.zeros(scale.shape, np.int32))
    return dataclasses.replace(tensor, dtype=data.dtype, data=data, quantization=pairs)


def _weight_scale(values: Values, offset: Values, scale_steps: int) -> NDArray[np.float32]:
    """(channels,) the least with which all weights fit, and the bias into its 32 bits.

    Args:
        values: The weights, output channels first.
        offset: The bias in steps of the input.
        scale_steps: In how many parts an octave is divided, or 0.
    """
    largest = np.abs(values).reshape(len(values), -1).max(axis=1)
    scale = np.maximum(largest / STORED_LIMIT, np.abs(offset) / _LARGEST_BIAS)
    scale = np.where(scale > 0, scale, scale.max() or 1.0)
    if scale_steps:
        # What is there already, but for rounding, stays.
        scale = 2.0 ** (np.ceil(np.log2(scale) * scale_steps - 1e-4) / scale_steps)
    return np.asarray(scale, np.float32)


def _mean_sum(weight: Values, mean: Values, count: int) -> Values:
    """(output channels,) what a convolution of constant channels gives, in that many groups."""
    taps = weight.sum(axis=(2, 3))
    outputs, per_group = taps.shape
    return np.asarray(
        (taps * np.repeat(mean.reshape(count, per_group), outputs // count, axis=0)).sum(axis=1)
    )
