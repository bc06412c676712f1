"""edgeface eval: how well models find the faces of annotated images."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__, bench, evaluation, media
from ..evaluation import figures, gallery, plots
from ..fitting import FRAME, MAX_SIDE
from ..spec import RESIZES
from .arguments import (
    add_command,
    add_levels,
    add_spec_and_size,
    add_target,
    backend_parser,
    given_options,
    parse_count,
    parse_input_size,
)
from .console import Console
from .tables import print_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..evaluation import Assessment, Candidate, Convention, Figures, Truth
    from ..evaluation.precision import Point

EPILOG = """\
DATA is one of
  an archive of edgeface's form: a .tar, or the folder that it unpacks to, with annotations.jsonl. With
    `wider_keep` in it, AP is that of WIDER FACE easy, medium and hard; otherwise of all faces that are
    not to be ignored
  WIDER FACE val as published: a folder with wider_face_val.mat, wider_{easy,medium,hard}_val.mat and
    the images, or with eval_tools/ and WIDER_val/ unpacked in it (needs scipy)

The exact convention takes boxes to be x2 - x1 wide and lets the curve bend at every score. The toolbox one
is what published WIDER FACE figures are made with; compare only figures of one convention.

AP by height is that of the widest subset's faces of this height; a detection that is on no face is false
among those of its own height. Landmarks' error is the five points' mean distance over the root of
the face's area, of faces found at the model's own threshold.

--plots writes precision-recall-SUBSET.png, ap-by-height.png and, for each model, mistakes-MODEL.png with the
largest faces that it misses and its surest false detections.
"""


def add_parser(commands: Any) -> None:
    backend = backend_parser("the runtime (default: %(default)s, the first that runs the network)")
    text = "measure how well models find annotated faces"
    parser = add_command(commands, "eval", run, backend, text=text, epilog=EPILOG)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--data", required=True, type=Path, help="annotated images; see below")
    add_spec_and_size(parser, follows=True)
    parser.add_argument("--size", type=parse_input_size, dest="input_size", **_OTHER_NAME)
    parser.add_argument(
        "--max-side",
        type=parse_count,
        metavar="PIXELS",
        **_OPTION,
        help=f"with --input-size {FRAME}, shrink longer frames to this (default: {MAX_SIDE})",
    )
    parser.add_argument("--resize", choices=RESIZES, **_OPTION, help="default: each spec's")
    add_levels(parser, "as of detect: smaller faces are not looked for, so that AP of all suffers")
    add_target(parser)
    parser.add_argument(
        "--num-threads",
        type=parse_count,
        metavar="N",
        **_OPTION,
        help="default: the CPUs allowed, at most 4",
    )
    parser.add_argument(
        "--convention",
        choices=list(evaluation.CONVENTIONS),
        default=evaluation.EXACT.name,
        help="how boxes and curves are measured (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write pictures there; see below")


_OPTION: dict[str, Any] = {"default": argparse.SUPPRESS}
# A short name of --input-size.
_OTHER_NAME: dict[str, Any] = {**_OPTION, "help": argparse.SUPPRESS}


def run(arguments: argparse.Namespace) -> int:
    convention = evaluation.CONVENTIONS[arguments.convention]
    _prepare_output(arguments)
    with evaluation.open_truth(arguments.data) as truth:
        candidates = [
            evaluation.open_model(path, name, backend=arguments.backend, **given_options(arguments))
            for path, name in zip(arguments.models, _names(arguments.models))
        ]
        assessments = _assess(truth, candidates, convention)
        _print(truth, [assessment.figures for assessment in assessments], convention)
        if arguments.json is not None:
            _write_json(arguments.json, truth, assessments, convention)
        if arguments.plots is not None:
            _write_plots(arguments.plots, truth, assessments, convention)
    return 0


def _prepare_output(arguments: argparse.Namespace) -> None:
    """What would fail after minutes fails now."""
    media.opencv()
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        if arguments.json.is_dir():
            raise ValueError(f"--json {arguments.json} is a directory; expected a file")
    if arguments.plots is not None:
        plots.figure_class()
        arguments.plots.mkdir(parents=True, exist_ok=True)


def _names(paths: Sequence[Path]) -> list[str]:
    """The files' names; their paths, where two have one name."""
    names = [path.name for path in paths]
    unique = len(set(names)) == len(names)
    return names if unique else [str(path) for path in paths]


def _assess(
    truth: Truth, candidates: Sequence[Candidate], convention: Convention
) -> list[Assessment]:
    console = Console()
    console.start_bars()
    found = evaluation.find_all(
        truth, candidates, lambda scenes: console.progress(scenes, "image", len(scenes))
    )
    return [
        evaluation.assess(truth, candidate, one, convention)
        for candidate, one in zip(candidates, found)
    ]


def _write_json(
    path: Path, truth: Truth, assessments: Sequence[Assessment], convention: Convention
) -> None:
    values = {
        "edgeface": __version__,
        "machine": bench.machine(),
        "data": truth.name,
        "convention": convention.name,
        "models": [asdict(assessment.figures) for assessment in assessments],
    }
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def _write_plots(
    folder: Path, truth: Truth, assessments: Sequence[Assessment], convention: Convention
) -> None:
    resizes = (assessment.figures.resize for assessment in assessments)
    protocol = evaluation.protocol(truth, convention, *resizes)
    written = []
    for subset in truth.subsets:
        written.append(folder / f"precision-recall-{subset}.png")
        plots.precision_recall(assessments, subset, protocol, written[-1])
    written.append(folder / "ap-by-height.png")
    plots.ap_by_height(assessments, truth.widest, protocol, written[-1])
    for assessment in assessments:
        name = re.sub(r"[^\w.-]+", "-", assessment.figures.name).strip("-")
        written.append(folder / f"mistakes-{name}.png")
        gallery.write(truth, assessment, written[-1])
    print(f"wrote {', '.join(map(str, written))}")


# --- Tables ------------------------------------------------------------------------------------------------


def _print(truth: Truth, models: Sequence[Figures], convention: Convention) -> None:
    resizes = (model.resize for model in models)
    print(f"protocol: {evaluation.protocol(truth, convention, *resizes)}")
    print("\nAP")
    print_table(_ap_rows(truth, models), align="<<<<" + ">" * len(truth.subsets))
    for unit, text in plots.UNITS.items():
        print(f"\nAP by face height in {text}, of {truth.widest} (faces)")
        print_table(_height_rows(models, unit), align="<" + ">" * (len(figures.HEIGHTS) - 1))
    print("\nat each model's own threshold, and where F1 is best")
    print_table(_point_rows(models), align="<<" + ">" * 8)
    if any(model.landmarks is not None for model in models):
        print("\nlandmarks' error, of the root of the face's area")
        print_table(_landmark_rows(models), align="<" + ">" * (3 + len(figures.PERCENTILES)))


def _ap_rows(truth: Truth, models: Sequence[Figures]) -> Iterator[tuple[str, ...]]:
    yield "model", "input", "resize", "backend", *truth.subsets
    for model in models:
        aps = (_ap_text(subset.ap) for subset in model.subsets.values())
        yield model.name, model.input_text, model.resize, model.backend, *aps


def _height_rows(models: Sequence[Figures], unit: str) -> Iterator[tuple[str, ...]]:
    yield "model", *(height.text for height in models[0].heights[unit])
    for model in models:
        yield model.name, *(f"{_ap_text(h.ap)} ({h.faces})" for h in model.heights[unit])


def _point_rows(models: Sequence[Figures]) -> Iterator[tuple[str, ...]]:
    yield "model", "faces", *("threshold", "precision", "recall", "F1"), *_BEST
    for model in models:
        for name, subset in model.subsets.items():
            best = _point_cells(subset.best)
            yield model.name, name, *_point_cells(subset.at_threshold), *best


_BEST = ("best at", "precision", "recall", "F1")


def _point_cells(point: Point | None) -> tuple[str, ...]:
    if point is None:
        return ("-",) * 4
    values = (point.precision, point.recall, point.f1)
    return f"{point.score:.3f}", *(f"{value:.3f}" for value in values)


def _landmark_rows(models: Sequence[Figures]) -> Iterator[tuple[str, ...]]:
    yield "model", "annotated", "found", "mean", *(f"{p} %" for p in figures.PERCENTILES)
    for model in models:
        if model.landmarks is None:
            yield model.name, *["-"] * (3 + len(figures.PERCENTILES))
            continue
        marks = model.landmarks
        errors = (marks.mean, *(marks.percentiles.get(str(p)) for p in figures.PERCENTILES))
        counts = (str(marks.annotated), str(marks.faces))
        yield model.name, *counts, *("-" if e is None else f"{e:.4f}" for e in errors)


def _ap_text(ap: float | None) -> str:
    return "-" if ap is None else f"{ap:.4f}"
