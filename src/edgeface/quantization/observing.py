"""What flows through a network: magnitudes of every value, over calibration images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends import native
from ..graph import Graph, Reshape, Transpose, pruned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# The largest magnitude is in the upper half of the bins: one of int8's 127 steps is 64 bins or more.
BINS = 1 << 14
# Of int8: -128 is never stored, as Tengine's kernels for ARM add two products in 16 bits.
STORED_LIMIT = 127


class Histogram:
    """How often each magnitude occurs among any number of values, in bounded memory.

    The width of a bin is a power of two. It doubles, two bins becoming one, when a value lies beyond the
    last; so the counts do not depend on the order of the values.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.zeros = 0  # apart from the others: they are stored without error
        self.width = 0.0
        self.largest = 0.0

    def add(self, magnitudes: Floats) -> None:
        """Counts values of any shape, none of which is negative."""
        positive = magnitudes[magnitudes > 0]
        self.zeros += magnitudes.size - positive.size
        if positive.size == 0:
            return
        largest = float(positive.max())
        self._widen(largest, _width(largest))
        bins = (positive * np.float32(1 / self.width)).astype(np.int32)
        self.counts += np.bincount(bins, minlength=BINS)

    def merge(self, other: Histogram) -> None:
        """Counts what another one has."""
        self.zeros += other.zeros
        if other.largest > 0:
            self._widen(other.largest, other.width)
            self.counts += _folded(other.counts, round(self.width / other.width))

    def _widen(self, largest: float, width: float) -> None:
        self.largest = max(self.largest, largest)
        if width > self.width > 0:
            self.counts = _folded(self.counts, round(width / self.width))
        self.width = max(self.width, width)

    @property
    def centres(self) -> NDArray[np.float64]:
        """(BINS,) the magnitude in the middle of each bin."""
        return (np.arange(BINS, dtype=np.float64) + 0.5) * self.width


def _width(largest: float) -> float:
    """The least power of two with which the largest is inside the last bin."""
    mantissa, exponent = math.frexp(largest / BINS)
    return math.ldexp(1.0, exponent if mantissa >= 0.5 else exponent - 1)


def _folded(counts: NDArray[np.int64], group: int) -> NDArray[np.int64]:
    """Every `group` bins as one, a power of two of them."""
    group = min(group, BINS)
    folded = np.zeros_like(counts)
    folded[: BINS // group] = counts.reshape(-1, group).sum(axis=1)
    return folded


@dataclass
class Statistics:
    """Of one value over all images."""

    histogram: Histogram = field(default_factory=Histogram)
    # By channel: (channels,) the largest magnitude, and the mean.
    largest: NDArray[np.float32] = field(default_factory=lambda: np.zeros(1, np.float32))
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))

    def add(self, values: Floats) -> None:
        """Those of one image, (pixels, channels); `mean` is a sum until it is divided."""
        magnitudes = np.abs(values)
        self.histogram.add(magnitudes)
        self.largest = np.maximum(self.largest, magnitudes.max(axis=0))
        self.mean = self.mean + values.mean(axis=0, dtype=np.float64)


class Probe:
    """A network in the native engine that shows all values which it computes, not only its outputs."""

    def __init__(self, graph: Graph) -> None:
        # A view has the values of what it views.
        made = (n.output for n in graph.nodes if not isinstance(n.op, (Transpose, Reshape)))
        self.names = tuple(dict.fromkeys([*made, *graph.outputs]))
        self._graph = pruned(list(graph.nodes), graph.tensors, graph.input, self.names)
        self._engine = native.open_graph(self._graph, num_threads=1)

    def run(self, image: Floats) -> Mapping[str, NDArray[Any]]:
        """Every value as it is stored, (pixels or rows, channels), until the next run.

        Args:
            image: (1, channels, height, width) float32, before it is rounded.
        """
        self._engine.input()[:] = _stored(image, self._graph)
        self._engine.run()
        return {name: self._values(name) for name in self.names}

    def _values(self, name: str) -> NDArray[Any]:
        shape = self._graph.tensors[name].shape
        columns = shape[1] if len(shape) == 4 else shape[-1]
        return np.asarray(self._engine.output(name)).reshape(-1, columns)


def _stored(image: Floats, graph: Graph) -> NDArray[Any]:
    pairs = graph.tensors[graph.input].quantization
    if pairs is None:
        return image
    steps = np.rint(image / pairs.scale[0]) + pairs.zero_point[0]
    return np.asarray(np.clip(steps, -STORED_LIMIT, STORED_LIMIT), np.int8)


def observe(graph: Graph, images: Iterable[Floats]) -> dict[str, Statistics]:
    """Statistics of the input and of every computed value.

    Args:
        graph: A float32 network.
        images: Inputs of it, (1, channels, height, width) float32.

    Raises:
        BackendError: The native engine does not run it.
        ValueError: There is no image.
    """
    probe = Probe(graph)
    found = {name: Statistics() for name in (graph.input, *probe.names)}
    count = 0
    for image in images:
        count += 1
        pixels = image.reshape(image.shape[1], -1).T
        for name, values in {graph.input: pixels, **probe.run(image)}.items():
            found[name].add(values)
    if count == 0:
        raise ValueError("there is no picture to calibrate with")
    for statistics in found.values():
        statistics.mean = statistics.mean / count
    return found
