"""What a run begins with instead of random weights: a checkpoint, released weights or a model file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .. import model
from ..errors import ModelError
from ..graph import FLOAT32, Conv
from ..networks.ultraface import with_landmarks
from .networks import Ultraface, UltrafaceLandmark, make_network
from .weights import described, open_network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ..graph import Graph
    from .blocks import Detector
    from .config import Config

_MODEL_SUFFIXES = (".tmfile", ".onnx")


def is_model(path: Path) -> bool:
    """Whether a file's BatchNorms are folded: whatever begins with it has to settle."""
    return path.suffix in _MODEL_SUFFIXES


def open_start(path: Path) -> Detector:
    """The network in a checkpoint, a .pth or a float32 .tmfile or .onnx that edgeface wrote, in evaluation mode.

    A model file's BatchNorms are folded into its convolutions. Here they are a scale and a shift and have seen
    nothing: `settle` shows them images.

    Raises:
        ModelError: It is no network known here, or the file is damaged.
    """
    if not is_model(path):
        return open_network(path)
    try:
        return unfolded(model.read_graph(path)[1])
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def unfolded(graph: Graph) -> Detector:
    """The network whose modules have the names that this graph's convolutions have.

    Raises:
        ModelError: It is quantised, or some have other names or shapes.
    """
    if graph.tensors[graph.input].dtype != FLOAT32:
        raise ModelError("it is quantised; a run begins with float32 weights")
    arrays = {tensor.name: tensor.data for tensor in graph.constants if tensor.data is not None}
    network, landmarks = described(arrays)
    made: Detector = make_network(network, landmarks=landmarks, slope=_slope(graph))
    state = made.state_dict()
    for name, norm in _convolutions(made):
        state.update(_restored(name, norm, arrays))
    try:
        made.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"no {network} network: {' '.join(str(error).split()):.300}") from None
    made.eval()
    return made


def _slope(graph: Graph) -> float | None:
    """Of leaky ReLUs, if it has any."""
    slopes = [node.op.slope for node in graph.nodes if isinstance(node.op, Conv) and node.op.slope]
    return slopes[0] if slopes else None


def _convolutions(network: nn.Module) -> Iterator[tuple[str, tuple[str, nn.BatchNorm2d] | None]]:
    """Each convolution's name, and the BatchNorm behind it if it has no bias of its own."""
    modules = list(network.named_modules())
    for index, (name, module) in enumerate(modules):
        if not isinstance(module, nn.Conv2d):
            continue
        if module.bias is not None:
            yield name, None
            continue
        after, norm = modules[index + 1]
        assert isinstance(norm, nn.BatchNorm2d)  # blocks.conv_norm makes both
        yield name, (after, norm)


def _restored(
    name: str,
    norm: tuple[str, nn.BatchNorm2d] | None,
    arrays: Mapping[str, NDArray[np.generic]],
) -> dict[str, Tensor]:
    weight, bias = f"{name}.weight", f"{name}.bias"
    missing = [key for key in (weight, bias) if key not in arrays]
    if missing:
        raise ModelError(f"it has no {' and no '.join(missing)}; did edgeface write it?")
    kernel, shift = (torch.tensor(arrays[key]) for key in (weight, bias))
    if norm is None:
        return {weight: kernel, bias: shift}
    after, module = norm
    scale = _usual_norm(kernel) / _norms(kernel)
    return {
        weight: kernel * scale[:, None, None, None],
        f"{after}.weight": 1 / scale,
        f"{after}.bias": shift,
        f"{after}.running_var": torch.full_like(shift, 1 - module.eps),  # divided by the root of 1
    }


def _usual_norm(kernel: Tensor) -> float:
    """Of a filter at the start of a run that begins with random weights.

    Folding scales filters as their BatchNorm does, by up to a hundred times, and the steps of Adam are of one size.
    """
    fan_in, fan_out = kernel[0].numel(), kernel[:, 0].numel()
    return math.sqrt(2 / fan_out * fan_in)


def _norms(kernel: Tensor) -> Tensor:
    """Of each filter; of one of zeros, which no scale changes, the usual one."""
    norms = kernel.flatten(1).norm(dim=1)
    return torch.where(norms > 0, norms, torch.full_like(norms, _usual_norm(kernel)))


def settle(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Shows BatchNorms what they normalise, without changing what the network computes.

    Each takes on the mean and variance of what reaches it, and a scale and shift that undo them: in training it
    then normalises by a batch's own, which are near those.
    """
    seen: dict[nn.BatchNorm2d, list[Tensor]] = {}
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.BatchNorm2d)
        values = inputs[0].double()
        moments = torch.stack([values.mean((0, 2, 3)), values.square().mean((0, 2, 3))])
        seen.setdefault(module, []).append(moments)

    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    was_training = network.training
    with torch.no_grad():
        network.eval()
        for image in images:
            network(image)
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    for norm, moments in seen.items():
        _take_on(norm, *torch.stack(moments).mean(0))


def _take_on(norm: nn.BatchNorm2d, mean: Tensor, square: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    variance = (square - mean.square()).clamp(min=0)
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    with torch.no_grad():
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(shift + mean * scale)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def fitted(start: Detector, config: Config) -> tuple[Detector, list[str]]:
    """A network of the run's kind that begins as `start` where it has the same arrays, and the names of the rest.

    Slim and RFB differ in one block alone, so that one may begin with the other's weights; and one with landmarks
    with the weights of one without.

    Raises:
        ValueError: Less than half of its values would begin so.
    """
    torch.manual_seed(config.seed)
    slope = getattr(start, "slope", None)
    made = make_network(config.network, landmarks=config.landmarks, slope=slope)
    wanted = made.state_dict()
    found: Mapping[str, Tensor] = start.state_dict()
    if isinstance(start, Ultraface) and isinstance(made, UltrafaceLandmark):
        found = {with_landmarks(key): value for key, value in found.items()}
    common = {
        key: value
        for key, value in found.items()
        if key in wanted and wanted[key].shape == value.shape
    }
    if _values(common) * 2 < _values(wanted):
        raise ValueError(f"the weights to begin with are of another network than {config.kind}")
    made.load_state_dict(common, strict=False)
    return made, [key for key in wanted if key not in common]


def _values(state: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in state.values())
