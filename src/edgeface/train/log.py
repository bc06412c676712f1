"""What a run says of itself: reports, the table of them, and how long it has worked."""

from __future__ import annotations

import csv
import dataclasses
import math
import statistics
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..errors import DataError
from .loss import endless

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from .augment import Plan
    from .learner import Step
    from .priors import Targets
    from .samples import Sample
    from .schedule import Progress

_REPORT_STEPS = 20
_NAMED = 5  # images of a batch none of which is to blame; with mosaics there may be hundreds
# A step that took this many times the median was interrupted (SIGSTOP, a laptop's lid): the rest of its
# time is no work.
_INTERRUPTED = 5


@dataclass(frozen=True)
class Report:
    """The mean of the last steps."""

    step: int
    epoch: int
    fraction: float  # of the run
    seconds: float
    size: str
    rate: float
    total: float
    scores: float
    boxes: float
    landmarks: float
    taught_scores: float
    taught_boxes: float
    taught_features: float
    images_per_second: float


class Window:
    """The last steps. Each is read one later, so that a GPU is not waited for."""

    def __init__(self, samples: Sequence[Sample], *, landmarks: bool) -> None:
        self._samples = samples
        self._landmarks = landmarks
        self._pending: tuple[Step, Sequence[Plan], Targets] | None = None
        self._costs: list[list[float]] = []
        self._images = 0
        self._seconds = 0.0

    def add(self, step: Step, plans: Sequence[Plan], targets: Targets, seconds: float) -> None:
        """Raises DataError where the step before was not finite."""
        self.check()
        self._pending = (step, plans, targets)
        self._images += len(plans)
        self._seconds += seconds

    def check(self) -> None:
        """Reads what was not read yet; DataError where a loss or its gradient is not finite."""
        if self._pending is None:
            return
        step, plans, targets = self._pending
        self._pending = None
        *costs, norm = _values(step)
        if not all(map(math.isfinite, (*costs, norm))):
            found = (
                f"gradient's norm is {norm}" if math.isfinite(costs[0]) else f"loss is {costs[0]}"
            )
            raise DataError(f"the {found}{self._cause(plans, targets)}")
        self._costs.append(costs)

    def _cause(self, plans: Sequence[Plan], targets: Targets) -> str:
        """Labels alone can be asked: by now the weights are broken, whatever broke them."""
        if blamed := endless(targets, landmarks=self._landmarks):
            names = self._names([plans[i] for i in blamed])
            return f" whatever the network says: look at the labels of {', '.join(names)}"
        names = self._names(plans)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return (
            ", and no image's labels are to blame: a smaller learning rate helps. "
            f"The batch was made of {', '.join(names[:_NAMED])}{more}"
        )

    def _names(self, plans: Sequence[Plan]) -> list[str]:
        return sorted({self._samples[part.index].name for plan in plans for part in plan.parts})

    def is_full(self) -> bool:
        return len(self._costs) + (self._pending is not None) >= _REPORT_STEPS

    def close(self, progress: Progress, done: float, size: tuple[int, int], rate: float) -> Report:
        """The mean since the last report."""
        self.check()
        means = [statistics.fmean(column) for column in zip(*self._costs)]
        total, scores, boxes, landmarks, *taught = means
        speed = self._images / max(self._seconds, 1e-9)
        self._costs, self._images, self._seconds = [], 0, 0.0
        return Report(
            step=progress.step,
            epoch=progress.epoch,
            fraction=done,
            seconds=progress.seconds,
            size=f"{size[0]}x{size[1]}",
            rate=rate,
            total=total,
            scores=scores,
            boxes=boxes,
            landmarks=landmarks,
            taught_scores=taught[0],
            taught_boxes=taught[1],
            taught_features=taught[2],
            images_per_second=speed,
        )


def _values(step: Step) -> list[float]:
    """total, scores, boxes, landmarks, taught scores, boxes, features; and the gradient's norm."""
    nothing = torch.zeros_like(step.total)
    taught = (nothing,) * 3 if step.taught is None else step.taught
    values: list[float] = torch.stack([step.total, *step.losses, *taught, step.norm]).tolist()
    return values


class Log:
    """A CSV file, a row for each report; rows of steps after the one that is resumed from are dropped."""

    def __init__(self, path: Path, progress: Progress) -> None:
        rows: list[list[str]] = []
        if progress.step > 0 and path.exists():
            with path.open(newline="") as file:
                rows = [r for r in list(csv.reader(file))[1:] if r and int(r[0]) <= progress.step]
        self._path = path
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([[f.name for f in dataclasses.fields(Report)], *rows])

    def write(self, report: Report) -> None:
        values = [f"{v:.6g}" if type(v) is float else v for v in dataclasses.astuple(report)]
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerow(values)


class Clock:
    """Seconds of work, step by step."""

    def __init__(self) -> None:
        self.last = 0.0  # of the last step
        self._before = self._saved = time.monotonic()
        self._recent: deque[float] = deque(maxlen=50)
        self._has_begun = False

    def tick(self) -> float:
        """Of the step that ends now; 0 for the first, which compiles, too."""
        now = time.monotonic()
        taken = now - self._before
        self._before = now
        self.last = taken
        if not self._has_begun:
            self._has_begun = True
            return 0.0
        if len(self._recent) >= 10:
            taken = min(taken, _INTERRUPTED * statistics.median(self._recent))
        self._recent.append(taken)
        self.last = taken
        return taken

    def is_due(self, minutes: float) -> bool:
        """Whether so much time is over since it was last."""
        if self._before - self._saved < 60 * minutes:
            return False
        self._saved = self._before
        return True


def recorder(output: Path, begun: int) -> Callable[[Iterable[Report]], Iterator[Report]]:
    """What passes reports on and writes each to `output` for TensorBoard, too.

    Args:
        output: A folder; what is in it of steps after `begun` counts no longer.
        begun: The step that the run goes on from; 0: none.

    Raises:
        ImportError: There is no tensorboard.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f'TensorBoard\'s files need tensorboard ({error}): pip install "edgeface[train]"'
        ) from error

    def record(reports: Iterable[Report]) -> Iterator[Report]:
        with SummaryWriter(str(output), purge_step=begun + 1 if begun else None) as writer:
            for report in reports:
                for name, value in dataclasses.asdict(report).items():
                    if type(value) is float:
                        writer.add_scalar(name, value, report.step)
                yield report

    return record
