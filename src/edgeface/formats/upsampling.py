"""Whose size an upsampling takes on: files say how large its result is, a Graph as large as what."""

from __future__ import annotations

import dataclasses
import heapq
from typing import TYPE_CHECKING

from ..errors import ModelError
from ..graph import Add, Node, Upsample

if TYPE_CHECKING:
    from collections.abc import Sequence

UNKNOWN = ""  # an Upsample's second input, until it is known


def settled(nodes: Sequence[Node]) -> list[Node]:
    """Every Upsample made as large as what an Add adds to its result, and behind what makes that.

    Raises:
        ModelError: No Add reads it, or what it is added to is made of its own result.
    """
    added = {
        name: other
        for node in reversed(nodes)
        if isinstance(node.op, Add)
        for name, other in zip(node.inputs, reversed(node.inputs))
    }
    known = [_with_size(node, added) if UNKNOWN in node.inputs else node for node in nodes]
    return known if known == list(nodes) else _in_order(known)


def _with_size(node: Node, added: dict[str, str]) -> Node:
    assert isinstance(node.op, Upsample)
    if node.output not in added:
        raise ModelError(
            f"'{node.name}' makes '{node.output}' of a size of its own; supported where an Add reads it: "
            "it is made as large as what it is added to"
        )
    return dataclasses.replace(node, inputs=(node.inputs[0], added[node.output]))


def _in_order(nodes: Sequence[Node]) -> list[Node]:
    """As they are, but each behind what makes its inputs."""
    makers = {node.output: index for index, node in enumerate(nodes)}
    needs = [{makers[name] for name in node.inputs if name in makers} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for index, needed in enumerate(needs):
        for maker in needed:
            readers[maker].append(index)
    ready = [index for index, needed in enumerate(needs) if not needed]
    ordered = []
    while ready:
        index = heapq.heappop(ready)
        ordered.append(nodes[index])
        for reader in readers[index]:
            needs[reader].discard(index)
            if not needs[reader]:
                heapq.heappush(ready, reader)
    if len(ordered) < len(nodes):
        (first, *_) = (n for n in nodes if isinstance(n.op, Upsample) and n not in ordered)
        raise ModelError(
            f"'{first.name}' takes its size from '{first.inputs[1]}', made of its own result"
        )
    return ordered
