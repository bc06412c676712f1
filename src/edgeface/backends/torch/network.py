"""A Graph in PyTorch's operations, for any number of images at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from ...errors import BackendError
from ...graph import (
    FLOAT32,
    Add,
    Concat,
    Conv,
    LeakyRelu,
    MaxPool,
    Relu,
    Reshape,
    Sigmoid,
    Softmax,
    Transpose,
    Upsample,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...graph import Graph, Node, Shape


class Network:
    """Runs float32 graphs, in `dtype`; softmax and sigmoid, which make scores, are float32 always.

    Images lie channels last in memory, as frames do: their way in and the heads' way out need no copy.
    """

    def __init__(self, graph: Graph, device: torch.device, dtype: torch.dtype) -> None:
        _check(graph)
        self._graph = graph
        self._device = device
        self._constants = {
            tensor.name: torch.from_numpy(np.array(tensor.data)).to(device)
            for tensor in graph.constants
        }
        for name in _weights(graph):
            weight = self._constants[name].to(dtype)
            is_filter = weight.dim() == 4
            memory = torch.channels_last if is_filter else torch.contiguous_format
            self._constants[name] = weight.contiguous(memory_format=memory)
        self._done = _last_reads(graph)
        self._takes_many = _keeps_images_apart(graph)

    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, C, H, W) float32 -> every output as (N, rows, columns) float32, a row for each prior."""
        parts = (images,) if self._takes_many else images.split(1)
        found = [self._run(part) for part in parts]
        return {
            name: torch.cat([self._rows(outputs, name, len(images)) for outputs in found])
            for name in self._graph.outputs
        }

    def _rows(self, outputs: dict[str, torch.Tensor], name: str, count: int) -> torch.Tensor:
        columns = self._graph.tensors[name].shape[-1]
        return outputs[name].float().reshape(count if self._takes_many else 1, -1, columns)

    def _run(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        values = {**self._constants, self._graph.input: images}
        for node, done in zip(self._graph.nodes, self._done):
            inputs = [values[name] for name in node.inputs]
            shape = self._graph.tensors[node.output].shape
            values[node.output] = _RULES[type(node.op)](node.op, shape, *inputs)
            for name in done:
                del values[name]
        return values


def _check(graph: Graph) -> None:
    other = [str(t.dtype) for t in graph.tensors.values() if t.dtype != FLOAT32]
    if graph.is_quantized or other:
        raise BackendError(
            f"it runs float32 networks; this one is {'quantised' if graph.is_quantized else other[0]} "
            "(native, tengine and onnxruntime run those)"
        )
    made = {node.output for node in graph.nodes}
    for name in graph.outputs:
        if name not in made:
            raise BackendError(f"its output '{name}' is not computed by any node")


def _weights(graph: Graph) -> set[str]:
    convolutions = (node for node in graph.nodes if isinstance(node.op, Conv))
    constants = {tensor.name for tensor in graph.constants}
    return {name for node in convolutions for name in node.inputs[1:]} & constants


def _last_reads(graph: Graph) -> list[list[str]]:
    """For every node, the values that nothing needs after it."""
    needed = {*graph.outputs, *(tensor.name for tensor in graph.constants)}
    done: list[list[str]] = []
    for node in reversed(graph.nodes):
        done.append(
            [name for name in dict.fromkeys((*node.inputs, node.output)) if name not in needed]
        )
        needed.update((*node.inputs, node.output))
    return done[::-1]


def _keeps_images_apart(graph: Graph) -> bool:
    """Whether every value of several images is theirs one after another: axis 0, and nothing else, counts them."""
    constants = {tensor.name for tensor in graph.constants}
    return all(_keeps_axis(node, graph, constants) for node in graph.nodes)


def _keeps_axis(node: Node, graph: Graph, constants: set[str]) -> bool:
    data = node.inputs[:1] if isinstance(node.op, Conv) else node.inputs
    one_each = all(graph.tensors[name].shape[0] == 1 for name in (*data, node.output))
    if isinstance(node.op, (Concat, Softmax)) and node.op.axis == 0:
        return False
    if isinstance(node.op, Transpose) and node.op.order[0] != 0:
        return False
    return one_each and not constants.intersection(data)


# --- An operator each: what it is, the output's shape of one image, its inputs ---------------------------


def _conv(
    op: Conv, _shape: Shape, data: torch.Tensor, weight: torch.Tensor, *bias: torch.Tensor
) -> torch.Tensor:
    data, padding = _padded(data, op.pads, 0.0)
    made = functional.conv2d(
        data.to(weight.dtype),
        weight,
        *(bias or (None,)),
        stride=op.stride,
        padding=padding,
        dilation=op.dilation,
        groups=op.groups,
    )
    return _activated(op, made)


def _padded(
    data: torch.Tensor, pads: tuple[int, int, int, int], value: float
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Padded where the operators of PyTorch, which take one number for both ends, could not do it."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right) and value == 0:
        return data, (top, left)
    return functional.pad(data, (left, right, top, bottom), value=value), (0, 0)


def _activated(op: Conv | Add, data: torch.Tensor) -> torch.Tensor:
    if op.activation == "relu":
        return data.relu_()
    if op.activation == "relu6":
        return data.clamp_(0, 6)
    if op.activation == "leaky_relu":
        return functional.leaky_relu_(data, op.slope)
    return data


def _relu(_op: Relu, _shape: Shape, data: torch.Tensor) -> torch.Tensor:
    return data.relu()


def _leaky_relu(op: LeakyRelu, _shape: Shape, data: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(data, op.slope)


def _sigmoid(_op: Sigmoid, _shape: Shape, data: torch.Tensor) -> torch.Tensor:
    return data.float().sigmoid()


def _max_pool(op: MaxPool, _shape: Shape, data: torch.Tensor) -> torch.Tensor:
    if any(op.pads):
        data, _ = _padded(data, op.pads, -math.inf)
    return functional.max_pool2d(data, op.kernel, op.stride)


def _upsample(_op: Upsample, shape: Shape, data: torch.Tensor, _like: torch.Tensor) -> torch.Tensor:
    # Not interpolate(): it multiplies with a rounded ratio, which takes the wrong pixel at some sizes.
    for axis in (2, 3):
        to, size = shape[axis], data.shape[axis]
        data = data.index_select(axis, torch.arange(to, device=data.device) * size // to)
    return data


def _add(op: Add, _shape: Shape, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return _activated(op, a + b)


def _concat(op: Concat, _shape: Shape, *data: torch.Tensor) -> torch.Tensor:
    return torch.cat(data, op.axis)


def _softmax(op: Softmax, _shape: Shape, data: torch.Tensor) -> torch.Tensor:
    return data.float().softmax(op.axis)


def _transpose(op: Transpose, _shape: Shape, data: torch.Tensor) -> torch.Tensor:
    return data.permute(op.order)


def _reshape(_op: Reshape, shape: Shape, data: torch.Tensor) -> torch.Tensor:
    images = data.numel() // math.prod(shape)
    return data.reshape(images * shape[0], *shape[1:])


_RULES: dict[type[Any], Callable[..., torch.Tensor]] = {
    Conv: _conv,
    Relu: _relu,
    LeakyRelu: _leaky_relu,
    Sigmoid: _sigmoid,
    MaxPool: _max_pool,
    Upsample: _upsample,
    Add: _add,
    Concat: _concat,
    Softmax: _softmax,
    Transpose: _transpose,
    Reshape: _reshape,
}
