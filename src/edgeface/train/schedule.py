"""Where in its run a training is: which stage, what share of the work is done, and so the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Config, Stage


@dataclass(frozen=True)
class Progress:
    """How far a run is; with the checkpoint's weights, all that resuming needs."""

    step: int = 0
    epoch: int = 0
    offset: int = 0  # images of this epoch's order that are done
    seconds: float = 0.0  # of work: time in which the process was stopped does not count


@dataclass(frozen=True)
class Schedule:
    """The plan of a run over `images` an epoch; with `hours`, time decides instead of the epochs.

    Work is images times their pixels. The stages share the hours as they would share the work. ValueError where
    `hours` is no time in which a run could end.
    """

    config: Config
    images: int
    hours: float | None = None

    def __post_init__(self) -> None:
        if self.hours is not None and not 0 < self.hours < math.inf:
            raise ValueError(f"hours is {self.hours}; expected more than 0")

    def fraction(self, progress: Progress) -> float:
        """The share of the run that is done, 0 to 1."""
        if self.hours is not None:
            return min(1.0, progress.seconds / (3600 * self.hours))
        done, steps = 0.0, progress.step
        for stage in self.config.stages:
            planned = self.steps(stage)
            done += self._work(stage) * min(steps, planned) / planned
            steps = max(0, steps - planned)
        return done / sum(map(self._work, self.config.stages)) if steps == 0 else 1.0

    def is_done(self, progress: Progress) -> bool:
        if self.hours is not None:
            return self.fraction(progress) >= 1
        return progress.step >= sum(map(self.steps, self.config.stages))

    def stage(self, progress: Progress) -> Stage:
        """The stage of the next step."""
        stages = self.config.stages
        if self.hours is None:
            steps = progress.step
            for stage in stages:
                if steps < self.steps(stage):
                    return stage
                steps -= self.steps(stage)
            return stages[-1]
        done = self.fraction(progress) * sum(map(self._work, stages))
        for stage in stages:
            if done < self._work(stage):
                return stage
            done -= self._work(stage)
        return stages[-1]

    def steps(self, stage: Stage) -> int:
        """Of a stage without a limit of time. An epoch leaves out what does not fill a batch."""
        return max(1, round(stage.epochs * max(1, self.images // stage.batch)))

    def _work(self, stage: Stage) -> float:
        return self.steps(stage) * stage.batch * stage.size[0] * stage.size[1]


def learning_rate(config: Config, fraction: float) -> float:
    """At that share of the run: a linear warm-up, then half a cosine to 0 or the milestones."""
    if fraction < config.warm_up:
        # Not from 0, which would waste the first step.
        return config.learning_rate * (0.01 + 0.99 * fraction / config.warm_up)
    if config.schedule == "milestones":
        return config.learning_rate * 0.1 ** sum(fraction >= m for m in config.milestones)
    after = (fraction - config.warm_up) / (1 - config.warm_up)
    return config.learning_rate * (1 + math.cos(math.pi * after)) / 2
