"""Weights -> networks: teachers, and what a checkpoint holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .. import networks as graphs
from .. import zoo
from ..errors import ModelError
from ..formats import torch_weights
from . import retinaface
from .networks import make_network

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from .blocks import Detector


# Of mobilenetV1X0.25_pretrain.tar, which Pytorch_Retinaface begins with; it tells 1000 classes.
BACKBONE_KEY = "stage1.0.0.weight"
_CLASSES = ("fc.weight", "fc.bias")


def network_of(weights: Mapping[str, Tensor], *, slope: float | None = None) -> Detector:
    """The network that these weights are of, with them, in evaluation mode.

    Of RetinaFace, with leaky ReLUs of that slope instead of the usual one.

    Raises:
        ModelError: It is none known here.
    """
    graphs.build(arrays_of(weights))  # says what is missing, too many or misshapen
    network, landmarks = described(weights)
    made = make_network(network, landmarks=landmarks, slope=slope)
    made.load_state_dict(dict(weights), strict=False)  # a file of PyTorch 0.3 counts no batches
    made.eval()
    return made


def described(weights: Mapping[str, Tensor]) -> tuple[str, bool]:
    """What make_network calls it, and whether it has landmarks."""
    if "ClassHead.0.conv1x1.weight" in weights:
        is_resnet = "body.conv1.weight" in weights
        name = retinaface.RESNET50_NAME if is_resnet else retinaface.MOBILENET_NAME
        return name, "LandmarkHead.0.conv1x1.weight" in weights
    network = "rfb" if any(".shortcut." in key for key in weights) else "slim"
    return network, "landm.3.weight" in weights


def _on_backbone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a whole network."""
    made = make_network(retinaface.MOBILENET_NAME, landmarks=True)
    body = {key: value for key, value in weights.items() if key not in _CLASSES}
    try:
        made.get_submodule("body").load_state_dict(body)
    except RuntimeError as error:
        raise ModelError(
            f"no backbone of {retinaface.MOBILENET_NAME}: {' '.join(str(error).split()):.300}"
        ) from None
    return dict(made.state_dict())


def arrays_of(weights: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """The same in NumPy, for `edgeface.networks`."""
    return {key: value.detach().float().cpu().numpy() for key, value in weights.items()}


def open_teacher(path: str | os.PathLike[str]) -> Detector:
    """A released .pth or a checkpoint of a run: of networks with the same priors.

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

    Of the pretrained backbone of RetinaFace, that network with the rest of its weights random.

    Raises:
        ModelError: It is none known here, or the file is damaged.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        arrays = torch_weights.read(data)
        weights = {key: torch.tensor(value) for key, value in arrays.items()}
        if BACKBONE_KEY in weights:
            weights = _on_backbone(weights)
        published = zoo.known(hashlib.sha256(data).hexdigest())
        return network_of(weights, slope=None if published is None else published.slope)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
