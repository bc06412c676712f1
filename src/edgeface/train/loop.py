"""The training loop: batches in, steps, a log and checkpoints out."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from . import checkpoint
from .batches import Order, batches
from .config import Distillation, to_dict
from .export import spec_of
from .learner import Learner
from .log import Clock, Log, Report, Window
from .optimizer import check_optimizer
from .origin import Origin
from .pictures import draw
from .priors import Targets
from .schedule import Progress, Schedule, learning_rate
from .start import settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from .blocks import Detector
    from .config import Config
    from .pictures import Pictures
    from .samples import Sample

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
# Some hundred images: a mean of their variances is as near the whole's as a batch's is far from it.
SETTLING_BATCHES = 16


def train(
    config: Config,
    samples: Sequence[Sample],
    pictures: Pictures,
    output: Path,
    *,
    device: torch.device,
    teacher: Detector | None = None,
    start: Detector | None = None,
    settles: bool = False,
    hours: float | None = None,
    resume: bool = False,
) -> Iterator[Report]:
    """Trains, and reports every few steps; at the end the weights are in output/checkpoint.pt.

    Args:
        config: What to train, and how.
        samples: The images.
        pictures: Theirs; batches are drawn where those lie.
        output: A folder, for the checkpoint and log.csv.
        device: Where the network is.
        teacher: Whom it follows, if anyone.
        start: Whose weights it begins with, instead of random ones.
        settles: Whether the BatchNorms of `start` have seen nothing yet, as those of a model file.
        hours: The run is over after so much work, whatever the config's epochs: the learning rate follows. A run
            that goes on may have others than before.
        resume: Goes on from output/checkpoint.pt as if it had not stopped.

    Raises:
        DataError: The loss, its gradient or the weights are not finite; the last checkpoint stays.
        ValueError: See `check`.
    """
    order = Order(samples, config)
    origin = Origin.of(order, teacher)
    state = _begun(config, origin, output / CHECKPOINT, start=start, resume=resume)
    schedule = Schedule(config, len(order), hours)
    if start is not None and settles:
        settle(start, _first_images(start, order, pictures, config))
    learner = Learner(config, device, teacher=teacher, start=start)
    if state is not None:
        learner.load_state_dict(state)
    progress = _progress(state)
    spec = spec_of(config, learner.network)
    log, clock = Log(output / LOG, progress), Clock()
    window = Window(samples, landmarks=config.landmarks)
    while not schedule.is_done(progress):
        stage = schedule.stage(progress)
        size = spec.resized(*stage.size).input
        for after, plans, targets in batches(order, stage, progress, config, spec.priors):
            if schedule.is_done(progress) or schedule.stage(progress) != stage:
                break
            rate = learning_rate(config, schedule.fraction(progress))
            images = draw(pictures, plans, size).to(device)
            step = learner.step(images, Targets(*(t.to(device) for t in targets)), rate)
            seconds = clock.tick()
            window.add(step, plans, targets, clock.last)
            ends_epoch = after.offset + stage.batch > len(order)
            progress = dataclasses.replace(
                after, step=progress.step + 1, seconds=progress.seconds + seconds
            )
            done = schedule.fraction(progress)
            if window.is_full() or schedule.is_done(progress):
                report = window.close(progress, done, stage.size, rate)
                log.write(report)
                yield report
            if ends_epoch or clock.is_due(config.checkpoint_minutes) or schedule.is_done(progress):
                window.check()
                _save(output / CHECKPOINT, config, origin, learner, progress)


def check(
    config: Config,
    samples: Sequence[Sample],
    output: Path,
    *,
    teacher: Detector | None = None,
    start: Detector | None = None,
    resume: bool = False,
) -> Progress:
    """What `train` refuses, for who would know it before images are decoded.

    Returns:
        From where it would go on.

    Raises:
        ValueError: The run lacks weights to begin with, the teacher that its config counts on or an optimizer of this
            PyTorch, or the checkpoint to resume from is of another run: of another config, other images or another teacher.
        ModelError: The checkpoint holds no run.
    """
    origin = Origin.of(Order(samples, config), teacher)
    return _progress(_begun(config, origin, output / CHECKPOINT, start=start, resume=resume))


def _begun(
    config: Config, origin: Origin, path: Path, *, start: Detector | None, resume: bool
) -> dict[str, Any] | None:
    """The checkpoint to resume from, if the run does; ValueError as `check` says."""
    check_optimizer(config)
    if origin.teacher is None:
        _check_untaught(config)
    if resume:
        return _same(path, config, origin)
    if start is None:
        _check_random(config)
    return None


def _progress(state: Mapping[str, Any] | None) -> Progress:
    return Progress() if state is None else Progress(**state["progress"])


def _same(path: Path, config: Config, now: Origin) -> dict[str, Any]:
    """The checkpoint there; ValueError where it is of another run."""
    found, state = checkpoint.read_run(path)
    # What is said of the images changes nothing. Nor does it how to follow a teacher that is none, and earlier versions
    # ran so whatever it said.
    nothing = {"training_data"} | ({"distillation"} if now.teacher is None else set())
    names = [f.name for f in dataclasses.fields(config) if f.name not in nothing]
    others = [name for name in names if getattr(found, name) != getattr(config, name)]
    if others:
        raise ValueError(
            f"{path} is of another config ({', '.join(others)}); resume with the one that it was made with"
        )
    # Checkpoints of earlier versions do not say.
    was = Origin(**state["origin"]) if "origin" in state else now
    if changes := was.changes(now):
        raise ValueError(
            f"{path} learnt from something else: now there would be {' and '.join(changes)}; "
            "resume with the images and the teacher that it began with"
        )
    return state


def _check_untaught(config: Config) -> None:
    """Raises ValueError where a config says how to follow a teacher, but for what learning in int8 takes from it."""
    options, usual = config.distillation, Distillation()
    names = ("scores", "boxes", "features", "mirror")
    values = {name: getattr(options, name) for name in names}
    asked = {k: v for k, v in values.items() if v and v != getattr(usual, k)}
    if asked:
        found = " and ".join(f"distillation.{name} is {value}" for name, value in asked.items())
        without = " and ".join(f"distillation.{k}={type(v)(0)}" for k, v in asked.items())
        raise ValueError(
            f"config: {found}, but there is no teacher to learn from; give one, or set {without} to do without"
        )


def _check_random(config: Config) -> None:
    """Raises ValueError where random weights are nothing to begin with."""
    if not config.batch_statistics:
        raise ValueError(
            "config: batch_statistics is False, but the run begins with random weights, whose BatchNorms have seen nothing"
        )
    if config.learns:
        raise ValueError(
            f"config: learns is {config.learns!r}, but the run begins with random weights, and all others would stay so"
        )


def _first_images(
    network: Detector, order: Order, pictures: Pictures, config: Config
) -> Iterator[Tensor]:
    """Of the run's first batches, where `network` is."""
    spec, stage = spec_of(config, network), config.stages[0]
    size = spec.resized(*stage.size).input
    device = next(network.parameters()).device
    first = batches(order, stage, Progress(), config, spec.priors)
    for _, plans, _ in itertools.islice(first, SETTLING_BATCHES):
        yield draw(pictures, plans, size).to(device)


def _save(path: Path, config: Config, origin: Origin, learner: Learner, progress: Progress) -> None:
    # A loss is of the weights before its step: they may be broken though it was good.
    if not learner.is_finite():
        raise DataError(
            f"after step {progress.step} the weights are not finite, so {path} is not written; "
            "a smaller learning rate helps"
        )
    about = {"config": to_dict(config)}
    about |= {"origin": dataclasses.asdict(origin), "progress": dataclasses.asdict(progress)}
    checkpoint.write(path, {**about, **learner.state_dict()})
