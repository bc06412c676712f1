"""Workers take turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from .worker import WorkerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .worker import Turn, Worker

# Runs that do not count at the start of a turn: the one before had the caches.
WARM_UP = 2
# Between turns: runtimes' threads wait actively for their next frame, ncnn's for 20 ms.
REST_SECONDS = 0.03
# More than this of one core used by others, and figures are not to be quoted.
QUIET_CPUS = 0.05
QUIET_STEAL = 0.01


@dataclass(frozen=True, eq=False)
class Times:
    """Milliseconds of one worker's runs."""

    runs: NDArray[np.float64]  # (rounds, runs of a turn)
    stages: NDArray[np.float64]  # (rounds, runs of a turn, stages); no stages where it tells none

    @property
    def turns(self) -> NDArray[np.float64]:
        """(rounds,) medians."""
        medians: NDArray[np.float64] = np.median(self.runs, axis=1)
        return medians


class Spread(NamedTuple):
    """Of many values."""

    median: float
    min: float
    p10: float
    p90: float


def spread(values: NDArray[np.float64]) -> Spread:
    low, median, high = np.quantile(values, (0.1, 0.5, 0.9))
    return Spread(float(median), float(values.min()), float(low), float(high))


def ratio(one: Times, other: Times) -> dict[str, float]:
    """One's time over the other's, round by round: a slow second hits both.

    Where the machine is never quiet, the ratio of the shortest runs says more.
    """
    rounds = spread(one.turns / other.turns)._asdict()
    return {**rounds, "of_minima": float(one.runs.min() / other.runs.min())}


class Load(NamedTuple):
    """What else the machine did during a race; None where it does not tell."""

    load_before: float  # the load average of the last minute
    foreign_cpus: float | None  # cores that other processes kept busy, on average
    steal: float | None  # the share of its time that the hypervisor gave to others
    waiting_cpus: float  # cores that workers kept busy outside of their turns

    @property
    def problem(self) -> str | None:
        """Why the figures are provisional."""
        found = []
        if self.foreign_cpus is not None and self.foreign_cpus > QUIET_CPUS:
            found.append(f"other processes kept {self.foreign_cpus:.2f} cores busy")
        if self.steal is not None and self.steal > QUIET_STEAL:
            found.append(f"the hypervisor took {self.steal:.1%} of the time")
        if self.waiting_cpus > QUIET_CPUS:
            found.append(f"waiting workers kept {self.waiting_cpus:.2f} cores busy")
        return " and ".join(found) or None


def race(
    workers: Sequence[Worker],
    rounds: int,
    runs: int,
    text: str | None = None,
    warm_up: int = WARM_UP,
) -> tuple[list[Times | str], Load]:
    """Every worker's times over `rounds` turns of `runs` runs each, and the load meanwhile.

    One that fails is out, and what it said stands for its times. With a text, progress is shown under it.
    """
    turns: list[list[Turn]] = [[] for _ in workers]
    failed: dict[int, str] = {}
    watch = _Watch(workers)
    for i in tqdm(range(rounds), desc=text, unit="round", leave=False, disable=text is None):
        for j in range(len(workers)):
            k = (i + j) % len(workers)  # each round starts with another
            if k in failed:
                continue
            try:
                turns[k].append(workers[k].ask("run", runs, warm_up))
            except WorkerError as error:
                failed[k] = str(error)
                continue
            watch.in_turns += turns[k][-1].cpu_seconds
            time.sleep(REST_SECONDS)
    load = watch.load()
    return [failed.get(k) or _times(found) for k, found in enumerate(turns)], load


def _times(turns: Sequence[Turn]) -> Times:
    runs, stages, _ = zip(*turns)
    return Times(np.array(runs), np.array(stages))


class _Watch:
    """Who uses the processors, from now on."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = list(workers)
        self._load_before = os.getloadavg()[0]
        self.in_turns = 0.0  # seconds
        self._workers_before = self._worker_seconds()
        self._own_before = time.process_time()
        self._ticks_before = _ticks()
        self._start = time.perf_counter()

    def load(self) -> Load:
        elapsed = time.perf_counter() - self._start
        ticks = _ticks()
        workers = max(0.0, self._worker_seconds() - self._workers_before)
        ours = workers + time.process_time() - self._own_before
        waiting = max(0.0, workers - self.in_turns) / elapsed
        if ticks is None or self._ticks_before is None:
            return Load(self._load_before, None, None, waiting)
        busy, stolen, total = (after - b for after, b in zip(ticks, self._ticks_before))
        foreign = max(0.0, busy / os.sysconf("SC_CLK_TCK") - ours) / elapsed
        return Load(self._load_before, foreign, stolen / max(1, total), waiting)

    def _worker_seconds(self) -> float:
        return sum(map(_cpu_seconds, self._workers))


def _cpu_seconds(worker: Worker) -> float:
    """Nothing for one that is no more: what it used then counts as somebody else's."""
    try:
        return float(worker.ask("cpu_seconds"))
    except WorkerError:
        return 0.0


def _ticks() -> tuple[int, int, int] | None:
    """Busy, stolen and all, of every core together."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, idle, waiting, irq, softirq, stolen = map(int, fields[:8])
    busy = user + nice + system + irq + softirq
    return busy, stolen, busy + idle + waiting + stolen
