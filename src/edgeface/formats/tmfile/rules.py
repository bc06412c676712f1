"""What holds for a network in a tmfile, whether it is read or written."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ModelError
from ...graph import FLOAT32, Conv, Graph, MaxPool, Quantization, Relu, Tensor, fuse_activations
from .records import INT32, Flavour

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...graph import Op


MAX_SIDE = 1 << 16  # of an upsampled image: what it takes is looked at pixel by pixel


def fused(graph: Graph) -> Graph:
    """ReLus merged into what is before them, but for one that changes the scale: it rounds in between."""
    apart = [
        node.inputs[0]
        for node in graph.nodes
        if isinstance(node.op, Relu)
        if not equal(
            graph.tensors[node.inputs[0]].quantization, graph.tensors[node.output].quantization
        )
    ]
    held = dataclasses.replace(graph, outputs=(*graph.outputs, *apart))  # an output is kept
    return dataclasses.replace(fuse_activations(held), outputs=graph.outputs)


def equal(one: Quantization | None, other: Quantization | None) -> bool:
    """Whether both have the same numbers, or neither has any."""
    if one is None or other is None:
        return one is other
    return np.array_equal(one.scale, other.scale) and np.array_equal(
        one.zero_point, other.zero_point
    )


def bias_units(data: Tensor, weight: Tensor) -> Quantization | None:
    """What a quantised convolution takes its bias in: input scale * weight scale.

    Tengine's kernels multiply the two themselves, in float32, and never look at a bias's own
    scales; nor does a file need them that would say the same.
    """
    if data.quantization is None or weight.quantization is None:
        return None
    with np.errstate(over="ignore", under="ignore"):
        scale = data.quantization.scale * weight.quantization.scale
    return Quantization(scale, np.zeros(scale.shape, np.int32))


def pool_padding(op: MaxPool) -> tuple[Flavour, tuple[int, int]] | None:
    """How a file says an operator's padding, down and across; None where Tengine has no such padding."""
    starts, ends = op.pads[:2], op.pads[2:]
    if starts == ends:
        return Flavour.FLOOR, starts
    if all(end == start + step - 1 for start, end, step in zip(starts, ends, op.stride)):
        return Flavour.CEIL, starts
    if all(end - start in (0, 1) for start, end in zip(starts, ends)):
        return Flavour.HALVES, (starts[0] + ends[0], starts[1] + ends[1])
    return None


def window_count(size: int, kernel: int, stride: int, pad: int, flavour: int) -> int:
    """Along one side of what Tengine pools; `pad` is the file's at the start. Divisions round towards 0."""
    if flavour == Flavour.CEIL:
        return 2 + int((size - kernel + 2 * pad - 1) / stride)
    return 1 + int((size - kernel + (2 if flavour == Flavour.FLOOR else 1) * pad) / stride)


def stretched(size: int, scale: float) -> int:
    """How many pixels Tengine makes of so many."""
    return int(np.float32(size) * np.float32(scale))


def takes_nearest(size: int, made: int, scale: float) -> bool:
    """Whether Tengine, which divides positions by the scale in float32, takes the pixels that Upsample does."""
    at = np.arange(made)
    taken = (at.astype(np.float32) / np.float32(scale)).astype(np.int64)
    return bool(np.array_equal(taken, at * size // made))


def check_scales(
    what: str, dtype: np.dtype[Any], zero_points: Sequence[int], scales: Sequence[float]
) -> None:
    """Scales are positive, zero points values of the type."""
    for scale in scales:
        if not (math.isfinite(scale) and scale > 0):
            # Tengine's KL calibration leaves 0 at the inputs of an Eltwise.
            raise ModelError(
                f"{what} has scale {scale}; expected a positive number: quantise with min-max"
            )
    limits = np.iinfo(dtype)
    for zero_point in zero_points:
        if not limits.min <= zero_point <= limits.max:
            raise ModelError(f"{what} has zero point {zero_point}, which is no {dtype}")


def check_types(
    where: str, op: Op, inputs: list[Tensor], output: str, dtype: np.dtype[Any]
) -> None:
    """One type all through the network; only biases differ, and check_operands checks those."""
    for tensor in inputs[:2] if isinstance(op, Conv) else inputs:
        if tensor.dtype != dtype:
            raise ModelError(
                f"{where} makes {dtype} '{output}' from {tensor.dtype} '{tensor.name}'; "
                "expected one type"
            )


def check_operands(where: str, inputs: list[Tensor]) -> None:
    """A convolution's weight and bias are constants; the bias is of the type that the weight needs."""
    if len(inputs) not in (2, 3):
        raise ModelError(f"{where} has {len(inputs)} inputs; expected data, weight and maybe bias")
    for tensor in inputs[1:]:
        if not tensor.is_constant:
            raise ModelError(f"{where} needs a constant for its weight or bias '{tensor.name}'")
    data, weight = inputs[:2]
    for bias in inputs[2:]:
        expected = FLOAT32 if weight.dtype == FLOAT32 else INT32
        if bias.dtype != expected:
            raise ModelError(
                f"{where} has a {weight.dtype} weight and a {bias.dtype} bias '{bias.name}'; "
                f"expected {expected}"
            )
    if data.quantization is not None and data.quantization.scale.size != 1:
        found = data.quantization.scale.size
        raise ModelError(f"{where} reads '{data.name}', which has {found} scales; expected 1")
