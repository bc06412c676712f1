"""A network's scores in int8: the logits before their softmax, in steps where faces are told from others.

A score is the softmax of two logits and so depends on their difference alone. Behind the softmax int8 has 127
scores, equally far apart, and few of them are low. The detector's own softmax can be given the logits:
then half of the difference each, within what tells faces from others. Released RFB-320 with nothing but its scores
rounded: AP of medium faces falls by 0.0027 behind the softmax, by 0.0024 with logits as they are, in steps of
0.044, and by 0.0011 in steps of 0.030.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from ..graph import Concat, Conv, Reshape, Softmax, Transpose, pruned
from .observing import STORED_LIMIT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..graph import Graph, Node
    from ..model import Model
    from ..spec import HeadSpec

# The largest of either logit that is kept: scores end at 0.001 and 0.999.
LOGIT_RANGE = 3.5


def with_logits(opened: Model) -> Model:
    """The same model whose scores are what its last Softmax reads; as it is where it ends otherwise."""
    graph, spec = opened.graph, opened.spec
    softmax = _last_softmax(opened)
    if softmax is None:
        return opened
    [logits] = softmax.inputs
    nodes = [
        dataclasses.replace(node, output=softmax.output) if node.output == logits else node
        for node in graph.nodes
        if node is not softmax
    ]
    heads = dataclasses.replace(spec.heads, activation="softmax")
    return dataclasses.replace(
        opened,
        graph=pruned(nodes, graph.tensors, graph.input, graph.outputs),
        spec=dataclasses.replace(spec, heads=heads),
    )


def _last_softmax(opened: Model) -> Node | None:
    """What makes the scores, if it is a Softmax of two columns that alone reads its input."""
    graph, heads = opened.graph, opened.spec.heads
    for node in graph.nodes:
        if node.output != heads.scores or not isinstance(node.op, Softmax):
            continue
        shape = graph.tensors[node.output].shape
        [logits] = node.inputs
        readers = [other for other in graph.nodes if logits in other.inputs]
        is_made = any(other.output == logits for other in graph.nodes)
        alone = len(readers) == 1 and logits not in graph.outputs and is_made
        of_two = shape[-1] == 2 and node.op.axis == len(shape) - 1
        # The detector would take a score of two for a face's.
        return node if alone and of_two and heads.activation == "none" else None
    return None


def balanced(graph: Graph, heads: HeadSpec) -> Graph:
    """Each logit half of the difference of its two, so that both have a range of their own size.

    Args:
        graph: A network of which no two convolutions share a constant and every one has a bias.
        heads: Of the network.
    """
    tensors = dict(graph.tensors)
    for node in _makers(graph, heads):
        for name in node.inputs[1:]:
            data = np.float64(np.asarray(tensors[name].data))
            half = (data[1::2] - data[::2]) / 2
            both = np.stack([-half, half], axis=1).reshape(data.shape)
            tensors[name] = dataclasses.replace(tensors[name], data=np.float32(both))
    return dataclasses.replace(graph, tensors=tensors)


def limited(ranges: Mapping[str, float], graph: Graph, heads: HeadSpec) -> dict[str, float]:
    """The same ranges, those of balanced logits at most `LOGIT_RANGE`."""
    found = dict(ranges)
    if _makers(graph, heads):
        limit = min(found[heads.scores], LOGIT_RANGE)
        found.update((name, limit) for name in _before(graph, heads.scores))
    return found


def staggered(graph: Graph, heads: HeadSpec, ranges: Mapping[str, float]) -> Graph:
    """Both logits moved by a quarter of a step: one is then rounded up where the other is not.

    Their difference is the same, and has a value at every step instead of every second one.
    """
    tensors = dict(graph.tensors)
    for node in _makers(graph, heads):
        bias = tensors[node.inputs[2]]
        quarter = ranges[heads.scores] / STORED_LIMIT / 4
        data = np.float32(np.asarray(bias.data) + quarter)
        tensors[bias.name] = dataclasses.replace(bias, data=data)
    return dataclasses.replace(graph, tensors=tensors)


def _makers(graph: Graph, heads: HeadSpec) -> list[Node]:
    """The convolutions that make pairs of logits; nothing where logits are made otherwise."""
    if heads.activation != "softmax" or graph.tensors[heads.scores].shape[-1] != 2:
        return []
    names = _before(graph, heads.scores)
    nodes = [node for node in graph.nodes if node.output in names]
    makers = [node for node in nodes if isinstance(node.op, Conv)]
    passes = all(_keeps_pairs(node) for node in nodes if not isinstance(node.op, Conv))
    plain = all(isinstance(n.op, Conv) and n.op.activation == "none" for n in makers)
    even = all(graph.tensors[node.output].shape[1] % 2 == 0 for node in makers)
    # Nothing but the scores may see a change.
    seen = [node for node in graph.nodes if names.intersection(node.inputs) and node not in nodes]
    outputs = names.intersection(graph.outputs) == {heads.scores}
    return makers if makers and passes and plain and even and outputs and not seen else []


def _before(graph: Graph, name: str) -> frozenset[str]:
    """That value and all that it is made of, back to convolutions and to what is not only joined or reordered."""
    found = {name}
    for node in reversed(graph.nodes):
        if node.output in found and isinstance(node.op, (Concat, Reshape, Transpose)):
            found.update(node.inputs)
    return frozenset(found)


def _keeps_pairs(node: Node) -> bool:
    """Whether neighbouring channels stay neighbours: channels last, rows of two, one after another."""
    if isinstance(node.op, Transpose):
        return node.op.order == (0, 2, 3, 1)
    if isinstance(node.op, Reshape):
        return node.op.shape[-1] == 2
    return isinstance(node.op, Concat) and node.op.axis == 1
