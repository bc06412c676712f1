"""A run's checkpoint -> NAME and NAME-int8: model, spec and card, with what they reach on annotated images.

    python models/make.py runs/rfb320/checkpoint.pt rfb320 --images train-wider.tar --data eval-wider-val.tar

Needs the extras `train` and `eval`. The same files give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgeface import convert, evaluation, model, quantization
from edgeface.cli.console import Console
from edgeface.evaluation import precision
from edgeface.evaluation.figures import INPUT
from edgeface.quantization.pictures import Pictures
from edgeface.train import checkpoint
from edgeface.train.config import to_dict
from edgeface.train.export import export

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from edgeface.evaluation import Assessment
    from edgeface.evaluation.figures import HeightFigures, LandmarkFigures
    from edgeface.graph import Graph
    from edgeface.model import Model
    from edgeface.spec import ModelSpec
    from edgeface.train.config import Config, Distillation, Stage

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
RESIZES = ("stretch", "letterbox")
FLOAT32, INT8 = "float32", "int8"
FOUND_AP = 0.5  # of faces of a height, from which on the card says that they are found
MOST_LOST_AP = 0.005
COMPARED = 8  # images, besides noise, with PyTorch
# Images, those that a run holds out among them, and what they show.
DATA = {
    "WIDER FACE": (1582, "part of its train images"),
    "MAFA": (2000, "mostly masked faces, large"),
    "Face Mask Detection": (853, "masks in public places"),
    "stock photographs": (5004, "people and groups; boxes a little loose"),
}
TRAINING_DATA = ", ".join(DATA)
PSEUDO = "Their landmarks are for the most part another model's, not a person's."
HELD_OUT = (
    " in images that the run\nheld out. Most points there are another model's, not a person's."
)
TERMS = (
    "Research data sets whose terms do not allow passing images on: none is here, and what the terms mean for "
    "a model that learnt from them is for its user to judge."
)


def main() -> int:
    arguments = parsed()
    runs = [read_run(path) for path in (*arguments.before, arguments.checkpoint)]
    learnt = history(runs, arguments)
    precisions = (INT8,) if arguments.only_int8 else (FLOAT32, INT8)
    with tempfile.TemporaryDirectory() as folder:
        opened, recipe = in_both(runs[-1], arguments, Path(folder))
        measured = measure(opened, arguments.data)
        if not report(measured) and not arguments.force:
            print("nothing is written; --force writes it")
            return 1
        landmarks = {kind: landmark_error(opened[kind], arguments.landmarks) for kind in precisions}
    arguments.output.mkdir(parents=True, exist_ok=True)
    for kind in precisions:
        name = arguments.name if kind == FLOAT32 else f"{arguments.name}-{kind}"
        data = arguments.training_data or opened[kind].spec.training_data or TRAINING_DATA
        spec = dataclasses.replace(opened[kind].spec, name=name, training_data=data)
        made = [*learnt, recipe] if kind == INT8 else learnt
        about = About(kind, measured, made, landmarks[kind])
        write(opened[kind].graph, spec, about, arguments.output)
    return 0


def history(runs: Sequence[Run], arguments: argparse.Namespace) -> list[str]:
    """How the weights came to be, for the card."""
    before = former(arguments.former) if arguments.former else []
    learnt = training(runs, arguments.teacher, arguments.start, before)
    if arguments.mean_with:
        last = f"the last {len(runs)} runs" if len(runs) > 1 else "the last run"
        learnt.append(f"weights: the mean of those that {last} began and ended with")
    if arguments.silence:
        learnt.append(
            "channels that hardly varied in training are silenced (`edgeface train export --silence`)"
        )
    return learnt


def in_both(run: Run, arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Model], str]:
    """The model in float32 and in int8, as files in the folder, and how int8 was made."""
    config, state, _ = run
    weights, exported = arguments.checkpoint, folder / f"{arguments.name}.tmfile"
    if arguments.mean_with:
        weights = mean_of(config, state, arguments.mean_with, folder / "mean.pt")
    export_compared(weights, exported, arguments)
    single = model.load(exported)
    integers, recipe = in_int8(single, arguments, folder)
    return {FLOAT32: single, INT8: integers}, recipe


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Makes the files of a model and of its int8 form.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name", help="such as rfb320")
    parser.add_argument(
        "--images", nargs="+", type=Path, required=True, help="to calibrate and compare with"
    )
    parser.add_argument("--samples", type=int, default=200, help="of them (default: %(default)s)")
    parser.add_argument(
        "--scale-steps",
        type=int,
        default=quantization.Rounding().scale_steps,
        help="of weights an octave, as of `edgeface quantize`: fewer make a smaller file (default: %(default)s)",
    )
    parser.add_argument("--data", type=Path, required=True, help="annotated, to measure on")
    parser.add_argument(
        "--before",
        nargs="+",
        type=Path,
        default=[],
        metavar="CHECKPOINT",
        help="of the runs that this one went on from (--start), first to last, for the card",
    )
    parser.add_argument("--teacher", default="", help="its name, for the card")
    parser.add_argument(
        "--start", default="", metavar="NAME", help="the model here that the first run began with"
    )
    parser.add_argument(
        "--former",
        type=Path,
        metavar="CARD",
        help="of the model that the first run began with and that this is to replace",
    )
    parser.add_argument(
        "--mean-with",
        type=Path,
        metavar="CHECKPOINT",
        help="that the last run, with those --before it, began with and kept the statistics of, whose weights count "
        "as much as its own",
    )
    parser.add_argument("--silence", action="store_true", help="as of `edgeface train export`")
    parser.add_argument("--landmarks", type=Path, help="annotated, to measure landmarks on")
    parser.add_argument(
        "--training-data",
        default="",
        help=f"instead of what the run says; where it says nothing: {TRAINING_DATA}",
    )
    parser.add_argument(
        "--int8", type=Path, help="made by `edgeface train quantize`, instead of quantising here"
    )
    parser.add_argument("--only-int8", action="store_true")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent)
    parser.add_argument(
        "--force", action="store_true", help="though int8 finds other faces, or less"
    )
    arguments = parser.parse_args()
    if arguments.former and arguments.start:
        parser.error("--former tells what the first run began with; leave out --start")
    return arguments


def mean_of(config: Config, state: Mapping[str, Any], other: Path, target: Path) -> Path:
    """A checkpoint of mean weights, of a run's and of what it began with; ValueError where those are others.

    "Robust fine-tuning of zero-shot models", arXiv 2109.01903.
    """
    _, began = checkpoint.read(other)
    ended, before = (one["state_dict"] for one in (state, began))
    if ended.keys() != before.keys():
        raise ValueError(f"{other}: of another network than the checkpoint that it is the start of")
    mean = {
        key: (value + before[key]) / 2 if value.is_floating_point() else value
        for key, value in ended.items()
    }
    checkpoint.write(target, {**state, "config": to_dict(config), "state_dict": mean})
    return target


def export_compared(weights: Path, target: Path, arguments: argparse.Namespace) -> None:
    """In float32, once it is seen to compute what PyTorch does: on noise, and on some of the images."""
    with Pictures(arguments.images, COMPARED, on_error=Console().failure) as pictures:
        frames = {f"picture {number}": frame for number, frame in enumerate(pictures, 1)}
    _, found = export(weights, target, frames=frames, silences=arguments.silence)
    for name, difference in found.items():
        print(f"{name}: differs from PyTorch by {difference:.1e} of a head's largest value")
    if not frames:
        print("no image can be read: compared with PyTorch on noise alone")


def in_int8(opened: Model, arguments: argparse.Namespace, folder: Path) -> tuple[Model, str]:
    """The model in int8, and how it came to be."""
    if arguments.int8 is not None:
        return model.load(arguments.int8), "int8: learnt on with rounded values"
    console = Console()
    usual = quantization.Options()
    rounding = dataclasses.replace(usual.rounding, scale_steps=arguments.scale_steps)
    options = dataclasses.replace(usual, rounding=rounding)
    with Pictures(arguments.images, arguments.samples, on_error=console.failure) as pictures:
        found = quantization.quantize(opened, pictures, options)
        count = len(pictures)
    refusal = quantization.refusal(found.agreement, quantization.Limits())
    if refusal and not arguments.force:
        raise SystemExit("\n".join([*refusal, "nothing is written; --force writes it"]))
    for line in refusal:
        print(line)
    target = folder / f"{arguments.name}-int8.tmfile"
    convert.save(found.graph, dataclasses.replace(found.spec, ap={}), target, force=False)
    return model.load(target), (
        f"int8: after training, on {count} pictures, with per-channel weights in {rounding.scale_steps} scales an octave, ranges by "
        f"{options.method.name}, equalisation and bias correction"
    )


Measured = dict[tuple[str, str, str], "Assessment"]  # by precision, resize and convention


def measure(opened: Mapping[str, Model], data: Path) -> Measured:
    """Every precision, stretched and letterboxed, in both conventions."""
    console = Console()
    console.start_bars()
    cases = [(kind, resize) for kind in opened for resize in RESIZES]
    with evaluation.open_truth(data) as truth:
        candidates = [
            evaluation.open_model(opened[kind].path, kind, resize=resize) for kind, resize in cases
        ]
        found = evaluation.find_all(
            truth, candidates, lambda scenes: console.progress(scenes, "image", len(scenes))
        )
        return {
            (*case, convention.name): evaluation.assess(truth, candidate, one, convention)
            for case, candidate, one in zip(cases, candidates, found)
            for convention in evaluation.CONVENTIONS.values()
        }


def report(measured: Measured) -> bool:
    """Whether int8 is as good as float32, which it prints."""
    lines = [aps(measured[kind, "stretch", "exact"]) for kind in (FLOAT32, INT8)]
    lost = max(one - other for one, other in zip(*(line.values() for line in lines)))
    for kind, line in zip((FLOAT32, INT8), lines):
        print(f"{kind}: {', '.join(f'{name} {ap:.4f}' for name, ap in line.items())}")
    print(f"int8 is worse by {lost:.4f} at most; {MOST_LOST_AP} is allowed")
    return bool(lost <= MOST_LOST_AP)


def aps(assessment: Assessment) -> dict[str, float]:
    """By subset, those that have a face."""
    found = assessment.figures.subsets
    return {name: one.ap for name, one in found.items() if one.ap is not None}


class About(NamedTuple):
    """What a card tells of a model besides its spec."""

    kind: str  # precision
    measured: Measured
    learnt: Sequence[str]
    landmarks: LandmarkFigures | None  # of images of their own


def write(graph: Graph, spec: ModelSpec, about: About, folder: Path) -> None:
    target = folder / f"{spec.name}.tmfile"
    found = aps(about.measured[about.kind, "stretch", "exact"])
    ap = {subset: round(value, 4) for subset, value in found.items()}
    spec = dataclasses.replace(spec, ap=ap, sha256=None)
    convert.save(graph, spec, target, force=True)
    text = card(target, spec, about)
    target.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"wrote {target}, .json and .md: {target.stat().st_size:,} bytes")


# --- The card --------------------------------------------------------------------------------------------


def former(path: Path) -> list[str]:
    """What a card tells of training; ValueError where it tells nothing. Only int8 is made again."""
    section = (
        path.read_text(encoding="utf-8").partition("## What it learnt from")[2].partition("##")[0]
    )
    lines = [line[2:] for line in section.splitlines() if line.startswith("- ")]
    if not lines or not lines[0].startswith("network: "):
        raise ValueError(f"{path}: no card of a model, or none that tells what it learnt")
    return [line for line in lines if not line.startswith("int8: ")]


class Run(NamedTuple):
    """What a checkpoint and the log beside it say of the run that left them."""

    config: Config
    state: Mapping[str, Any]
    images: str = ""  # that it saw, as many times as it saw them


def read_run(path: Path) -> Run:
    config, state = checkpoint.read(path)
    return Run(config, state, images_seen(config, state, path.with_name("log.csv")))


def images_seen(config: Config, state: Mapping[str, Any], log: Path) -> str:
    """Steps times batch; where stages have several, by the log, whose rows tell the size of their last step."""
    progress = state.get("progress")
    batches = {"{}x{}".format(*stage.size): stage.batch for stage in config.stages}
    if len(set(batches.values())) == 1 and progress:
        return f"{progress['step'] * config.stages[0].batch:,} images"
    if len(batches) < len(config.stages) or not log.is_file():
        return ""
    with log.open(newline="", encoding="utf-8") as file:
        rows = [(int(row["step"]), row["size"]) for row in csv.DictReader(file)]
    steps = np.diff([0, *(step for step, _ in rows)])
    count = sum(int(n) * batches[size] for n, (_, size) in zip(steps, rows))
    return f"about {round(count, -3):,} images"


def training(
    runs: Sequence[Run], teacher: str, start: str, before: Sequence[str] = ()
) -> list[str]:
    """A line for every run, each of which went on from the one before; `before`, those that there are already."""
    config = runs[-1].config
    landmarks = " with five landmarks" if config.landmarks else ""
    begun = (
        f"from the weights of [{start}]({start}.md) as far as they fit"
        if start
        else "from random weights"
    )
    lines = list(before) or [f"network: {config.network}{landmarks}, {begun}"]
    if config.learns:
        lines.append(f"learnt: `{config.learns}*` alone; everything else is as it was")
    lines += [line_of(run, is_taught=bool(teacher)) for run in runs]
    if teacher and f"teacher: {teacher}" not in lines:
        lines.append(f"teacher: {teacher}")
    return lines


def line_of(run: Run, *, is_taught: bool) -> str:
    config, state, images = run
    progress = state.get("progress")
    done = [f"{progress['step']:,} steps"] if progress else []
    done += [images] if images else []
    stages = ", then ".join(map(stage_text, config.stages))
    repeated = "".join(
        f", images of {name} {count} times as often" for name, count in config.repeat.items()
    )
    return (
        f"{', '.join([*done, stages])}{repeated}; {config.optimizer}, learning rate {config.learning_rate:g} "
        f"({config.schedule}), weight decay {config.weight_decay:g}, average of weights {config.ema:g}, "
        f"seed {config.seed}{'' if config.batch_statistics else ', BatchNorms by what they had seen before'}"
        f"{'; ' + teaching_text(config.distillation) if is_taught else ''}"
    )


def stage_text(stage: Stage) -> str:
    how = stage.augmentation
    shares = [
        (
            how.mosaic,
            f"mosaics of {' or '.join(f'{n}x{n}' for n in dict.fromkeys(how.mosaic_sides))}",
        ),
        (how.expand, "on a larger canvas"),
        (how.crop, "cropped, half as often in mosaics"),
        (how.mirror, "mirrored"),
        (how.distort, "with other colours"),
        (how.grey, "grey"),
    ]
    shown = ", ".join(f"{share:.0%} {what}" for share, what in shares if share)
    size = "{}x{}".format(*stage.size)
    return f"{size} with batches of {stage.batch}" + (f" ({shown})" if shown else "")


def teaching_text(how: Distillation) -> str:
    weights = f"scores x {how.scores:g}, boxes x {how.boxes:g}, features x {how.features:g}"
    mirrored = ", the mean over an image and its mirror image" if how.mirror else ""
    return f"beside the labels, its teacher's {weights}{mirrored}"


def card(path: Path, spec: ModelSpec, about: About) -> str:
    """Markdown, for whoever wants to know what the model is good for."""
    kind, measured, learnt, landmarks = about
    used = measured[kind, "stretch", "exact"]
    data = path.read_bytes()
    parts = [
        f"# {path.stem}",
        (
            f"Finds faces in an image of {spec.input.width}x{spec.input.height}, {kind}"
            f"{', with five landmarks' if spec.heads.landmarks else ''}; it does not tell whose they are. "
            f"`{path.name}`, {len(data):,} bytes, sha256 `{hashlib.sha256(data).hexdigest()}`, "
            f"{spec.licence} licence."
        ),
        "## What it learnt from",
        f"{spec.training_data}. {TERMS}",
        *data_table(spec.training_data or ""),
        "\n".join(f"- {line}" for line in learnt),
        *curves_link(path),
        "## AP",
        f"{used.figures.protocol}.",
        "\n".join(ap_rows(measured)),
        f"Stretched is how it was trained, and what a detector does by default. {path.stem} is {kind}.",
        "## Smallest face",
        smallest_face(used),
        "\n".join(height_rows(used)),
        "## Thresholds",
        f"A detector's own threshold is {spec.score_threshold:g}. Precision and recall of all faces of each subset:",
        "\n".join(threshold_rows(used)),
    ]
    error = landmarks or used.figures.landmarks
    if error is not None and error.mean is not None:
        text = (
            f"Mean distance {error.mean:.3f} of the root of the face's area, of {error.faces} faces"
        )
        parts += ["## Landmarks", text + (HELD_OUT if landmarks else ".")]
    return "\n\n".join(parts) + "\n"


def data_table(training_data: str) -> list[str]:
    """How much of each data set, and what is known of it, where it is one that we know."""
    known = [(name, *DATA[name]) for name in training_data.split(", ") if name in DATA]
    if not known:
        return []
    head = table_head("data set", "images", "what")
    rows = [table_row(name, f"{count:,}", what) for name, count, what in known]
    return ["\n".join([*head, *rows]), PSEUDO]


def curves_link(path: Path) -> list[str]:
    """To the pictures of the learning curves, if there are any of that network."""
    network = path.stem.replace("-int8", "").replace("-landmarks", "")
    folders = (path.parent, Path(__file__).parent)
    names = sorted(
        {file.name for folder in folders for file in folder.glob(f"{network}-*curves.png")}
    )
    links = ", ".join(f"[{name}]({name})" for name in names)
    return [f"Learning curves of {network}: {links}."] if names else []


def landmark_error(opened: Model, data: Path | None) -> LandmarkFigures | None:
    """How far they are off on annotated images of their own; nothing without any."""
    if data is None:
        return None
    with evaluation.open_truth(data) as truth:
        candidate = evaluation.open_model(opened.path, "landmarks", resize="stretch")
        (found,) = evaluation.find_all(truth, [candidate], iter)
        convention = evaluation.CONVENTIONS["exact"]
        return evaluation.assess(truth, candidate, found, convention).figures.landmarks


def ap_rows(measured: Measured) -> Iterator[str]:
    subsets = list(next(iter(measured.values())).figures.subsets)
    yield from table_head("precision", "resize", "convention", *subsets)
    for (kind, resize, convention), assessment in measured.items():
        values = [f"{ap:.4f}" for ap in aps(assessment).values()]
        yield table_row(kind, resize, convention, *values)


def smallest_face(assessment: Assessment) -> str:
    bands = [(b.low, b.ap) for b in assessment.figures.heights[INPUT] if b.ap is not None]
    found = [low for low, _ in bands if all(ap >= FOUND_AP for at, ap in bands if at >= low)]
    if not found:
        return f"Faces of no height reach an AP of {FOUND_AP:g}."
    low = found[0]
    return (
        f"Faces reach an AP of {FOUND_AP:g} from {low:g} px of the network's input on, in height."
        if low
        else f"Faces of every height reach an AP of {FOUND_AP:g}."
    )


def height_rows(assessment: Assessment) -> Iterator[str]:
    bands: Sequence[HeightFigures] = assessment.figures.heights[INPUT]
    yield from table_head("height, input px", *(band.text for band in bands))
    yield table_row("faces", *(str(band.faces) for band in bands))
    yield table_row("AP", *("-" if band.ap is None else f"{band.ap:.3f}" for band in bands))


def threshold_rows(assessment: Assessment) -> Iterator[str]:
    subsets = list(assessment.judged)
    yield from table_head("threshold", *subsets)
    for score in THRESHOLDS:
        points = [precision.point_at(assessment.judged[name], score) for name in subsets]
        yield table_row(f"{score:g}", *(f"{p.precision:.3f} / {p.recall:.3f}" for p in points))
    best = [precision.best_point(assessment.judged[name]) for name in subsets]
    yield table_row(
        "best F1",
        *(
            "-" if p is None else f"{p.precision:.3f} / {p.recall:.3f} at {p.score:.2f}"
            for p in best
        ),
    )


def table_head(*cells: str) -> Iterator[str]:
    yield table_row(*cells)
    yield "|" + "---|" * len(cells)


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    raise SystemExit(main())
