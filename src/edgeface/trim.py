"""A network without levels of priors that nobody needs: the same outputs as before for those that stay.

Where small faces do not matter, the finest level costs most and gives nothing: in RetinaFace its heads, its
context module and its part of the pyramid are half of the multiply-adds.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, TypeVar

from .errors import ModelError
from .graph import Concat, Graph, LeakyRelu, Node, Relu, Sigmoid, Softmax, infer_shape, pruned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .spec import ModelSpec, PriorSpec

_T = TypeVar("_T")

# What rows may pass through, each by itself, between where levels are joined and the output.
_BY_ROW = (Softmax, Relu, LeakyRelu, Sigmoid)


def largest_face(min_sizes: Sequence[float]) -> float:
    """The longer side, in input pixels, from which on a level of these priors is not needed: twice the largest.

    Of two boxes about one centre the smaller area over the larger is the most that they overlap (IoU). A face s
    long, with sides of a:1, has s**2 / a: a prior of side m has at most a * m**2 / s**2 of it, a / 4 at s = 2 * m.
    One of 2 * m has 1 / a, which is more up to a = 2, and beyond the 0.35 from which training calls it the face's.
    Of faces of 64 pixels and more in parts of WIDER FACE, 2.3 % (val) and 3.6 % (train) are longer than 2:1.
    """
    return 2 * max(min_sizes)


def dispensable_from(priors: PriorSpec) -> dict[int, float]:
    """By stride, the smallest face wanted from which on a level is not needed, in input pixels.

    It is the level's `largest_face`, if a coarser one has priors as small as that: what is wanted overlaps
    those better. One level always stays and is not among them; all of them do where priors are only points.
    """
    if priors.are_points:
        return {}
    levels = sorted(zip(priors.strides, priors.min_sizes), key=lambda level: max(level[1]))
    found: dict[int, float] = {}
    least = 0.0
    for index, (stride, sizes) in enumerate(levels[:-1], 1):
        begins = min(min(coarser) for _, coarser in levels[index:])
        least = max(least, largest_face(sizes), begins)
        found[stride] = least
    return found


def needed_strides(priors: PriorSpec, min_face: float) -> tuple[int, ...]:
    """The levels that look for faces of `min_face` input pixels or more, the longer side."""
    least = dispensable_from(priors)
    return tuple(stride for stride in priors.strides if least.get(stride, math.inf) > min_face)


def can_trim(graph: Graph, spec: ModelSpec) -> bool:
    """Whether `trimmed` knows how this network joins its levels."""
    try:
        _joins(graph, spec)
    except ModelError:
        return False
    return True


def trimmed(graph: Graph, spec: ModelSpec, strides: Sequence[int]) -> tuple[Graph, ModelSpec]:
    """The network and its spec with the levels of these strides alone.

    Raises:
        ValueError: A stride is not among the spec's, or none is given.
        ModelError: An output does not join the levels one after another.
    """
    priors = spec.priors
    unknown = [stride for stride in strides if stride not in priors.strides]
    if unknown or not strides:
        known = ", ".join(map(str, priors.strides))
        raise ValueError(f"levels are {tuple(strides)}; expected one or more of {known}")
    kept = [stride in strides for stride in priors.strides]
    if all(kept):
        return graph, spec
    fewer = dataclasses.replace(
        priors, strides=_some(priors.strides, kept), min_sizes=_some(priors.min_sizes, kept)
    )
    # Nobody measured its accuracy, and the digest is of another file.
    rest = dataclasses.replace(spec, priors=fewer, ap={}, sha256=None)
    return _without(graph, _joins(graph, spec), kept), rest


def _joins(graph: Graph, spec: ModelSpec) -> set[str]:
    """The outputs of the Concats that join the heads' levels."""
    rows = spec.priors.level_counts(*graph.input_size)
    return {_join(graph, head, rows) for head in spec.heads.roles.values()}


def _join(graph: Graph, head: str, rows: Sequence[int]) -> str:
    """The Concat that joins a head's levels, by its output."""
    makers = {node.output: node for node in graph.nodes}
    node = makers.get(head)
    while node is not None and isinstance(node.op, _BY_ROW):
        node = makers.get(node.inputs[0])
    if node is None or not isinstance(node.op, Concat):
        what = "an input" if node is None else f"{node.kind} '{node.name}'"
        raise ModelError(f"levels cannot be left out: output '{head}' ends in {what}")
    shapes = [graph.tensors[name].shape for name in node.inputs]
    if node.op.axis != 1 or [shape[1] for shape in shapes] != list(rows):
        joined = " and ".join(map(str, shapes))
        raise ModelError(
            f"levels cannot be left out: output '{head}' joins {joined} for levels of {rows} priors"
        )
    return node.output


def _without(graph: Graph, joins: set[str], kept: Sequence[bool]) -> Graph:
    nodes: list[Node] = []
    tensors = dict(graph.tensors)
    for node in graph.nodes:
        inputs = _some(node.inputs, kept) if node.output in joins else node.inputs
        nodes.append(dataclasses.replace(node, inputs=inputs))
        shape = infer_shape(nodes[-1], [tensors[name].shape for name in inputs])
        tensors[node.output] = dataclasses.replace(tensors[node.output], shape=shape)
    return pruned(nodes, tensors, graph.input, graph.outputs)


def _some(values: tuple[_T, ...], kept: Sequence[bool]) -> tuple[_T, ...]:
    return tuple(value for value, is_kept in zip(values, kept) if is_kept)
