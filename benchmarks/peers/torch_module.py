"""A Graph as a PyTorch module, for converters that start from one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from edgeface.graph import (
    Add,
    Concat,
    Conv,
    LeakyRelu,
    MaxPool,
    Node,
    Relu,
    Reshape,
    Sigmoid,
    Softmax,
    Transpose,
    Upsample,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.graph import Graph


class TorchModule(torch.nn.Module):
    """The graph's nodes in their order, its constants as buffers."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph
        # Buffers' names may have no dots.
        self._buffer_names = {t.name: f"constant{i}" for i, t in enumerate(graph.constants)}
        for tensor in graph.constants:
            self.register_buffer(
                self._buffer_names[tensor.name], torch.from_numpy(np.array(tensor.data))
            )

    def example(self) -> torch.Tensor:
        return torch.zeros(self._graph.tensors[self._graph.input].shape)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = {self._graph.input: image}
        values.update({name: getattr(self, buffer) for name, buffer in self._buffer_names.items()})
        for node in self._graph.nodes:
            inputs = [values[name] for name in node.inputs]
            values[node.output] = _activated(node, _RULES[type(node.op)](node, inputs))
        return tuple(values[name] for name in self._graph.outputs)


def _activated(node: Node, value: torch.Tensor) -> torch.Tensor:
    activation = getattr(node.op, "activation", "none")
    if activation == "leaky_relu":
        return functional.leaky_relu(value, node.op.slope)
    return {"none": lambda x: x, "relu": torch.relu, "relu6": functional.relu6}[activation](value)


def _conv(node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
    op = node.op
    assert isinstance(op, Conv)
    top, left, bottom, right = op.pads
    if (top, left) != (bottom, right):
        raise ValueError(f"{node.name} pads {op.pads}; PyTorch pads both sides alike")
    bias = inputs[2] if len(inputs) > 2 else None
    return functional.conv2d(
        inputs[0], inputs[1], bias, op.stride, (top, left), op.dilation, op.groups
    )


def _max_pool(node: Node, inputs: list[torch.Tensor]) -> torch.Tensor:
    op = node.op
    assert isinstance(op, MaxPool)
    top, left, bottom, right = op.pads
    padded = functional.pad(inputs[0], (left, right, top, bottom), value=-torch.inf)
    return functional.max_pool2d(padded, op.kernel, op.stride)


_RULES: dict[type, Callable[[Node, list[torch.Tensor]], torch.Tensor]] = {
    Conv: _conv,
    Relu: lambda _, inputs: torch.relu(inputs[0]),
    LeakyRelu: lambda node, inputs: functional.leaky_relu(inputs[0], node.op.slope),
    Sigmoid: lambda _, inputs: torch.sigmoid(inputs[0]),
    MaxPool: _max_pool,
    Upsample: lambda _, inputs: functional.interpolate(inputs[0], size=inputs[1].shape[2:]),
    Add: lambda _, inputs: inputs[0] + inputs[1],
    Concat: lambda node, inputs: torch.cat(inputs, node.op.axis),
    Softmax: lambda node, inputs: torch.softmax(inputs[0], node.op.axis),
    Transpose: lambda node, inputs: inputs[0].permute(node.op.order),
    Reshape: lambda node, inputs: inputs[0].reshape(node.op.shape),
}
