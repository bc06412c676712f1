"""Operators on constants, which an exporter left to be computed when the network runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ...graph import Node, infer_shape
from .records import DTYPES, FLOAT, INT32, INT64
from .tensors import MAX_RANK, array, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .reader import Call, Walk

    Array = NDArray[Any]


def _constant(walk: Walk, call: Call) -> Array:
    call.require(len(call.attributes) == 1, "needs one value")
    (name,) = call.attributes
    field, dtype = CONSTANTS[name]
    value = call.value(name, field, None)
    values = array(value, str(call)) if field == "t" else np.array(value, dtype)
    walk.budget += values.size  # it lies in the file, as initialisers do
    return values


# Constant's attributes: the field of AttributeProto that holds the value, and its type.
CONSTANTS = {
    "value": ("t", None),
    "value_int": ("i", np.int64),
    "value_ints": ("ints", np.int64),
    "value_float": ("f", np.float32),
    "value_floats": ("floats", np.float32),
}


def _shape(walk: Walk, call: Call) -> Array:
    call.require(bool(call.input(0)), "has no input")
    shape = walk.shapes[call.inputs[0]]
    start, end = call.integer("start", 0), call.integer("end", len(shape))
    return np.array(shape[start:end], np.int64)


def _gather(walk: Walk, call: Call) -> Array:
    data, index = _known(walk, call, 0), _known(walk, call, 1)
    axis = walk.axis(call, call.integer("axis", 0), data.ndim)
    size = data.shape[axis]
    fits = index.dtype.kind == "i" and data.ndim + index.ndim <= MAX_RANK
    call.require(fits, "has indices that are no integers, or too many dimensions")
    inside = index.size == 0 or (index.min() >= -size and index.max() < size)
    call.require(bool(inside), f"has an index outside {size} values")
    walk.spend(call, index.size * (data.size // max(size, 1)))
    return np.take(data, index, axis=axis)


def _unsqueeze(walk: Walk, call: Call) -> Array:
    data = _known(walk, call, 0)
    axes = walk.indices(call, 1) if walk.opset >= 13 else call.integers("axes", ())
    rank = data.ndim + len(axes)
    call.require(rank <= MAX_RANK, f"makes {rank} dimensions")
    call.require(len(axes) > 0, "names no axes")
    places = {walk.axis(call, axis, rank) for axis in axes}
    call.require(len(places) == len(axes), f"has an axis twice in {axes}")
    sizes = iter(data.shape)
    return data.reshape([1 if place in places else next(sizes) for place in range(rank)])


def _joined(walk: Walk, call: Call) -> Array:
    parts = [_known(walk, call, index) for index in range(len(call.inputs))]
    op = walk.concat(call)
    call.require(len({part.dtype for part in parts}) == 1, "joins constants of several types")
    shape = infer_shape(
        Node(op, call.name, call.inputs, call.output), [part.shape for part in parts]
    )
    walk.spend(call, math.prod(shape))
    return np.concatenate(parts, axis=op.axis)


def _sliced(walk: Walk, call: Call) -> Array:
    return _known(walk, call, 0)[slices(walk, call)]


def slices(walk: Walk, call: Call) -> tuple[slice, ...]:
    """What a Slice takes of each axis; starts, ends and axes were attributes before operator set 10."""
    shape = walk.shapes[call.inputs[0]] if call.input(0) else ()
    if walk.opset < 10:
        starts, ends = list(call.integers("starts", ())), list(call.integers("ends", ()))
        axes, steps = list(call.integers("axes", range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = walk.indices(call, 1), walk.indices(call, 2)
        axes = walk.indices(call, 3) if call.input(3) else list(range(len(starts)))
        steps = walk.indices(call, 4) if call.input(4) else [1] * len(starts)
    call.require(
        len(starts) == len(ends) == len(axes) == len(steps), "has lists that differ in length"
    )
    call.require(all(step == 1 for step in steps), f"has steps {steps}; only 1 is supported")
    places = [walk.axis(call, axis, len(shape)) for axis in axes]
    call.require(len(set(places)) == len(places), f"has an axis twice in {axes}")
    parts = {place: slice(start, end) for place, start, end in zip(places, starts, ends)}
    return tuple(parts.get(place, slice(None)) for place in range(len(shape)))


def _converted(walk: Walk, call: Call) -> Array:
    data, target = _known(walk, call, 0), call.integer("to", 0)
    known = target in (FLOAT, INT32, INT64)
    call.require(known, f"makes data type {target}, not float, int32 or int64")
    dtype = DTYPES[target].newbyteorder("=")
    walk.spend(call, data.size * -(-dtype.itemsize // data.itemsize))
    return cast(data, dtype, str(call))


def _known(walk: Walk, call: Call, index: int) -> Array:
    call.require(bool(call.input(index)), f"lacks input {index}")
    return walk.constants[call.inputs[index]]


FOLDS: dict[str, Callable[[Walk, Call], Array]] = {
    "Constant": _constant,
    "Shape": _shape,
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Concat": _joined,
    "Slice": _sliced,
    "Cast": _converted,
}
