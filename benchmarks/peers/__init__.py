"""The runtimes that are compared, each behind a short adapter of the same form.

An adapter imports its runtime only when it opens a model, because every one runs in a process of its own:

    PACKAGE       whose version is recorded
    SUFFIXES      of the model files that it opens
    VARIANTS      its options by name; the variant that is fastest here counts
    WITHOUT_INT8  why it has no int8 row where no quantised file of it is given
    open_model(path, num_threads, options) -> Runner
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Heads = tuple[Floats, Floats]

RUNTIMES = ("edgeface", "onnxruntime", "openvino", "litert", "ncnn", "mnn", "opencv")
PRECISIONS = ("fp32", "int8")
# What a file's name says besides which network it holds.
_DECORATION = re.compile(
    r"version|simplified|without|postprocessing|ncnn|int8|uint8|fp32|tmfile|[^a-z0-9]"
)


class Runner(Protocol):
    """A network ready to run."""

    def prepare(self, image: Floats) -> Any:
        """A (1, 3, H, W) float32 image in the form in which preprocessing would have left it."""

    def fill(self, prepared: Any) -> None:
        """Places it where the runtime reads it: before every run, which may use that memory."""

    def run(self) -> None:
        """All that is timed."""

    def heads(self) -> Heads:
        """Of the last run: (priors, 2) scores and (priors, 4) offsets, float32."""


class Adapter(Protocol):
    """A module of this package."""

    PACKAGE: str
    SUFFIXES: tuple[str, ...]
    VARIANTS: Mapping[str, Mapping[str, Any]]
    WITHOUT_INT8: str

    def open_model(self, path: Path, num_threads: int, options: Mapping[str, Any]) -> Runner: ...


@dataclass(frozen=True)
class Candidate:
    """A way to run a network on a runtime."""

    runtime: str
    precision: str
    path: Path
    variant: str

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.path.name, self.variant)))


def adapter(runtime: str) -> Adapter:
    """The module of that name here; that of edgeface is `native`, as its own backend is."""
    name = "native" if runtime == "edgeface" else runtime
    return cast("Adapter", importlib.import_module(f"{__name__}.{name}"))


def network_name(path: Path) -> str:
    """What files of one network have in common: version-RFB-320.onnx and RFB-320.int8.mnn are rfb320."""
    return _DECORATION.sub("", path.name.lower()[: -len(path.suffix)])


def is_int8(path: Path) -> bool:
    return "int8" in path.name.lower()


def candidates(
    runtime: str, precision: str, network: str, files: Iterable[Path]
) -> Iterator[Candidate]:
    """Every file of the network that the runtime opens, with every variant of its options."""
    module = adapter(runtime)
    for path in files:
        fits = network_name(path) == network and is_int8(path) == (precision == "int8")
        if fits and path.suffix in module.SUFFIXES:
            yield from (Candidate(runtime, precision, path, name) for name in module.VARIANTS)


def by_columns(outputs: Sequence[NDArray[Any]]) -> Heads:
    """Scores have two columns and boxes four, in whatever order a converter left them; landmarks, ten, are dropped."""
    found = {array.shape[-1]: array.reshape(-1, array.shape[-1]) for array in outputs}
    if set(found) not in ({2, 4}, {2, 4, 10}):
        raise ValueError(f"outputs have shapes {[array.shape for array in outputs]}")
    return found[2], found[4]
