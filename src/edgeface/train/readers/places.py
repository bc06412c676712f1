"""Where a data set's images are: labels do not say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import DataError
from ..samples import Source
from .image_size import image_size

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

# How many of the first images are looked for: a few may be missing.
TRIED = 20


def image_root(labels: Path, places: Iterable[Path], names: Sequence[str]) -> Path:
    """The first of `places` that has one of the images; DataError lists them all where none has."""
    tried = list(dict.fromkeys(places))
    for place in tried:
        if any((place / name).is_file() for name in names[:TRIED]):
            return place
    if not names:
        raise DataError(f"{labels}: no image in it")
    where = ", ".join(map(str, tried))
    raise DataError(f"{labels}: found none of its images, such as {names[0]}, in: {where}")


def image_at(where: str, path: Path) -> tuple[Source, tuple[int, int]]:
    """The image's bytes and its width and height; DataError where there is none."""
    if not path.is_file():
        raise DataError(f"{where}: no image {path}")
    source = Source(path)
    return source, image_size(str(path), source)
