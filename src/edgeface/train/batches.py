"""Which images come when, and what is made of them: everything of a batch but its pixels."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import augment
from .priors import Targets, make_priors, match
from .schedule import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..spec import PriorSpec
    from .augment import Plan
    from .config import Config, Stage
    from .samples import Sample


class Order:
    """In which order images come, epoch by epoch; ValueError where there are none.

    Warns of a key of `repeat` that is in no image's name.
    """

    def __init__(self, samples: Sequence[Sample], config: Config) -> None:
        if not samples:
            raise ValueError("there is no image to learn from")
        self.samples = samples
        self.seed = config.seed
        for part in config.repeat:
            if not any(part in sample.name for sample in samples):
                # Here, not where it is called: two orders of a run warn once.
                warnings.warn(
                    f"config: repeat has {part!r}, which no image's name has", stacklevel=1
                )
        counts = [
            max([1, *(n for part, n in config.repeat.items() if part in sample.name)])
            for sample in samples
        ]
        # Mosaics draw from them, too: an image that is seen more often would else be rare among small faces.
        self.indexes = np.repeat(np.arange(len(samples)), counts)
        self._epoch: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        return len(self.indexes)

    def epoch(self, number: int) -> Any:
        if self._epoch[0] != number:
            random = np.random.default_rng([self.seed, number])
            self._epoch = (number, random.permutation(self.indexes))
        return self._epoch[1]


class _Batches(torch.utils.data.Dataset):
    """Plans and targets of batches, by where they begin: (epoch, offset)."""

    def __init__(self, order: Order, stage: Stage, config: Config, priors: PriorSpec) -> None:
        self.order = order
        self.stage = stage
        self.iou_threshold = config.iou_threshold
        self.variances = priors.variances
        self.priors = make_priors(priors, stage.size)

    def __getitem__(self, at: tuple[int, int]) -> tuple[tuple[int, int], list[Plan], Targets]:
        epoch, offset = at
        indexes = self.order.epoch(epoch)[offset : offset + self.stage.batch]
        seed = (self.order.seed, epoch)
        plans = [self._plan(int(index), (*seed, offset + i)) for i, index in enumerate(indexes)]
        return at, plans, Targets(*map(torch.stack, zip(*map(self._targets, plans))))

    def _plan(self, index: int, seed: tuple[int, int, int]) -> Plan:
        stage, order = self.stage, self.order
        return augment.plan(
            order.samples, index, stage.size, stage.augmentation, seed, others=order.indexes
        )

    def _targets(self, plan: Plan) -> Targets:
        size = np.array(self.stage.size, np.float32)
        return match(
            torch.from_numpy(plan.boxes / np.tile(size, 2)),
            torch.from_numpy(plan.landmarks / size),
            torch.from_numpy(plan.is_ignored),
            self.priors,
            self.variances,
            iou_threshold=self.iou_threshold,
        )


def batches(
    order: Order, stage: Stage, progress: Progress, config: Config, priors: PriorSpec
) -> Iterator[tuple[Progress, list[Plan], Targets]]:
    """Batches of a stage without end, and where the run is after each."""
    loader: Any = torch.utils.data.DataLoader(
        _Batches(order, stage, config, priors),
        batch_size=None,
        sampler=_starts(progress, len(order), stage.batch),
        num_workers=config.workers,
        collate_fn=_unchanged,
    )
    for (epoch, offset), plans, targets in loader:
        yield Progress(epoch=epoch, offset=offset + len(plans)), plans, targets


def _unchanged(batch: Any) -> Any:
    return batch


def _starts(progress: Progress, images: int, batch: int) -> Iterator[tuple[int, int]]:
    epoch, offset = progress.epoch, progress.offset
    while True:
        if offset > 0 and offset + batch > images:
            epoch, offset = epoch + 1, 0
        yield epoch, offset
        offset += batch
