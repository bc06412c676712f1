"""A network that learns: its weights, their average, the optimizer and one step."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from . import mirror
from .blocks import Detector, Heads
from .export import spec_of
from .loss import Losses, Taught, distillation_loss, feature_loss, multibox_loss
from .networks import make_network
from .optimizer import make_optimizer
from .retinaface import RetinaFace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .config import Config
    from .priors import Targets


class Step(NamedTuple):
    """What a step cost, before it; scalars."""

    total: Tensor
    losses: Losses
    taught: Taught | None  # the distance from the teacher
    norm: Tensor  # of the gradient, before it is clipped


class Learner:
    """Everything that a step changes."""

    def __init__(
        self,
        config: Config,
        device: torch.device,
        *,
        teacher: Detector | None = None,
        start: nn.Module | None = None,
    ) -> None:
        self.config = config
        self.device = device
        torch.manual_seed(config.seed)  # of the weights alone: batches have their own generator
        network = make_network(config.network, landmarks=config.landmarks)
        if start is not None:
            _load(network, start, config)
        # About twice as fast as PyTorch's own order: 320x240 on two AVX-512 cores, 6.7 to 16.6 images a
        # second of CPU time in float32, 17 to 32 in bfloat16.
        self.network = network.to(device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        _hold(self.network, config.learns)
        self.optimizer = make_optimizer(config, self.network)
        self.steps = 0
        self._forward = _compiled(self.network, config)
        self._teach = None
        if teacher is not None:
            if isinstance(teacher, RetinaFace) != isinstance(network, RetinaFace):
                raise ValueError(f"the teacher has other priors than a {config.network} network")
            teacher = teacher.to(device, memory_format=torch.channels_last)
            if config.distillation.features > 0:
                _check_features(self.network, teacher, config)
            self._teach = _compiled(teacher, config)
            self._places = _places(config, network, device) if config.distillation.mirror else {}

    def step(self, images: Tensor, targets: Targets, rate: float) -> Step:
        """One update from (N, 3, height, width); what it returns is not waited for."""
        # BatchNorms that stay as they are do not follow batches either.
        self.network.train(self.config.batch_statistics and not self.config.learns)
        total, losses, taught = self._cost(images, targets)
        self.optimizer.zero_grad()
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self._follow()
        self.steps += 1
        return Step(*map(_detached, (total, losses, taught, norm)))

    def _cost(self, images: Tensor, targets: Targets) -> tuple[Tensor, Losses, Taught | None]:
        config = self.config
        taught, spared = None, None
        with torch.autocast(self.device.type, torch.bfloat16, config.precision == "bfloat16"):
            heads, features = _seen(self._forward(images))
            if self._teach is not None:
                with torch.no_grad():
                    teacher, wanted = self._taught(self._teach, images)
        if self._teach is not None:
            options = config.distillation
            taught = Taught(
                *distillation_loss(
                    heads, teacher, temperature=options.temperature, confident=options.confident
                ),
                feature_loss(features, wanted)
                if options.features > 0
                else heads.scores.new_zeros(()),
            )
            spared = teacher.scores.float().softmax(-1)[..., 1] > options.spare
        losses = multibox_loss(heads, targets, negatives=config.negatives, spared=spared)
        total = losses.scores + config.box_weight * losses.boxes
        total = total + config.landmark_weight * losses.landmarks
        if taught is not None:
            total = total + options.scores * taught.scores + options.boxes * taught.boxes
            if options.features > 0:
                total = total + options.features * taught.features
        return total, losses, taught

    def _taught(self, teach: Any, images: Tensor) -> tuple[Heads, list[Tensor]]:
        """What the teacher says and sees. A mirror image's features would not be the image's, mirrored or not."""
        heads, features = _seen(teach(images))
        if self.config.distillation.mirror:
            seen, _ = _seen(teach(images.flip(3)))
            places = self._places[images.shape[3], images.shape[2]]
            heads = mirror.mean(heads, mirror.mirrored(seen, places))
        return heads, features

    def _follow(self) -> None:
        """Moves the average towards the weights, faster while it is young."""
        keep = min(self.config.ema, (1 + self.steps) / (10 + self.steps)) if self.config.ema else 0
        ours, theirs = self.average.state_dict(), self.network.state_dict()
        floats = [key for key, value in ours.items() if value.is_floating_point()]
        with torch.no_grad():
            torch._foreach_lerp_([ours[k] for k in floats], [theirs[k] for k in floats], 1 - keep)
            for key in ours.keys() - floats:  # BatchNorm's count of batches
                ours[key].copy_(theirs[key])

    def is_finite(self) -> bool:
        """Whether weights and their average are; a GPU is waited for."""
        values = (*self.network.state_dict().values(), *self.average.state_dict().values())
        return bool(torch.stack([value.isfinite().all() for value in values]).all())

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "state_dict": self.average.state_dict(),  # under the name that other programs look for
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["state_dict"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]


def _load(network: nn.Module, start: nn.Module, config: Config) -> None:
    wanted, found = network.state_dict(), start.state_dict()
    if wanted.keys() != found.keys():
        raise ValueError(f"the weights to begin with are of another network than {config.kind}")
    slopes = [getattr(one, "slope", None) for one in (network, start)]
    if slopes[0] != slopes[1]:
        raise ValueError(
            f"the weights to begin with were trained with leaky ReLUs of slope {slopes[1]}; a run has {slopes[0]}"
        )
    network.load_state_dict(found)


def _check_features(network: Detector, teacher: Detector, config: Config) -> None:
    """Raises ValueError where those that a loss would compare have other shapes."""
    shapes = [_feature_shapes(one, network) for one in (network, teacher)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"distillation.features is {config.distillation.features}, but {config.network} has features of "
            f"{shapes[0]} (channels, height, width) in a 64x64 input and the teacher of {shapes[1]}; set it to 0"
        )


def _feature_shapes(one: Detector, placed: nn.Module) -> list[tuple[int, ...]]:
    """On the device where `placed` is."""
    was_training = one.training
    image = next(placed.parameters()).new_zeros((1, 3, 64, 64))
    with torch.no_grad():
        shapes = [tuple(feature.shape[1:]) for feature in one.eval().features(image)]
    one.train(was_training)
    return shapes


def _places(
    config: Config, network: nn.Module, device: torch.device
) -> dict[tuple[int, int], Tensor]:
    """Where mirrored priors are, by input size; ValueError where a size has no such places."""
    priors = spec_of(config, network).priors
    sizes = {stage.size for stage in config.stages}
    return {size: mirror.mirrored_places(priors, size).to(device) for size in sizes}


class _Observed(nn.Module):
    """A network that shows what its heads look at, too."""

    def __init__(self, network: Detector) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Heads, list[Tensor]]:
        features = self.network.features(image)
        return self.network.heads(features), features


def _compiled(network: Detector, config: Config) -> Any:
    observed = _Observed(network)
    return torch.compile(observed, dynamic=False) if config.compile else observed


def _seen(made: Any) -> tuple[Heads, list[Tensor]]:
    """Compiled networks return plain tuples."""
    heads, features = made
    return Heads(*heads), features


def _detached(part: Any) -> Any:
    if part is None:
        return None
    return part.detach() if isinstance(part, Tensor) else type(part)(*(x.detach() for x in part))


def _hold(network: nn.Module, learns: str) -> None:
    """Leaves parameters of other names out of learning.

    Raises:
        ValueError: None has such a name.
    """
    held = [p for name, p in network.named_parameters() if not name.startswith(learns)]
    if len(held) == len(list(network.parameters())):
        raise ValueError(f"config: learns is {learns!r}, and no array's name begins so")
    for parameter in held:
        parameter.requires_grad_(False)
