"""A network's heads by level: what a file has one output of for each stride becomes one of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import ModelError
from .graph import Concat, Graph, Node, Tensor, infer_shape, pruned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .graph import Shape
    from .spec import ModelSpec

STRIDE = "{stride}"


def shapes(spec: ModelSpec) -> dict[str, Shape]:
    """The outputs, by name, that a published network with that spec has, joined."""
    rows = spec.priors.count(spec.input.width, spec.input.height)
    scores = 1 if spec.heads.objectness is not None else 2  # else background and face
    columns = {"scores": scores, "boxes": 4, "landmarks": 10, "objectness": 1}
    return {name: (1, rows, columns[role]) for role, name in spec.heads.roles.items()}


def joined(graph: Graph, spec: ModelSpec) -> Graph:
    """The network with one output for each head that the spec names with {stride}, of that very name.

    A network that has it already, as converted ones have, is returned as it is.

    Raises:
        ModelError: The network lacks a level's output, or one does not fit those of the others.
    """
    heads = {
        name: tuple(name.replace(STRIDE, str(stride)) for stride in spec.priors.strides)
        for name in spec.heads.roles.values()
        if STRIDE in name and name not in graph.outputs
    }
    if not heads:
        return graph
    nodes, tensors = list(graph.nodes), dict(graph.tensors)
    for name, levels in heads.items():
        missing = [level for level in levels if level not in graph.outputs]
        if missing:
            raise ModelError(
                f"the network has outputs {graph.outputs}; the spec names {missing[0]!r}"
            )
        nodes.append(Node(Concat(1), name, levels, name))
        tensors[name] = _joined_tensor(nodes[-1], [tensors[level] for level in levels])
    parts = {level for levels in heads.values() for level in levels}
    outputs = (*heads, *(name for name in graph.outputs if name not in parts))
    return pruned(nodes, tensors, graph.input, outputs)


def _joined_tensor(node: Node, parts: Sequence[Tensor]) -> Tensor:
    """In the coarsest of the levels' scales."""
    pairs = [part.quantization for part in parts if part.quantization is not None]
    coarsest = max(pairs, key=lambda pair: float(pair.scale.max()), default=None)
    shape = infer_shape(node, [part.shape for part in parts])
    return Tensor(node.output, shape, parts[0].dtype, quantization=coarsest)
