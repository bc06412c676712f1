"""Learning curves: what runs wrote into their log.csv, drawn as PNG (Matplotlib, extra `eval`)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from ..evaluation.plots import COLORS, DPI, LINES, figure_class

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# Columns of log.Report that are drawn, in this order, with what they are; the first three are always there.
QUANTITIES = {
    "total": "loss, all of it as weighted",
    "scores": "scores, cross-entropy",
    "boxes": "boxes, smooth L1",
    "landmarks": "landmarks, smooth L1",
    "taught_scores": "scores, divergence from the teacher's",
    "taught_boxes": "boxes, smooth L1 from the teacher's",
    "taught_features": "features, distance from the teacher's",
    "rate": "learning rate",
    "images_per_second": "images/s",
}
_ALWAYS = ("total", "scores", "boxes", "rate")
_NEEDED = ("step", "seconds", "size", *_ALWAYS)
_COUNTED = ("rate", "images_per_second")  # from 0
AXES = {"hours": "hours of work", "steps": "steps"}
# How far the mean that is drawn reaches before and behind: in reports, each of which is itself the mean of 20
# steps. No further than a part of all, or a short run would seem to stand still.
_REACH, _REACHED_PART = 7, 1 / 16
# Losses fall to a tenth at once, and to half of that in all the rest: this share of a run may leave the panel.
_CUT_OFF = 0.03
COLUMNS = 3
LOG = "log.csv"  # as loop.LOG, which needs PyTorch


@dataclass(frozen=True, eq=False)
class Run:
    """What one run logged; N reports."""

    name: str
    steps: Floats  # (N,) and so are the others
    hours: Floats
    sizes: tuple[str, ...]
    values: dict[str, Floats]  # by QUANTITIES, those that it has
    starts: tuple[int, ...]  # which reports a log begins with, but for the first

    def along(self, axis: str) -> Floats:
        return self.hours if axis == "hours" else self.steps

    def borders(self) -> tuple[int, ...]:
        """Reports with which another input size begins."""
        sizes = self.sizes
        return tuple(i for i in range(1, len(sizes)) if sizes[i] != sizes[i - 1])


def read_run(paths: Sequence[Path], name: str = "") -> Run:
    """The logs of a run and of those that went on from it (`edgeface train run --start`), in their order.

    Args:
        paths: Files, or the folders of runs, in which it is log.csv.
        name: What the run is called; by default the last folder's name.

    Raises:
        FileNotFoundError: There is no such file.
        DataError: It is no log of `edgeface train run`, or has no report yet.
    """
    files = [path / LOG if path.is_dir() else path for path in paths]
    logs = [_read(file) for file in files]
    starts = np.cumsum([len(log["step"]) for log in logs])[:-1]
    kept = [key for key in QUANTITIES if all(key in log for log in logs)]
    return Run(
        name or files[-1].resolve().parent.name,
        _continued([log["step"] for log in logs]),
        _continued([log["seconds"] for log in logs]) / 3600,
        tuple(size for log in logs for size in log["size"]),
        {key: np.concatenate([log[key] for log in logs]) for key in kept},
        tuple(map(int, starts)),
    )


def _read(path: Path) -> dict[str, Any]:
    """Columns by name."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = [row for row in csv.reader(file) if row] or [[]]
        missing = [key for key in _NEEDED if key not in header]
        if missing:
            raise DataError(f"{path}: no log of `edgeface train run`: it lacks {missing[0]}")
        if not rows:
            raise DataError(f"{path}: nothing is logged yet; the first report comes after 20 steps")
        if any(len(row) != len(header) for row in rows):
            raise DataError(f"{path}: a row has not the {len(header)} values of the first line")
        columns = dict(zip(header, zip(*rows)))
        return {
            key: values if key == "size" else np.array(values, np.float64)
            for key, values in columns.items()
        }
    except (ValueError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: no log of `edgeface train run`: {error}") from None


def _continued(parts: Sequence[Floats]) -> Floats:
    """Counts that begin at 0 each, as one that goes on."""
    ends = np.cumsum([0.0, *(part[-1] for part in parts)])
    return np.concatenate([part + end for part, end in zip(parts, ends)])


def draw(runs: Sequence[Run], path: Path, *, axis: str = "hours") -> None:
    """A panel for each quantity that any of the runs has; a line for each run.

    Pale is what was logged, strong its mean over some reports; losses at the very beginning are beyond the
    panel. A broken line is where a stage of another input size begins, a dotted one where another log does.

    Raises:
        ImportError: Matplotlib is missing.
        OSError: The picture cannot be written.
    """
    shown = [key for key in QUANTITIES if key in _ALWAYS or any(_has(run, key) for run in runs)]
    rows = -(-len(shown) // COLUMNS)
    figure = figure_class()(figsize=(4.4 * COLUMNS, 0.8 + 2.6 * rows), dpi=DPI)
    first: Any = None
    for place, key in enumerate(shown, 1):
        axes = figure.add_subplot(rows, COLUMNS, place, sharex=first)
        first = first or axes
        _panel(axes, runs, key, axis)
        if place == 1:
            _name_stages(axes, runs, axis)
    figure.supxlabel(AXES[axis], fontsize=10)
    _legend(figure, runs)
    figure.set_layout_engine("constrained")
    figure.savefig(path)


def _has(run: Run, key: str) -> bool:
    """Not where it is 0 throughout: without landmarks, without a teacher."""
    return key in run.values and bool(run.values[key].any())


def _panel(axes: Any, runs: Sequence[Run], key: str, axis: str) -> None:
    axes.set_title(QUANTITIES[key], fontsize=10)
    axes.grid(alpha=0.3)
    axes.locator_params(axis="x", nbins=6)
    shown = []
    for number, run in enumerate(runs):
        color, line = _style(number)
        along = run.along(axis)
        for index in run.borders():
            axes.axvline(along[index], color=color, linestyle="--", linewidth=0.8)
        for index in run.starts:
            axes.axvline(along[index], color=color, linestyle=":", linewidth=1.4)
        if not _has(run, key):
            continue
        logged = run.values[key]
        axes.plot(along, logged, color=color, alpha=0.25, linewidth=0.8)
        mean = logged if key == "rate" else _smoothed_parts(run, logged)
        axes.plot(along, mean, line, color=color, linewidth=1.6)
        shown.append(logged[int(_CUT_OFF * len(logged)) :])
    if key in _COUNTED:
        axes.set_ylim(bottom=0)
    elif shown:
        low, high = min(map(np.min, shown)), max(map(np.max, shown))
        margin = 0.05 * (high - low) or 0.05 * high
        axes.set_ylim(low - margin, high + margin)


def _style(number: int) -> tuple[str, str]:
    return COLORS[number % len(COLORS)], LINES[number // len(COLORS) % len(LINES)]


def _smoothed_parts(run: Run, values: Floats) -> Floats:
    """Between borders: a mean across one would show a slope where there is a step."""
    edges = sorted({0, *run.borders(), *run.starts, len(values)})
    return np.concatenate([smoothed(values[a:b]) for a, b in zip(edges, edges[1:])])


def smoothed(values: Floats) -> Floats:
    """(N,) the mean of each value and of at most 7 before and behind it, of fewer at the ends."""
    reach = min(_REACH, int(len(values) * _REACHED_PART))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    middle = np.arange(len(values))
    first = np.maximum(middle - reach, 0)
    last = np.minimum(middle + reach + 1, len(values))
    means: Floats = (sums[last] - sums[first]) / (last - first)
    return means


def _name_stages(axes: Any, runs: Sequence[Run], axis: str) -> None:
    """The input size of each, where it begins."""
    for number, run in enumerate(runs):
        for index in (0, *run.borders()):
            axes.annotate(
                run.sizes[index],
                (run.along(axis)[index], 0.97 - 0.17 * number),
                xycoords=("data", "axes fraction"),
                xytext=(2, 0),
                textcoords="offset points",
                fontsize=7,
                va="top",
                color=_style(number)[0],
                bbox={"color": "white", "alpha": 0.8, "pad": 0.5},
            )


def _legend(figure: Any, runs: Sequence[Run]) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for number, run in enumerate(runs):
        color, line = _style(number)
        text = f"{run.name}: {run.steps[-1]:,.0f} steps, {run.hours[-1]:.2f} h"
        handles.append(Line2D([], [], color=color, linestyle=line, label=text))
    figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(runs)), fontsize=9)
