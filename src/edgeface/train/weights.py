"""Weights -> networks: teachers, and what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .. import networks as graphs
from ..errors import ModelError
from ..formats import torch_weights
from .networks import make_network

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from .networks import Detector


def network_of(weights: Mapping[str, Tensor]) -> Detector:
    """The network that these weights are of, with them, in evaluation mode.

    Raises:
        ModelError: It is none known here.
    """
    graphs.build(arrays_of(weights))  # says what is missing, too many or misshapen
    landmarks = "landm.3.weight" in weights
    network = "rfb" if any(".shortcut." in key for key in weights) else "slim"
    made = make_network(network, landmarks=landmarks)
    made.load_state_dict(dict(weights), strict=False)  # a file of PyTorch 0.3 counts no batches
    made.eval()
    return made


def arrays_of(weights: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """The same in NumPy, for `edgeface.networks`."""
    return {key: value.detach().float().cpu().numpy() for key, value in weights.items()}


def open_teacher(path: str | os.PathLike[str]) -> Detector:
    """Ultra-Light's released .pth or a checkpoint of a run: of networks with the same priors.

    Raises:
        ModelError: It is something else.
    """
    teacher = open_network(path)
    if "landm.3.weight" in teacher.state_dict():
        raise ModelError(f"{path}: with landmarks; the released ones have other priors and colours")
    teacher.requires_grad_(False)
    return teacher


def open_network(path: str | os.PathLike[str]) -> Detector:
    """The network in a .pth or in a checkpoint of a run, in evaluation mode.

    Raises:
        ModelError: It is none known here, or the file is damaged.
    """
    path = Path(path)
    try:
        arrays = torch_weights.read(path.read_bytes())
        return network_of({key: torch.tensor(value) for key, value in arrays.items()})
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
