"""Signal to noise of every layer, as PNG (Matplotlib, extra `eval`)."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from ..evaluation.plots import COLORS, DPI, figure_class

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .agreement import Layer, Limits


def signal_to_noise(layers: Sequence[Layer], limits: Limits, title: str, path: Path) -> None:
    """A bar for each layer, the first on top, coloured by operator; the limit as a line."""
    figure = figure_class()(figsize=(7.5, 1.5 + 0.17 * len(layers)), dpi=DPI)
    axes = figure.add_subplot()
    finite = [layer.sqnr_db if math.isfinite(layer.sqnr_db) else 0.0 for layer in layers]
    kinds = dict.fromkeys(layer.kind for layer in layers)
    for kind, color in zip(kinds, itertools.cycle(COLORS)):
        rows = [row for row, layer in enumerate(layers) if layer.kind == kind]
        axes.barh(rows, [finite[row] for row in rows], color=color, label=kind)
    axes.axvline(limits.sqnr_db, color="black", linestyle="--", label="limit")
    axes.set_yticks(range(len(layers)), [layer.name for layer in layers], fontsize=7)
    axes.set(xlabel="signal to noise of int8, dB", ylim=(len(layers) - 0.5, -0.5))
    axes.set_xlim(0, 1.25 * max(*finite, limits.sqnr_db))  # room for the legend
    axes.set_title(title, fontsize=11)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="upper right", fontsize=8)
    figure.set_layout_engine("constrained")
    figure.savefig(path)
