"""Labels that are lines of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import DataError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


def read_lines(path: Path) -> list[str]:
    """Without the spaces around each."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from None
    return [line.strip() for line in text.split("\n")]


def numbers(where: str, line: str, counts: Collection[int]) -> list[float]:
    """The line's numbers, as many as one of `counts`."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        raise DataError(f"{where}: {line!r} is not numbers") from None
    if len(values) not in counts:
        expected = " or ".join(map(str, counts))
        raise DataError(f"{where}: {len(values)} numbers in {line!r}; expected {expected}")
    return values
