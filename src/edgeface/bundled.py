"""Models that come with edgeface: NAME.tmfile, its spec NAME.json and its card NAME.md.

`models/` of the repository has them all. A wheel has those in int8 without landmarks, which is what a board runs and
what fits; an editable install uses the repository's.
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import ModelError

# The int8 model with the best AP for its time: what FaceDetector() opens.
DEFAULT = "rfb320-int8"
SUFFIX = ".tmfile"
# What the AP in their specs was measured on, and how frames were fitted; their cards have the whole protocol.
AP_IMAGES, AP_RESIZE = 202, "stretched to the input size"
# Of an installed package, and of a working tree.
_FOLDERS = (Path(__file__).with_name("models"), Path(__file__).parents[2] / "models")


def folder() -> Path:
    """Where the models are."""
    return next((path for path in _FOLDERS if path.is_dir()), _FOLDERS[0])


def names() -> list[str]:
    """Of all models here, sorted."""
    return sorted(path.stem for path in folder().glob(f"*{SUFFIX}"))


def path_of(name: str) -> Path:
    """The model's file.

    Raises:
        ModelError: There is none of that name; says which there are.
    """
    found = names()
    if name not in found:
        there = (
            f"there are {', '.join(found)}" if found else "there is none in this copy of edgeface"
        )
        raise ModelError(
            f"no model {name!r} comes with edgeface: {there}; a file needs its suffix, {name}{SUFFIX}"
        )
    return folder() / f"{name}{SUFFIX}"


def resolved(path: str | os.PathLike[str]) -> Path:
    """The file that is meant: a bundled model's for a name without suffix and folder, else the path itself.

    Nothing is shadowed by that, as no model file is without a suffix.
    """
    text = os.fspath(path)
    is_name = text != "" and Path(text).name == text and "." not in text
    return path_of(text) if is_name else Path(path)
