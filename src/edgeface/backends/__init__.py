"""The table of backends: what each opens, and why it cannot.

A backend module offers `NAME`, `unavailable() -> str | None` (why it cannot be used here at all) and
`open_graph(graph, num_threads) -> Backend`, which raises BackendError with the reason when it cannot run
that network. It may offer `discouraged(graph) -> str | None`: why `auto` must not take it for a network that
it would open, of which whoever asks for it by name is warned; `yields(target) -> str | None`: why `auto` leaves that
device to others, which is no reason to warn; `open_on(graph, num_threads, target)`, where it runs on more than the CPU
in float32; and `about() -> str`, what is to be known of it here. Other packages register theirs in the entry point
group `edgeface.backends`; docs/backends.md shows how.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import BackendError
from . import native, onnxruntime, tengine, torch
from .plugins import registered
from .target import CPU

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ..graph import Graph
    from .target import Target


class Backend(Protocol):
    """A network ready to run."""

    def input(self) -> NDArray[Any]:
        """The (1, C, H, W) float32 array to fill before every run, in any memory order."""

    def run(self) -> None: ...

    def output(self, name: str) -> NDArray[Any]:
        """A contiguous float32 array whose last axis is a row; valid until the input is written."""


class BackendModule(Protocol):
    """What this package expects of a module that offers a backend."""

    NAME: str

    def unavailable(self) -> str | None: ...

    def open_graph(self, graph: Graph, num_threads: int) -> Backend: ...


# In the order in which `auto` tries them; plug-ins follow by name.
_BUILT_IN: tuple[BackendModule, ...] = (native, tengine, torch, onnxruntime)
_WORDS = ("auto", "all")  # what else the option --backend takes


class _Table(Mapping[str, BackendModule]):
    """By name. Other packages are looked through when it is first read, and not at import."""

    def __getitem__(self, name: str) -> BackendModule:
        return self._modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    @functools.cached_property
    def _modules(self) -> dict[str, BackendModule]:
        modules = {module.NAME: module for module in _BUILT_IN}
        for plugin in registered():
            # A package that happens to be installed must not replace what everybody means by a name.
            if plugin.NAME not in _WORDS:
                modules.setdefault(plugin.NAME, plugin)
        return modules


BACKENDS: Mapping[str, BackendModule] = _Table()


@dataclass(frozen=True)
class Support:
    """Whether a backend runs a network: `refusal` says why not, and is None where it does."""

    backend: str
    refusal: str | None
    isa: str | None  # whose instructions its kernels use; None where the backend does not say
    discouraged: str | None = None  # why `auto` does not take it all the same


@dataclass(frozen=True)
class Choice:
    """The backend that runs, and why every other one does not."""

    name: str
    isa: str | None
    refused: Mapping[str, str]

    def __str__(self) -> str:
        return self.name


def open_backend(
    graph: Graph, wanted: str, num_threads: int, target: Target = CPU
) -> tuple[Backend, Choice]:
    """The backend of that name, or for `auto` the first that runs the graph on that device.

    `auto` defers to the environment variable EDGEFACE_BACKEND where it is set. It passes over a backend that
    is known to compute wrongly; one that was asked for by name is taken with a RuntimeWarning.

    Raises:
        ValueError: There is no backend of that name.
        BackendError: It, or under `auto` every one, cannot run the graph; says why.
    """
    candidates = _candidates(wanted)
    refused = {
        name: f"{candidates[0]} was asked for" for name in BACKENDS if name not in candidates
    }
    for i, name in enumerate(candidates):
        try:
            doubt = _discouraged(name, graph)
            passed_over = doubt or _yields(name, target)
            if passed_over is not None and len(candidates) > 1:
                raise BackendError(f"{passed_over} (it runs when asked for by name)")
            backend = _open(name, graph, num_threads, target)
        except BackendError as error:
            refused[name] = str(error)
            continue
        if doubt is not None:
            warnings.warn(f"the backend {name}: {doubt}", RuntimeWarning, stacklevel=3)
        refused.update(
            dict.fromkeys(candidates[i + 1 :], f"{name} comes first and runs this network")
        )
        return backend, Choice(name, _isa(backend), refused)
    reasons = "; ".join(f"{name}: {refused[name]}" for name in candidates)
    raise BackendError(f"the network cannot be run. {reasons}")


def supporting(graph: Graph, target: Target = CPU) -> tuple[Support, ...]:
    """Every backend, in the order in which `auto` tries them."""
    return tuple(_support(name, graph, target) for name in BACKENDS)


def _candidates(wanted: str) -> list[str]:
    if wanted == "auto":
        wanted = os.environ.get("EDGEFACE_BACKEND") or "auto"
    if wanted != "auto" and wanted not in BACKENDS:
        raise ValueError(f"unknown backend {wanted!r}; expected auto, {', '.join(BACKENDS)}")
    return list(BACKENDS) if wanted == "auto" else [wanted]


def _support(name: str, graph: Graph, target: Target) -> Support:
    try:
        isa = _isa(_open(name, graph, 1, target))
        return Support(name, None, isa, _discouraged(name, graph) or _yields(name, target))
    except BackendError as error:
        return Support(name, str(error), None)


def _open(name: str, graph: Graph, num_threads: int, target: Target) -> Backend:
    module = BACKENDS[name]
    open_on: Any = getattr(module, "open_on", None)
    if target != CPU and open_on is None:
        raise BackendError(f"it runs on {CPU} alone, not on {target}")
    reason = module.unavailable()
    if reason is not None:
        raise BackendError(reason)
    if target == CPU:
        return module.open_graph(graph, num_threads)
    opened: Backend = open_on(graph, num_threads, target)
    return opened


def _discouraged(name: str, graph: Graph) -> str | None:
    discouraged = getattr(BACKENDS[name], "discouraged", None)
    reason: str | None = None if discouraged is None else discouraged(graph)
    return reason


def _yields(name: str, target: Target) -> str | None:
    yields = getattr(BACKENDS[name], "yields", None)
    reason: str | None = None if yields is None else yields(target)
    return reason


def _isa(backend: Backend) -> str | None:
    return getattr(backend, "isa", None)
