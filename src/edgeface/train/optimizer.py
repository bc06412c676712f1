"""What moves weights along their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .config import Config


def check_optimizer(config: Config) -> None:
    """Raises ValueError where this PyTorch has none of that name."""
    if config.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        raise ValueError(f"config: muon needs PyTorch 2.9 or later; this is {torch.__version__}")


def make_optimizer(config: Config, network: nn.Module) -> torch.optim.Optimizer | Muon:
    """Of the parameters that learn. Weights of convolutions decay; biases and BatchNorm do not."""
    learning = [p for p in network.parameters() if p.requires_grad]
    if config.optimizer == "muon":
        return Muon(learning, config)
    if config.optimizer == "adamw":
        return _adamw(learning, config)
    return torch.optim.SGD(_groups(learning, config), config.learning_rate, config.momentum)


def _groups(learning: Sequence[nn.Parameter], config: Config) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _adamw(learning: Sequence[nn.Parameter], config: Config) -> torch.optim.Optimizer:
    groups = _groups(learning, config)
    return torch.optim.AdamW(groups, config.learning_rate, betas=(config.momentum, 0.999))


class Muon:
    """Muon for what mixes channels, AdamW for the rest: each channel's own filter, biases, BatchNorm.

    An update of a matrix is made orthogonal, so that directions which gradients hardly show move as far as those
    that they always show (https://kellerjordan.github.io/posts/muon). Scaled to AdamW's size ("Muon is scalable for
    LLM training", arXiv 2502.16982, section 2.2), it takes AdamW's rates. An RFB network that learnt a teacher's
    features from random weights came as far in 2,080 steps as by AdamW in 2,480.
    """

    def __init__(self, learning: Sequence[nn.Parameter], config: Config) -> None:
        self._weights = [p for p in learning if p.ndim == 4 and p.shape[1] > 1]
        mixing = set(map(id, self._weights))
        self._matrices = [nn.Parameter(_matrix(p.detach())) for p in self._weights]
        assert all(m.data_ptr() == w.data_ptr() for m, w in zip(self._matrices, self._weights))
        muon = torch.optim.Muon(
            [{"params": self._matrices}],
            config.learning_rate,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        rest = _adamw([p for p in learning if id(p) not in mixing], config)
        self._parts = (muon, rest)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts for group in part.param_groups]

    def zero_grad(self) -> None:
        for weight in self._weights:
            weight.grad = None
        self._parts[1].zero_grad()

    def step(self) -> None:
        for weight, matrix in zip(self._weights, self._matrices):
            matrix.grad = None if weight.grad is None else _matrix(weight.grad)
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, its in zip(self._parts, state["parts"]):
            part.load_state_dict(its)


def _matrix(weight: Tensor) -> Tensor:
    """(out, taps * in): the same memory, as weights of a Learner are in channels-last order."""
    return weight.permute(0, 2, 3, 1).flatten(1)
