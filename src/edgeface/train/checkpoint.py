"""Runs on disk: written so that one is always whole, read without executing anything."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ModelError
from .config import from_dict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .config import Config

# Of files that are something else, or that would run code; PyTorch's texts are about its own options.
_UNREADABLE = (
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
)


_OF_A_RUN = ("network", "state_dict", "optimizer", "steps", "progress")


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Replaces the file; the old one stays until the new one is on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read(path: Path) -> tuple[Config, dict[str, Any]]:
    """The run's config and all that was written.

    Raises:
        FileNotFoundError: There is no such file.
        ModelError: It is no checkpoint of a run.
    """
    state = _load(path)
    if not isinstance(state, dict) or not isinstance(state.get("config"), dict):
        raise _no_checkpoint(path, "there is no config in it")
    try:
        return from_dict(state["config"]), state
    except (KeyError, TypeError, ValueError) as error:
        raise _no_checkpoint(path, f"its config does not fit: {error!s:.100}") from None


def read_run(path: Path) -> tuple[Config, dict[str, Any]]:
    """As `read`, of a run that may go on: ModelError too where only weights are there."""
    config, state = read(path)
    missing = [key for key in _OF_A_RUN if key not in state]
    if missing:
        raise _no_checkpoint(path, f"there is no {' and no '.join(missing)} in it")
    return config, state


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE:
        raise _no_checkpoint(path, "it is damaged, or something else") from None


def _no_checkpoint(path: Path, why: str) -> ModelError:
    return ModelError(f"{path}: no checkpoint of `edgeface train run`: {why}")
