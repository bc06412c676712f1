"""Precision over recall and AP by face height, as PNG (Matplotlib, extra `eval`)."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from . import precision
from .figures import FRAME, INPUT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .figures import Assessment, HeightFigures

# Told apart by all kinds of colour vision (Okabe and Ito, 2008); then again with other lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", ":", "-.")
# A curve has a point for every detection; a plot 900 pixels wide shows no more.
MOST_POINTS = 2000
DPI = 120
UNITS = {FRAME: "pixels of the frame", INPUT: "pixels of the network's input"}


def figure_class() -> Any:
    """Matplotlib's Figure, which needs no display; ImportError says how to get it."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f'plots need Matplotlib ({error}): pip install "edgeface[eval]"'
        ) from error
    return Figure


def precision_recall(
    assessments: Sequence[Assessment], subset: str, protocol: str, path: Path
) -> None:
    """All models' curves on one subset, each with a dot where the model's own score threshold is."""
    figure = figure_class()(figsize=(7.5, 6.5), dpi=DPI)
    axes = figure.add_subplot()
    for i, assessment in enumerate(assessments):
        figures = assessment.figures.subsets[subset]
        color, line = COLORS[i % len(COLORS)], LINES[i // len(COLORS) % len(LINES)]
        curve = precision.curve(assessment.judged[subset])
        # The first detections decide little and jump much: a curve begins where a face is found.
        shown = _spread(curve.recall)
        ap = "no faces" if figures.ap is None else f"AP {figures.ap:.4f}"
        label = f"{_about(assessment)}: {ap}"
        axes.plot(curve.recall[shown], curve.precision[shown], line, color=color, label=label)
        point = figures.at_threshold
        axes.plot([point.recall], [point.precision], "o", color=color, markeredgecolor="white")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    faces = assessments[0].figures.subsets[subset].faces
    axes.set_title(f"{subset}: {faces} faces; dots: the models' own thresholds", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=8)
    _write(figure, protocol, path)


def _spread(recall: precision.Floats) -> Any:
    """At most MOST_POINTS indices, equally far apart in recall."""
    if len(recall) <= MOST_POINTS:
        return slice(None)
    wanted = np.linspace(recall[0], recall[-1], MOST_POINTS)
    return np.unique(np.searchsorted(recall, wanted).clip(max=len(recall) - 1))


def ap_by_height(assessments: Sequence[Assessment], subset: str, protocol: str, path: Path) -> None:
    """Bars of all models, by height of the subset's faces in frame pixels and, below, in input pixels."""
    figure = figure_class()(figsize=(9, 8), dpi=DPI)
    for row, (unit, text) in enumerate(UNITS.items()):
        axes = figure.add_subplot(2, 1, row + 1)
        _bars(axes, assessments, unit)
        axes.set(xlabel=f"face height, {text}", ylabel="AP", ylim=(0, 1.12))
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.axes[0].set_title(f"AP by face height, {subset} faces", fontsize=11)
    rows = -(-len(assessments) // 2)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=1 if rows == 1 else 2,
        fontsize=8,
    )
    _write(figure, protocol, path)


def _bars(axes: Any, assessments: Sequence[Assessment], unit: str) -> None:
    width = 0.8 / len(assessments)
    heights = [assessment.figures.heights[unit] for assessment in assessments]
    for i, (assessment, bins) in enumerate(zip(assessments, heights)):
        places = np.arange(len(bins)) + (i - (len(assessments) - 1) / 2) * width
        values = [0 if one.ap is None else one.ap for one in bins]
        hatch = "" if i < len(COLORS) else "//"
        bars = axes.bar(
            places,
            values,
            width,
            color=COLORS[i % len(COLORS)],
            hatch=hatch,
            label=_about(assessment),
        )
        if len(assessments) <= 3:
            texts = ["-" if one.ap is None else f"{one.ap:.2f}" for one in bins]
            axes.bar_label(bars, texts, padding=2, fontsize=7)
    ticks = [_tick(bins) for bins in zip(*heights)]
    axes.set_xticks(range(len(ticks)), ticks)


def _tick(bins: Sequence[HeightFigures]) -> str:
    """The range and how many faces are in it; models with different inputs may differ in that."""
    counts = sorted({one.faces for one in bins})
    count = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{bins[0].text}\n{count} faces"


def _about(assessment: Assessment) -> str:
    used = assessment.figures
    return f"{used.name} ({used.input_text} {used.resize}, {used.backend})"


def _write(figure: Any, protocol: str, path: Path) -> None:
    figure.set_layout_engine("constrained")
    figure.supxlabel(
        textwrap.fill(protocol, 155, break_on_hyphens=False), fontsize=6, color="#555555"
    )
    figure.savefig(path)
