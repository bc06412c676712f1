"""edgeface train prepare | run | curves | export | quantize: models of one's own."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import media
from ..errors import DataError, ModelError
from . import train_curves, train_prepare, train_quantize
from .arguments import add_command, parse_count, parse_hours
from .console import Console
from .tables import count_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence

    from ..train.blocks import Detector
    from ..train.config import Config
    from ..train.log import Report
    from ..train.pictures import Pictures
    from ..train.samples import Dataset, Sample

RUN_EPILOG = """\
RUN is a Python file with `config = Config(...)` in it, or the name of one that comes with edgeface: {bundled}.

OUT gets checkpoint.pt after every epoch and every few minutes, log.csv, and at the end the model as .tmfile
with its spec, or as .onnx where a .tmfile cannot hold it. The spec names the files of --data as what the model
learnt from; --set training_data=TEXT says something else. A run that was stopped goes on with --resume as if it had
not been.
"""
EXPORT_EPILOG = """\
CHECKPOINT is a run's checkpoint.pt; its averaged weights are taken. A .tmfile gets its spec beside it as .json,
an .onnx inside. Nothing is written unless what a trial reads back computes what PyTorch does, on noise and on --images.
"""
NOISE_ALONE = "compared with PyTorch on noise alone"


def add_parser(commands: Any) -> None:
    text = "prepare data, train a model, export it"
    parser = commands.add_parser("train", help=text, description=f"{text.capitalize()}.")
    parts = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    train_prepare.add_parser(parts)
    _add_run(parts)
    train_curves.add_parser(parts)
    _add_export(parts)
    train_quantize.add_parser(parts)


def _add_run(commands: Any) -> None:
    epilog = RUN_EPILOG.format(bundled=", ".join(_bundled()))
    parser = add_command(commands, "run", run, text="train a model", epilog=epilog)
    parser.add_argument("config", metavar="RUN", help="see below")
    parser.add_argument(
        "--data",
        nargs="+",
        type=Path,
        required=True,
        metavar="PATH",
        help="what `edgeface train prepare` wrote, or folders and .tar of the same form",
    )
    parser.add_argument("--output", "-o", type=Path, required=True, metavar="OUT", help="a folder")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from OUT/checkpoint.pt, with the same RUN, images and teacher",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change the run: seed=3, stages.0.batch=16, distillation.mirror=True",
    )
    parser.add_argument(
        "--teacher",
        type=Path,
        metavar="FILE",
        help="a released Ultra-Light .pth to learn from; needed where RUN says how to follow one",
    )
    parser.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="weights to begin with: a checkpoint, a .pth, or a float32 .tmfile or .onnx of edgeface's",
    )
    parser.add_argument(
        "--hours",
        type=parse_hours,
        metavar="H",
        help="end after so much work instead of RUN's epochs, and plan the learning rate for that; "
        "with --resume others than before shorten or lengthen the run",
    )
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda (default: cuda where it is)")
    parser.add_argument(
        "--num-threads", type=parse_count, metavar="N", help="default: the CPUs allowed, at most 4"
    )
    parser.add_argument(
        "--limit", type=parse_count, metavar="N", help="only N images, from all over"
    )
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        help="write OUT for TensorBoard, too; needs tensorboard",
    )


def _add_export(commands: Any) -> None:
    parser = add_command(
        commands, "export", run_export, text="write a checkpoint as a model", epilog=EXPORT_EPILOG
    )
    parser.add_argument("source", type=Path, metavar="CHECKPOINT")
    parser.add_argument("target", type=Path, metavar="OUT", help="a .tmfile or .onnx")
    parser.add_argument(
        "--images", nargs="+", type=Path, default=[], metavar="FILE", help="compare on these, too"
    )
    parser.add_argument(
        "--silence",
        action="store_true",
        help="without channels that hardly varied in training: they may explode in other images",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT and its .json")


def _bundled() -> list[str]:
    # By their names alone: this runs for every command, with PyTorch or without.
    folder = Path(__file__).parents[1] / "train" / "configs"
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def run(arguments: argparse.Namespace) -> int:
    torch = import_torch()
    from ..cpu import default_num_threads
    from ..train import config as configs
    from ..train import judge, log, loop, weights
    from ..train.start import is_model

    _check_output(arguments.output / loop.CHECKPOINT, resume=arguments.resume)
    config = configs.load(arguments.config)
    for change in arguments.set:
        config = configs.override(config, change)
    config = with_data(config, arguments.data)
    torch.set_num_threads(arguments.num_threads or default_num_threads())
    device = chosen_device(arguments.device)
    teacher = None if arguments.teacher is None else weights.open_teacher(arguments.teacher)
    # A run that goes on has begun.
    begins = arguments.start is not None and not arguments.resume
    start = _open_start(arguments.start, config) if begins else None
    console = Console()
    console.start_bars()
    samples = load_data(arguments.data, arguments.limit)
    kept, held_out = judge.split(samples, config.held_out)
    print(f"{count_of(len(kept), 'image')} to learn from, {len(held_out)} held out", flush=True)
    begun = loop.check(
        config, kept, arguments.output, teacher=teacher, start=start, resume=arguments.resume
    )
    recorded = log.recorder(arguments.output, begun.step) if arguments.tensorboard else iter
    arguments.output.mkdir(parents=True, exist_ok=True)
    reports = loop.train(
        config,
        kept,
        opened_pictures(kept, device, console),
        arguments.output,
        device=device,
        teacher=teacher,
        start=start,
        settles=begins and is_model(arguments.start),
        hours=arguments.hours,
        resume=arguments.resume,
    )
    _watch(recorded(reports))
    return _finish(config, held_out, arguments.output, console)


def with_data(config: Config, paths: Sequence[Path]) -> Config:
    """What the model's spec will say that it learnt from: the paths' names, where the run says nothing."""
    names = dict.fromkeys(path.resolve().name for path in paths)
    return dataclasses.replace(config, training_data=config.training_data or ", ".join(names))


def _open_start(path: Path, config: Config) -> Detector:
    from ..train.start import fitted, open_start

    network, left = fitted(open_start(path), config)
    parts = sorted({".".join(name.split(".")[:2]) for name in left})
    print(f"begins with {path}" + (f" but for {', '.join(parts)}" if parts else ""), flush=True)
    return network


def _check_output(path: Path, *, resume: bool) -> None:
    """Days of work lie there."""
    if path.exists() and not resume:
        raise FileExistsError(errno.EEXIST, "exists; --resume goes on from it", str(path))
    if resume and not path.exists():
        raise FileNotFoundError(errno.ENOENT, "nothing to resume from", str(path))


def import_torch() -> Any:
    """PyTorch, or an error that says how to get it."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f'training needs PyTorch ({error}): pip install "edgeface[train]"'
        ) from error
    return torch


def chosen_device(name: str | None) -> Any:
    """The device of that name, or a GPU where there is one; BackendError where PyTorch cannot use it."""
    import torch

    from ..backends.torch.runner import open_device

    return open_device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def load_data(paths: Sequence[Path], limit: int | None) -> list[Sample]:
    """The labelled images there, none of which is to be compared on; of more than `limit`, some from all over."""
    from ..train.samples import trainable

    datasets = [_prepared(path) for path in paths]
    for dataset in datasets:
        if dataset.held_out:
            raise ValueError(
                f"{dataset.path}: models are compared on it, so none may learn from it"
            )
    with _told_how_to_skip():
        samples = [sample for dataset in datasets for sample in trainable(dataset)]
    count = min(len(samples), limit or len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def opened_pictures(samples: Sequence[Sample], device: Any, console: Console) -> Pictures:
    """Decoded, with a bar, or else a line that says why not."""
    from ..train import pictures

    with _told_how_to_skip():
        opened = pictures.open_pictures(
            samples, device, lambda items: console.progress(items, " images", len(samples))
        )
    if not opened.are_decoded:
        size = pictures.decoded_bytes(samples) / 2**30
        print(
            f"decoded, the images would take {size:.1f} GiB, more than half of the memory: each is decoded whenever it "
            "is seen, which takes longer",
            flush=True,
        )
    return opened


@contextlib.contextmanager
def _told_how_to_skip() -> Iterator[None]:
    """A damaged image or label stops a run before it begins: what it learns from is what it was given."""
    try:
        yield
    except DataError as error:
        raise DataError(
            f"{error}; `edgeface train prepare --on-error skip` leaves it out"
        ) from None


def _prepared(path: Path) -> Dataset:
    """What `edgeface train prepare` wrote; DataError says that it is needed where another data set lies."""
    from ..train.readers import format_at
    from ..train.samples import open_archive

    try:
        return open_archive(path)
    except DataError:
        form = format_at(path)
        if form in (None, "edgeface"):
            raise
        raise DataError(
            f"{path}: a data set of the form {form}; train on what `edgeface train prepare {path} -o OUT.tar` writes"
        ) from None


def _watch(reports: Iterable[Report]) -> None:
    """A bar where a person looks at stderr, and a line for each report elsewhere."""
    bar = _bar()
    for report in reports:
        text = (
            f"loss {report.total:.3f} (scores {report.scores:.3f}, boxes {report.boxes:.3f}) at "
            f"{report.size}, {report.images_per_second:.0f} images/s"
        )
        if bar is None:
            print(f"{report.fraction:4.0%} step {report.step}: {text}", flush=True)
        else:
            bar.set_postfix_str(text, refresh=False)
            bar.update(report.fraction - bar.n)
    if bar is not None:
        bar.close()


def _bar() -> Any:
    """Of a run from 0 to 1, or None."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=1.0, bar_format="{percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}")


def _finish(config: Config, held_out: Sequence[Sample], output: Path, console: Console) -> int:
    """Exports the model and says how good it is."""
    from ..detector import FaceDetector
    from ..train import judge

    target = _export(config, held_out, output)
    print(f"wrote {target}")
    detector = FaceDetector(target, **judge.DETECTOR_OPTIONS)
    ap = judge.average_precision(detector, console.progress(held_out, " images", len(held_out)))
    if ap is not None:
        print(f"AP {ap:.3f} on the {count_of(len(held_out), 'image')} held out")
    return 0


def _export(config: Config, held_out: Sequence[Sample], output: Path) -> Path:
    """As .tmfile, which boards run, or as .onnx: days of training must not end without a model."""
    from ..train import export, loop

    frames = {sample.name: sample.read() for sample in held_out[:3]}
    if not frames:
        print(f"no image is held out: {NOISE_ALONE}")
    target = output / f"{config.name}.tmfile"
    try:
        export.export(output / loop.CHECKPOINT, target, frames=frames, force=True)
    except ModelError as error:
        print(f"as .onnx instead: {error}")
        target = target.with_suffix(".onnx")
        export.export(output / loop.CHECKPOINT, target, frames=frames, force=True)
    return target


def run_export(arguments: argparse.Namespace) -> int:
    import_torch()
    from ..train.export import export

    try:
        frames = {str(path): media.read_image(path) for path in arguments.images}
    except media.MediaError as error:
        raise OSError(str(error)) from None
    written, differences = export(
        arguments.source,
        arguments.target,
        frames=frames,
        force=arguments.force,
        silences=arguments.silence,
    )
    for name, difference in differences.items():
        print(f"{name}: differs from PyTorch by {difference:.1e} of a head's largest value")
    if not frames:
        print(f"no --images: {NOISE_ALONE}")
    print(f"wrote {written.target}: {written.bytes:,} bytes")
    print(f"spec {written.sidecar or 'inside ' + str(written.target)}")
    return 0
