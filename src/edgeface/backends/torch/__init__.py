"""PyTorch: all five steps of a detect on one device, for machines with a GPU.

Frames are uploaded as they are, many of one size together, and faces come back; nothing else crosses in
between. The modules have the names of the core's: preprocess, decode, nms, detector. Nothing here imports
PyTorch before it is asked for; that takes seconds.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from typing import TYPE_CHECKING

from ...errors import BackendError
from .. import probe
from ..target import CPU

if TYPE_CHECKING:
    from ...graph import Graph
    from ..target import Target
    from .runner import Runner

NAME = "torch"


def unavailable() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return "the torch package is not installed (pip install edgeface[torch])"
    if "torch" in sys.modules or platform.machine().lower() in ("x86_64", "amd64"):
        return None
    # Its releases for ARM died with an illegal instruction on older cores, so a child imports it first.
    reason = probe.import_failure("torch")
    return None if reason is None else f"importing torch {reason}"


def yields(target: Target) -> str | None:
    # Others are faster there, and importing PyTorch takes seconds.
    return "auto takes it for a GPU or half precision alone" if target == CPU else None


def about() -> str:
    """The version, and whether there is a GPU for it."""
    try:
        import torch
    except (ImportError, OSError) as error:  # a library that it needs is missing or damaged
        raise BackendError(f"importing torch fails: {error}") from None
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no"
    return f"{torch.__version__}, CUDA: {gpu}"


def open_graph(graph: Graph, num_threads: int) -> Runner:
    return open_on(graph, num_threads, CPU)


def open_on(graph: Graph, num_threads: int, target: Target) -> Runner:
    about()  # whether it can be imported
    from .runner import Runner

    return Runner(graph, num_threads, target)
