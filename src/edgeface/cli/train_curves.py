"""edgeface train curves: what runs logged, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation.plots import figure_class
from ..train import curves
from .arguments import add_command
from .tables import count_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ..train.curves import Run

EPILOG = """\
A LOG is a run's log.csv, or the folder that it is in. Several are one run that went on: the second began with the
first one's weights (`edgeface train run --start`). --beside draws another run in the same panels, and may be
given several times:

  edgeface train curves first/ second/ --beside other/ -o curves.png

Drawn are losses, learning rate and speed, as far as they are logged: pale as they are, strong their mean over some
reports. Where a stage of another input size begins there is a broken line, where another log does a dotted one.
Total losses compare between runs only where each part of them has the same weight.
"""


def add_parser(commands: Any) -> None:
    text = "draw the learning curves of runs"
    parser = add_command(commands, "curves", run, text=text, epilog=EPILOG)
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="see below")
    parser.add_argument(
        "--beside",
        nargs="+",
        action="append",
        default=[],
        type=Path,
        metavar="LOG",
        help="another run, to compare",
    )
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="PNG")
    parser.add_argument(
        "--by",
        choices=list(curves.AXES),
        default="hours",
        help="what the curves go along (default: %(default)s, of work)",
    )


def run(arguments: argparse.Namespace) -> int:
    figure_class()
    target = arguments.output
    if target.suffix.lower() != ".png":
        raise ValueError(f"--output {target}: expected a name that ends in .png")
    logs = [arguments.logs, *arguments.beside]
    runs = [curves.read_run(paths, name) for paths, name in zip(logs, _names(logs))]
    target.parent.mkdir(parents=True, exist_ok=True)
    curves.draw(runs, target, axis=arguments.by)
    for one in runs:
        print(_about(one))
    print(f"wrote {target}")
    return 0


def _names(logs: Sequence[Sequence[Path]]) -> list[str]:
    """The folders' names; their paths, where two have one name."""
    last = [paths[-1] if paths[-1].is_dir() else paths[-1].parent for paths in logs]
    names = [folder.resolve().name for folder in last]
    return names if len(set(names)) == len(names) else [str(folder) for folder in last]


def _about(one: Run) -> str:
    ends = (f"{key} {values[-1]:.4g}" for key, values in one.values.items() if values.any())
    return (
        f"{one.name}: {count_of(int(one.steps[-1]), 'step')} in {one.hours[-1]:.2f} hours; "
        f"in the last report {', '.join(ends)}"
    )
