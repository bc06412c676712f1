"""Post-training quantisation: a float32 network and pictures of what it will see -> the network in int8.

Symmetric throughout, as Tengine has it: weights with a scale for each output channel, values with one each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .. import _core, model
from ..errors import ModelError
from ..graph import with_slopes_apart
from .agreement import (
    MARGINAL_SCORE,
    Agreement,
    FaceErrors,
    Layer,
    Limits,
    compare,
    problems,
    refusal,
    worst_layers,
)
from .doubling import doubled
from .equalization import equalized
from .logits import balanced, limited, staggered, with_logits
from .observing import observe
from .ranges import METHODS, Method, choose
from .rounding import Rounding, rounded_graph, with_own_constants

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from ..graph import Graph
    from ..model import Model
    from ..spec import ModelSpec
    from .observing import Statistics

__all__ = [
    "MARGINAL_SCORE",
    "METHODS",
    "Agreement",
    "Calibrated",
    "FaceErrors",
    "Layer",
    "Limits",
    "Method",
    "Options",
    "Quantized",
    "Rounding",
    "calibrate",
    "compare",
    "problems",
    "quantize",
    "refusal",
    "rounded_graph",
    "worst_layers",
]


@dataclass(frozen=True)
class Options:
    """What is done to the network; the defaults are what came nearest to float32."""

    method: Method = field(default_factory=Method)
    logits: bool = True  # scores as they are before their softmax, which is left to the detector
    equalize: bool = True
    # The most multiply-adds to add for finer steps, as a share of those there are. RetinaFace with the MobileNet
    # takes 0.043 for its first two values; slim and RFB would take 0.2.
    extra: float = 0.05
    slopes_apart: bool = (
        False  # leaky ReLUs behind a rounding of their own, as stock Tengine runs them
    )
    rounding: Rounding = field(default_factory=Rounding)

    def __post_init__(self) -> None:
        if not 0 <= self.extra <= 1:
            raise ValueError(f"extra is {self.extra}; expected 0 to 1")


@dataclass(frozen=True)
class Quantized:
    """A network in int8, its spec, and how far it is from what it was made from."""

    graph: Graph
    spec: ModelSpec
    agreement: Agreement


@dataclass(frozen=True)
class Calibrated:
    """A float32 network that is ready to be rounded."""

    graph: Graph  # every convolution with constants of its own and a bias
    spec: ModelSpec
    statistics: Mapping[str, Statistics]
    ranges: Mapping[str, float]  # the largest magnitude that is kept, by value


def quantize(
    opened: Model, frames: Iterable[NDArray[np.uint8]], options: Options | None = None
) -> Quantized:
    """The model's network in int8, calibrated and then compared on the same frames.

    Args:
        opened: A float32 model.
        frames: (H, W, 3) BGR, faces among them. Gone through two or three times: a list, or an object that
            reads its files every time.
        options: How.

    Raises:
        ModelError: The network is quantised already.
        BackendError: The native engine does not run it.
        ValueError: There is no frame.
    """
    options = options or Options()
    if iter(frames) is frames:
        frames = list(frames)
    found = calibrate(opened, frames, options)
    integers = rounded_graph(found.graph, found.ranges, found.statistics, options.rounding)
    return Quantized(integers, found.spec, compare(found.graph, integers, found.spec, frames))


def calibrate(opened: Model, frames: Iterable[NDArray[np.uint8]], options: Options) -> Calibrated:
    """All of `quantize` but the rounding: what training goes on from."""
    if opened.graph.is_quantized:
        raise ModelError(f"{opened.path} is quantised already; expected a float32 model")
    if options.logits:
        opened = with_logits(opened)
    graph, spec = with_own_constants(opened.graph), opened.spec
    if options.slopes_apart:
        graph = with_slopes_apart(graph)
    if options.logits:
        graph = balanced(graph, spec.heads)
    statistics = observe(graph, _images(frames, spec))
    if options.equalize:
        graph = equalized(graph, statistics)
        statistics = observe(graph, _images(frames, spec))
    ranges = choose(graph, statistics, options.method, spec.input)
    if options.logits:
        ranges = limited(ranges, graph, spec.heads)
        graph = staggered(graph, spec.heads, ranges)
    graph, statistics = doubled(graph, statistics, ranges, options.extra)
    return Calibrated(graph, spec, statistics, ranges)


def _images(frames: Iterable[NDArray[np.uint8]], spec: ModelSpec) -> Iterator[NDArray[np.float32]]:
    """The network's inputs."""
    core_spec = model.core_spec(spec)
    for frame in frames:
        yield _core.preprocess(frame, core_spec, "bgr")
