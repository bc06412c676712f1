"""Results, errors and progress bars of commands that take many inputs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .tables import squeezed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO, TypeVar

    Item = TypeVar("Item")


class Console:
    """Lines of results and of errors, and progress bars, which share a terminal."""

    def __init__(self) -> None:
        self.failures = 0
        self._tqdm: Any = None

    def start_bars(self) -> None:
        """Shows the bars of `progress` from now on, where a person looks at stderr."""
        if not sys.stderr.isatty():
            return
        try:
            from tqdm import tqdm
        except ImportError:
            self._write('edgeface: no progress bar: pip install "edgeface[image]"', sys.stderr)
        else:
            self._tqdm = tqdm

    def result(self, line: str) -> None:
        self._write(line, sys.stdout)
        # Whoever reads a long video through a pipe wants every frame when it is done.
        sys.stdout.flush()

    def failure(self, message: str) -> None:
        """Says what went wrong with one input; the others go on."""
        self.failures += 1
        self._write(f"edgeface: {squeezed(message)}", sys.stderr)

    def progress(self, items: Iterable[Item], unit: str, total: int | None) -> Iterable[Item]:
        if self._tqdm is None or total == 1:
            return items
        bar: Iterable[Item] = self._tqdm(items, unit=unit, total=total, leave=False)
        return bar

    def _write(self, line: str, stream: TextIO) -> None:
        if self._tqdm is None:
            print(line, file=stream)
        else:
            # Wipes the bars, writes, and draws them again below.
            self._tqdm.write(line, file=stream)
