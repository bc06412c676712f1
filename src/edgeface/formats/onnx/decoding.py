"""SSD box decoding that an exporter left at a network's end: proven to be that, and its parameters."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from ...graph import Shape

    Array = NDArray[Any]

MAX_PRIORS = 1 << 17  # 1920x1080 with strides 8, 16, 32 and two priors a cell makes 85,200
MAX_TAIL = 32  # operators of a box decoder; the released ones have 14


@dataclass(frozen=True, eq=False)
class Decoding:
    """SSD box decoding that was found in a file: what its offsets are relative to."""

    priors: NDArray[np.float32]  # (N, 4): centre x, centre y, width, height
    variances: tuple[float, float]  # of centres, of sizes


class Step(NamedTuple):
    """An operator that only a box decoder may contain, ready to be evaluated."""

    kind: str
    label: str  # for errors
    inputs: tuple[str, ...]
    output: str
    evaluate: Callable[..., Array]


def identify(
    output: str,
    value: str,
    steps: Iterable[Step],
    constants: Mapping[str, Array],
    shapes: Mapping[str, Shape],
) -> tuple[str, Decoding]:
    """The raw offsets that `output` is decoded from, and how, once that is proven.

    Args:
        output: The output's name, for errors.
        value: The value behind it, which one of the steps makes.
        steps: Every step in the file, in order.
        constants: The constants that they may read.
        shapes: Those of all values.
    """
    tail = _behind(steps, value)
    made = {step.output for step in tail}
    read = {name for step in tail for name in step.inputs}
    sources = read - made - set(constants)
    shape = shapes[next(iter(sources))] if len(sources) == 1 else ()
    kinds = ", ".join(sorted({step.kind for step in tail}))
    refusal = (
        f"output '{output}' is made by {kinds} ({tail[-1].label}): "
        "box decoding in the graph was found, but it is not SSD's"
    )
    if len(shape) != 3 or shape[0] != 1 or shape[2] != 4 or not 1 <= shape[1] <= MAX_PRIORS:
        raise ModelError(refusal)
    # With no value larger than the offsets, evaluating takes a bounded memory.
    small = all(math.prod(shapes[name]) <= math.prod(shape) for name in made)
    if len(tail) > MAX_TAIL or not small or shapes[value] != shape:
        raise ModelError(refusal)
    (source,) = sources
    used = {name: constants[name] for name in read - made - sources}
    decoding = _proven(functools.partial(_evaluated, tail, used, source), shape[1])
    if decoding is None:
        raise ModelError(refusal)
    return source, decoding


def _behind(steps: Iterable[Step], value: str) -> list[Step]:
    """The steps that `value` needs, in order."""
    needed, found = {value}, []
    for step in reversed(list(steps)):
        if step.output in needed:
            needed.update(step.inputs)
            found.append(step)
    return found[::-1]


def _evaluated(
    tail: list[Step], constants: Mapping[str, Array], source: str, offsets: Array
) -> Array:
    """What the tail makes of (N, 4) offsets, in float64."""
    values: dict[str, Array] = {name: c.astype(np.float64) for name, c in constants.items()}
    values[source] = offsets.reshape(1, *offsets.shape)
    for step in tail:
        values[step.output] = step.evaluate(*(values[name] for name in step.inputs))
    return values[tail[-1].output].reshape(offsets.shape)


def _proven(decode: Callable[[Array], Array], count: int) -> Decoding | None:
    """The parameters with which `decode` is SSD's box decoding, None when it is another function.

    Zero offsets give the priors, ones the variances. That these two explain every other offset is
    then tried on random ones: the operators are elementwise, so agreement is no coincidence.
    """
    ones = np.ones((count, 4))
    random = np.random.default_rng(0).uniform(-4, 4, (3, count, 4))
    with np.errstate(all="ignore"):
        priors = _centred(decode(0 * ones)).astype(np.float32)
        moved = _centred(decode(ones))
        if not (np.isfinite(priors).all() and np.isfinite(moved).all() and priors[:, 2:].min() > 0):
            return None
        shift = (moved[:, :2] - priors[:, :2]) / priors[:, 2:]
        growth = np.log(moved[:, 2:] / priors[:, 2:])
        decoding = Decoding(priors, (_variance(shift), _variance(growth)))
        if not min(decoding.variances) > 0:  # a NaN fails it too
            return None
        agrees = all(_agrees(decode(offsets), decoding, offsets) for offsets in random)
    return decoding if agrees else None


def _centred(corners: Array) -> Array:
    """Centre x, centre y, width, height of x1, y1, x2, y2."""
    first, last = corners[:, :2], corners[:, 2:]
    return np.concatenate([(first + last) / 2, last - first], axis=1)


def _variance(values: Array) -> float:
    """The shortest decimal that is the same float32: 0.1, not 0.10000000149."""
    return float(str(np.float32(np.median(values))))


def _agrees(corners: Array, decoding: Decoding, offsets: Array) -> bool:
    """Whether these corners are what SSD's decoding (the paper's section 2.2) makes of the offsets."""
    priors = decoding.priors.astype(np.float64)
    shift = offsets[:, :2] * decoding.variances[0] * priors[:, 2:]
    growth = offsets[:, 2:] * decoding.variances[1]
    size = priors[:, 2:] * np.exp(growth)
    centre = priors[:, :2] + shift
    want = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    # Exporters round each prior and variance, and perhaps their product, to float32: up to three
    # roundings of 2**-24 in every term, the exponent's multiplied by itself.
    terms = np.abs(priors[:, :2]) + np.abs(shift) + size * (1 + np.abs(growth))
    slack = 3 * 2.0**-24 * np.concatenate([terms, terms], axis=1)
    return bool((np.abs(corners - want) <= slack).all())
