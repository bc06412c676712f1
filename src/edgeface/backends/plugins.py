"""Backends of other packages, which register them in the entry point group `edgeface.backends`."""

from __future__ import annotations

import functools
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ..errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..graph import Graph

GROUP = "edgeface.backends"


def registered() -> list[PlugIn]:
    """One for every name that is registered, by name; nothing of them is imported yet."""
    first: dict[str, metadata.EntryPoint] = {}
    for entry in sorted(_entries(), key=lambda entry: (entry.name, entry.value)):
        first.setdefault(entry.name, entry)
    return [PlugIn(entry) for entry in first.values()]


class PlugIn:
    """A backend module that is imported when it is first asked something.

    Whatever goes wrong inside is a reason against this one backend and no trouble for the others.
    """

    def __init__(self, entry: metadata.EntryPoint) -> None:
        self.NAME = entry.name
        self._entry = entry

    def unavailable(self) -> str | None:
        try:
            reason: str | None = self._module.unavailable()
        except Exception as error:  # noqa: BLE001 - somebody else's code
            return self._trouble(error)
        return reason

    def discouraged(self, graph: Graph) -> str | None:
        try:
            reason: str | None = self._module.discouraged(graph)
        except Exception:  # noqa: BLE001 - it has none, or opening will tell what is the matter
            return None
        return reason

    def open_graph(self, graph: Graph, num_threads: int) -> Any:
        try:
            return self._module.open_graph(graph, num_threads)
        except BackendError:
            raise
        except Exception as error:
            raise BackendError(self._trouble(error)) from error

    @functools.cached_property
    def _module(self) -> Any:
        return self._entry.load()

    def _trouble(self, error: Exception) -> str:
        return f"the plug-in {self._entry.value} fails with {type(error).__name__}: {error}"


def _entries() -> Iterable[metadata.EntryPoint]:
    if sys.version_info >= (3, 10):
        return metadata.entry_points(group=GROUP)
    else:  # noqa: RET505 - for mypy, which takes what follows for unreachable
        return metadata.entry_points().get(GROUP, ())
