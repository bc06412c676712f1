"""A checkpoint -> a model file with its spec: .tmfile or .onnx, BatchNorm folded."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .. import _core, convert, model, networks, parity, zoo
from .. import spec as specs
from ..backends import open_backend
from ..errors import ModelError
from . import checkpoint, retinaface
from .weights import arrays_of, network_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ..convert import Converted
    from ..model import Model
    from ..spec import ModelSpec
    from .config import Config

NOISE = "noise"


def spec_of(config: Config, network: nn.Module) -> ModelSpec:
    """What a network of that run is trained with: as its family, with landmarks or without."""
    graph = networks.build(arrays_of(network.state_dict()), config.size)
    family = zoo.retinaface if config.network in retinaface.NETWORKS else zoo.ultraface
    spec = family(graph)
    landmarks = "landmarks" if config.landmarks else None
    return dataclasses.replace(
        spec,
        name=config.name,
        heads=dataclasses.replace(spec.heads, landmarks=landmarks),
        licence=config.licence,
        training_data=config.training_data or None,
    )


def export(
    source: Path,
    target: Path,
    *,
    frames: Mapping[str, NDArray[np.uint8]] | None = None,
    force: bool = False,
    silences: bool = False,
) -> tuple[Converted, dict[str, float]]:
    """Writes the averaged weights of a checkpoint as `target` says: .tmfile or .onnx.

    A trial is written first, read again and run beside PyTorch on noise and `frames` (BGR, by name). `silences`:
    without the channels that `silence` finds.

    Returns:
        What was written, and by how much heads differ, relative to their largest value, by name of the input.

    Raises:
        ValueError: The target's suffix is another one.
        FileExistsError: The target is there already, and `force` is not given.
        ModelError: The source is no checkpoint, or the trial says something else than PyTorch.
    """
    config, state = checkpoint.read(source)
    network = network_of(state["state_dict"])
    with tempfile.TemporaryDirectory() as folder:
        if silences:
            silence(network)
            source = Path(folder, "weights.pth")
            torch.save(network.state_dict(), source)
        spec = Path(folder, "spec.json")
        # Weights have no size: `convert` takes them for the default one, and is told which.
        small = spec_of(config, network).resized(*networks.DEFAULT_SIZE)
        spec.write_text(specs.to_json(small), encoding="utf-8")
        trial = Path(folder, f"trial{target.suffix}")
        convert.convert(source, trial, spec=spec, input_size=config.size)
        found = differences(model.load(trial), network, frames or {})
        _check(target, found)
        return convert.convert(
            source, target, spec=spec, input_size=config.size, force=force
        ), found


def silence(network: nn.Module) -> None:
    """Lets channels that hardly ever varied in training say one thing always.

    A BatchNorm makes the most of what little it sees: where that is less than its epsilon, an image that wakes the
    channel after all comes out many times as large as anything in training. An rfb640 had such channels times 80,000; without
    them its AP on faces of 128 pixels and more went from .918 to .970, and on images like those of its training stayed.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.weight.data[module.running_var < module.eps] = 0


def differences(
    written: Model, network: nn.Module, frames: Mapping[str, NDArray[np.uint8]]
) -> dict[str, float]:
    """The largest difference of a head, relative to its largest value, on noise and on each frame."""
    spec = written.spec
    shape = written.graph.tensors[written.graph.input].shape
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    inputs = {NOISE: noise}
    for name, frame in frames.items():
        inputs[name] = _core.preprocess(frame, model.core_spec(spec), "bgr").reshape(shape)
    return {name: _difference(written, network, image) for name, image in inputs.items()}


def _difference(written: Model, network: nn.Module, image: NDArray[np.float32]) -> float:
    backend, _ = open_backend(written.graph, "native", num_threads=1)
    backend.input()[:] = image
    backend.run()
    with torch.no_grad():
        heads = network(torch.from_numpy(image))
    names = written.spec.heads
    wanted = {names.scores: heads.scores.softmax(-1), names.boxes: heads.boxes}
    if names.landmarks is not None:
        wanted[names.landmarks] = heads.landmarks
    return max(_relative(backend.output(name), value.numpy()) for name, value in wanted.items())


def _relative(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    return float(np.abs(found.reshape(wanted.shape) - wanted).max() / np.abs(wanted).max())


def _check(target: Path, found: Mapping[str, float]) -> None:
    limit = parity.SAME.tensor
    # Not `>`: a difference that is no number is none that may pass.
    wrong = [f"{name} {value:.2g}" for name, value in found.items() if not value <= limit]
    if wrong:
        raise ModelError(
            f"{target} is not written: it differs from PyTorch by more than {limit:g} of a head's "
            f"largest value on {', '.join(wrong)}"
        )
