"""How large a magnitude int8 keeps of every value: one range for all that share a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..graph import Add, Conv, LeakyRelu, Sigmoid, Softmax, Upsample
from .observing import STORED_LIMIT, Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ..graph import Graph, Node
    from ..spec import InputSpec
    from .observing import Statistics

METHODS = ("mse", "percentile", "minmax")
# Ranges that "mse" tries, relative to the largest magnitude: six octaves in 16ths. Around the minimum the
# error is flat; a 16th of an octave is 4%.
TRIED = 2.0 ** (-np.arange(97) / 16)
MAX_PIXEL = 255


@dataclass(frozen=True)
class Method:
    """How a range is chosen from the magnitudes of a value.

    "minmax" keeps the largest one; "percentile" that share of them; "mse" makes the squared error least
    that rounding what is kept and clipping the rest come to.
    """

    name: str = "mse"
    percentile: float = 99.999

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise ValueError(f"method is {self.name!r}; expected one of {', '.join(METHODS)}")
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile is {self.percentile}; expected above 0, at most 100")

    def range_of(self, histogram: Histogram) -> float:
        if histogram.largest == 0:
            return 1.0  # anything: 0 has the same bytes with every scale
        if self.name == "minmax":
            return histogram.largest
        if self.name == "percentile":
            return _percentile(histogram, self.percentile)
        return _least_error(histogram)


def choose(
    graph: Graph, statistics: Mapping[str, Statistics], method: Method, source: InputSpec
) -> dict[str, float]:
    """The range of the input and of every computed value, by name."""
    ranges: dict[str, float] = {}
    shares = {n.output for n in graph.nodes if isinstance(n.op, (Softmax, Sigmoid))}
    for names in groups(graph):
        histogram = Histogram()
        for name in names:
            if name in statistics:
                histogram.merge(statistics[name].histogram)
        is_input = graph.input in names
        found = input_range(source) if is_input else method.range_of(histogram)
        if shares.intersection(names):  # pictures that were not seen may have one of 1
            found = max(found, 1.0)
        ranges.update(dict.fromkeys(names, found))
    return ranges


def passed_on(node: Node) -> tuple[str, ...]:
    """The inputs whose values it passes on unchanged, or but for those below zero."""
    if isinstance(node.op, (Conv, Add, LeakyRelu, Sigmoid, Softmax)):
        return ()
    return node.inputs[:1] if isinstance(node.op, Upsample) else node.inputs


def groups(graph: Graph) -> list[list[str]]:
    """Values that have one scale, as they are passed on unchanged or joined.

    So a convolution rounds to the steps of what it becomes a part of, once; and in a concat of one scale,
    Tengine's, which turns the sign of what it clips below, has nothing to clip.
    """
    leader = {graph.input: graph.input}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for node in graph.nodes:
        leader[node.output] = node.output
        leader.update((find(name), node.output) for name in passed_on(node))
    found: dict[str, list[str]] = {}
    for name in leader:
        found.setdefault(find(name), []).append(name)
    return list(found.values())


def input_range(source: InputSpec) -> float:
    """With a step for each grey level where they fit, so that preprocessing is exact; else with room for all.

    Grey levels of mean 127 reach from -127 to 128, of which the last is stored as 127.
    """
    steps = {abs(scale) for scale in source.scale}
    reach = [max(mean, MAX_PIXEL - mean) for mean in source.mean]
    if len(steps) == 1 and max(reach) <= STORED_LIMIT + 1:
        return STORED_LIMIT * steps.pop()
    return max(levels * abs(scale) for levels, scale in zip(reach, source.scale))


def _percentile(histogram: Histogram, percentile: float) -> float:
    reached = histogram.zeros + np.cumsum(histogram.counts)
    last = int(np.searchsorted(reached, reached[-1] * percentile / 100))
    return min(histogram.largest, (last + 1) * histogram.width)


def _least_error(histogram: Histogram) -> float:
    used = histogram.counts > 0
    magnitudes, counts = histogram.centres[used], histogram.counts[used]
    tried = histogram.largest * TRIED
    errors = [float(counts @ (magnitudes - rounded(magnitudes, limit)) ** 2) for limit in tried]
    return float(tried[np.argmin(errors)])


def rounded(magnitudes: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """What is left of them in int8 with that range."""
    step = limit / STORED_LIMIT
    return np.asarray(np.minimum(np.rint(magnitudes / step), STORED_LIMIT) * step)
