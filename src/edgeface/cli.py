"""The command line: edgeface detect | info | bench | demo."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, bench, media, model, summary, zoo
from .backends import BACKENDS, supporting
from .detector import NMS, FaceDetector
from .errors import BackendError, ModelError
from .spec import RESIZES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import TextIO, TypeVar

    import numpy as np
    from numpy.typing import NDArray

    from .faces import Faces

    Item = TypeVar("Item")

FAILED, ERROR = 1, 2
# What a shell says of a program that the signal ended: 128 and the signal's number.
INTERRUPTED, BROKEN_PIPE = 128 + 2, 128 + 13
# What a caller can act on; anything else is our bug and keeps its traceback.
EXPECTED = (ModelError, BackendError, ValueError, TypeError, OSError, ImportError)

# The frame that info takes as its example: what cheap cameras give.
EXAMPLE_FRAME = (640, 480)

# FaceDetector's arguments that are options here, but for `backend`, which `bench` takes several times.
API_OPTIONS = frozenset(
    {
        "spec",
        "num_threads",
        "input_size",
        "resize",
        "score_threshold",
        "iou_threshold",
        "nms",
        "max_faces",
        "min_face",
    }
)

DETECT_HELP = """\
An INPUT is an image, a video (told by its suffix) or a directory, which is searched for images at
every depth, in the order of their names; hidden files and OUT itself are left out.

What comes out:
  (neither)  a line for every image or video frame, and one for every face in it
  --json     a JSON object on a line of its own for every image or video frame:
             {"file": ..., "width": ..., "height": ..., "faces": [{"box": [x1, y1, x2, y2],
             "score": ...}, ...]}; a video's frames have "frame" (from 0) and "time" (seconds) too
  -o OUT     pictures with the faces drawn on them. For one image or video, OUT may be a file;
             otherwise it is a directory: an image keeps its name and its place below the INPUT
             directory, a video becomes an .mp4. Inputs are never overwritten, other files are.

Images are read upright, as their EXIF data says, as 8 bit BGR. One that cannot be read is named on
stderr and the others go on; the exit status is then 1.
"""
BENCH_HELP = """\
Several backends take turns of 10 frames; they must first find the same faces (IoU of at least 0.99,
scores within 0.001), otherwise the exit status is 1. The faces of a random frame are mostly none:
give --image to compare real ones. "relative" is the median total time over the first backend's.
"""
STATUS_HELP = """\
Exit status: 0; 1 when some inputs failed; 2 for an error; 130 when interrupted.
EDGEFACE_BACKEND and EDGEFACE_ISA choose where no option does; EDGEFACE_TRACEBACK=1 is --traceback.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal's encoding lacks.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status: int = arguments.command(arguments)
        # Here rather than at exit: a closed pipe must still be caught.
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("edgeface: interrupted", file=sys.stderr)
        return INTERRUPTED
    except EXPECTED as error:
        if arguments.traceback or os.environ.get("EDGEFACE_TRACEBACK") == "1":
            raise
        print(f"edgeface: error: {_one_line(error)}", file=sys.stderr)
        return ERROR
    return status


def _discard_stdout() -> None:
    """The reader (`| head`) has gone: Python's own flush at exit must not complain either."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return _squeezed(str(error))


def _squeezed(text: str) -> str:
    """On one line: some runtimes explain themselves in several."""
    return " ".join(text.split())


# The arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeface",
        description="Finds faces in images and videos.",
        epilog=STATUS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgeface {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_detect(commands)
    _add_info(commands)
    _add_bench(commands)
    _add_demo(commands)
    return parser


def _add_command(
    commands: Any, command: Any, *parents: argparse.ArgumentParser, text: str, epilog: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        command.__name__.lstrip("_"),
        help=text,
        description=text[:1].upper() + text[1:] + ".",
        epilog=epilog,
        parents=list(parents),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the program an error arose"
    )
    parser.set_defaults(command=command)
    return parser


def _add_detect(commands: Any) -> None:
    backend = _backend_parser("the runtime (default: %(default)s, the first that runs the network)")
    text = "find the faces in images and videos"
    parser = _add_command(
        commands, _detect, _options_parser(), backend, text=text, epilog=DETECT_HELP
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT")
    parser.add_argument("--model", required=True, help="a .tmfile or .onnx")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="draw the faces; see below"
    )
    parser.add_argument("--json", action="store_true", help="print JSON Lines; see below")
    parser.add_argument(
        "--roi", type=_roi, metavar="X,Y,W,H", help="look only in this part of every frame (pixels)"
    )


def _add_info(commands: Any) -> None:
    parser = _add_command(commands, _info, text="show what a model is and what runs it")
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .tmfile or .onnx")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--layers", action="store_true", help="list every layer too")
    _add_spec_and_size(parser)
    parser.add_argument(
        "--write-spec",
        choices=zoo.FAMILIES,
        metavar="FAMILY",
        help="instead, write the .json beside MODEL that says what networks of a family "
        f"({', '.join(zoo.FAMILIES)}) were trained with, to be edited; an existing one stays",
    )


def _add_bench(commands: Any) -> None:
    backend = _backend_parser("a runtime, may be repeated; all: those that run it", "all")
    backend.set_defaults(backend=None)
    text = "time a model on this machine"
    parser = _add_command(
        commands, _bench, _options_parser(), backend, text=text, epilog=BENCH_HELP
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .tmfile or .onnx")
    parser.add_argument(
        "--frames", type=_count, default=100, metavar="N", help="detects (default: %(default)s)"
    )
    frame = parser.add_mutually_exclusive_group()
    frame.add_argument(
        "--frame-size",
        type=_size,
        default=EXAMPLE_FRAME,
        metavar="WxH",
        help="of a random frame (default: 640x480)",
    )
    frame.add_argument("--image", type=Path, metavar="FILE", help="a real frame instead")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_demo(commands: Any) -> None:
    backend = _backend_parser("the runtime (default: %(default)s)")
    text = "find the face in scikit-image's photograph of an astronaut"
    parser = _add_command(commands, _demo, _options_parser(), backend, text=text)
    parser.add_argument("--model", help="a .tmfile or .onnx")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("faces.png"),
        metavar="FILE",
        help="the drawn picture (default: %(default)s)",
    )


def _backend_parser(text: str, *more: str) -> argparse.ArgumentParser:
    """--backend, which `bench` takes several times."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "--backend",
        action="append" if more else "store",
        default=None if more else "auto",
        choices=("auto", *BACKENDS, *more),
        help=text,
    )
    return parser


def _options_parser() -> argparse.ArgumentParser:
    """FaceDetector's options under their own names; those not given are left to its defaults."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    _add_spec_and_size(parser)
    parser.add_argument("--resize", choices=RESIZES, help="how a frame is fitted (default: spec's)")
    parser.add_argument(
        "--score-threshold", type=float, metavar="S", help="least score, 0 to 1 (default: spec's)"
    )
    parser.add_argument(
        "--iou-threshold",
        type=float,
        metavar="IOU",
        help="boxes that overlap by more are one face, 0 to 1 (default: spec's)",
    )
    parser.add_argument("--nms", choices=NMS, help="how such boxes are merged (default: hard)")
    parser.add_argument("--max-faces", type=int, metavar="N", help="best first (default: 750)")
    parser.add_argument(
        "--min-face", type=float, metavar="PIXELS", help="the smallest face wanted, in frame pixels"
    )
    parser.add_argument(
        "--num-threads", type=int, metavar="N", help="default: the CPUs allowed, at most 4"
    )
    return parser


def _add_spec_and_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spec",
        default=argparse.SUPPRESS,
        metavar="JSON",
        help="what the model was trained with (default: the .json beside it, or known)",
    )
    parser.add_argument(
        "--input-size",
        type=_size,
        default=argparse.SUPPRESS,
        metavar="WxH",
        help="of the network's input, instead of the file's",
    )


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 320x240")
    return int(match[1]), int(match[2])


def _roi(text: str) -> tuple[int, int, int, int]:
    match = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+)", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,WIDTH,HEIGHT in whole pixels")
    return int(match[1]), int(match[2]), int(match[3]), int(match[4])


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of 1 or more")
    return int(text)


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """FaceDetector's options among the arguments, but for the backend."""
    return {name: value for name, value in vars(arguments).items() if name in API_OPTIONS}


# detect


class _Console:
    """Lines of results and of errors, and progress bars, which share a terminal."""

    def __init__(self) -> None:
        self.failures = 0
        self._tqdm: Any = None

    def start_bars(self) -> None:
        """Shows the bars of `progress` from now on, where a person looks at stderr."""
        if not sys.stderr.isatty():
            return
        try:
            from tqdm import tqdm
        except ImportError:
            self._write('edgeface: no progress bar: pip install "edgeface[image]"', sys.stderr)
        else:
            self._tqdm = tqdm

    def result(self, line: str) -> None:
        self._write(line, sys.stdout)
        # Whoever reads a long video through a pipe wants every frame when it is done.
        sys.stdout.flush()

    def failure(self, message: str) -> None:
        """Says what went wrong with one input; the others go on."""
        self.failures += 1
        self._write(f"edgeface: {_squeezed(message)}", sys.stderr)

    def progress(self, items: Iterable[Item], unit: str, total: int | None) -> Iterable[Item]:
        if self._tqdm is None or total == 1:
            return items
        bar: Iterable[Item] = self._tqdm(items, unit=unit, total=total, leave=False)
        return bar

    def _write(self, line: str, stream: TextIO) -> None:
        if self._tqdm is None:
            print(line, file=stream)
        else:
            # Wipes the bars, writes, and draws them again below.
            self._tqdm.write(line, file=stream)


def _detect(arguments: argparse.Namespace) -> int:
    media.opencv()
    console = _Console()
    output: Path | None = arguments.output
    found = media.sources(arguments.inputs, skip=output, on_error=console.failure)
    drawn: Sequence[Path | None] = [None] * len(found)
    if output is not None:
        drawn = media.destinations(arguments.inputs, found, output)
    if len(found) > 1 or any(source.is_video for source in found):
        console.start_bars()
    with FaceDetector(arguments.model, backend=arguments.backend, **_given(arguments)) as detector:
        pairs = list(zip(found, drawn))
        for source, target in console.progress(pairs, "file", len(pairs)):
            detect = _detect_video if source.is_video else _detect_image
            try:
                detect(arguments, console, detector, source.path, target)
            except media.MediaError as error:
                console.failure(str(error))
    return FAILED if console.failures else 0


def _detect_image(
    arguments: argparse.Namespace,
    console: _Console,
    detector: FaceDetector,
    path: Path,
    target: Path | None,
) -> None:
    frame = media.read_image(path)
    faces = _faces(arguments, detector, path, frame)
    if target is not None:
        media.write_image(target, faces.draw(frame))
    if arguments.json:
        console.result(_json_line(path, frame.shape, faces))
    elif target is not None:
        console.result(f"{path}: {_count_of(len(faces), 'face')}, drawn in {target}")
    else:
        console.result("\n".join(_face_lines(str(path), faces)))


def _detect_video(
    arguments: argparse.Namespace,
    console: _Console,
    detector: FaceDetector,
    path: Path,
    target: Path | None,
) -> None:
    frames = with_faces = 0
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(media.Video(path))
        writer = stack.enter_context(media.VideoWriter(target, video.fps)) if target else None
        for time, frame in console.progress(video, "frame", video.frame_count):
            faces = _faces(arguments, detector, path, frame)
            if writer is not None:
                writer.write(faces.draw(frame))
            if arguments.json:
                console.result(
                    _json_line(path, frame.shape, faces, frame=frames, time=round(time, 3))
                )
            elif writer is None:
                title = f"{path} frame {frames} ({time:.2f} s)"
                console.result("\n".join(_face_lines(title, faces)))
            frames += 1
            with_faces += len(faces) > 0
    if target is not None and not arguments.json:
        counts = f"faces in {with_faces} of {_count_of(frames, 'frame')}"
        console.result(f"{path}: {counts}, drawn in {target}")


def _faces(
    arguments: argparse.Namespace, detector: FaceDetector, path: Path, frame: NDArray[np.uint8]
) -> Faces:
    try:
        return detector.detect(frame, roi=arguments.roi)
    except ValueError as error:
        # This frame is too small for the roi, say; the next file's may not be.
        raise media.MediaError(f"{path}: {error}") from error


def _json_line(path: Path, shape: tuple[int, ...], faces: Faces, **more: float) -> str:
    height, width = shape[:2]
    values = {"file": str(path), **more, "width": width, "height": height, **faces.to_dict()}
    # As ASCII: valid JSON whatever the file's name and the terminal's encoding.
    return json.dumps(values)


def _face_lines(title: str, faces: Faces) -> Iterator[str]:
    yield f"{title}: {_count_of(len(faces), 'face')}"
    for face in faces:
        box = f"{face.x1:.1f} {face.y1:.1f} {face.x2:.1f} {face.y2:.1f}"
        yield f"  score {face.score:.3f}  box {box}  ({face.width:.0f}x{face.height:.0f})"


def _count_of(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


# info


def _info(arguments: argparse.Namespace) -> int:
    given = _given(arguments)
    if arguments.write_spec is not None:
        if given:
            raise ValueError("--write-spec describes the file as it is; it takes no other option")
        return _write_spec(arguments.model, arguments.write_spec)
    found = summary.summarise(arguments.model, **given)
    if arguments.json:
        print(json.dumps(_info_values(found, with_layers=arguments.layers)))
        return 0
    _print_rows(_file_rows(found))
    print()
    _print_rows(_spec_rows(found))
    if arguments.layers:
        print()
        _print_table(_layer_rows(found), align="<<<>")
    return 0


def _write_spec(path: Path, family: str) -> int:
    sidecar = summary.write_spec(path, family)
    print(f"wrote {sidecar}: edit it where this network differs from {family}")
    problem = summary.summarise(path).spec_problem
    if problem is not None:
        print(f"it does not fit yet: {problem}")
    return 0


def _info_values(found: summary.Summary, *, with_layers: bool) -> dict[str, Any]:
    values = asdict(found)
    values["multiply_adds"] = found.multiply_adds
    values["layer_counts"] = found.layer_counts
    values["priors"] = sum(level.priors for level in found.levels)
    if not with_layers:
        del values["layers"]
    return values


def _file_rows(found: summary.Summary) -> Iterator[tuple[str, str]]:
    yield "file", found.file
    yield "size", f"{found.bytes:,} bytes, sha256 {found.sha256}"
    yield "format", f"{found.format}, {found.precision}"
    yield "input", _port_text(found.input)
    for port in found.outputs:
        yield "output", _port_text(port)
    counts = ", ".join(f"{count} {kind}" for kind, count in found.layer_counts.items())
    yield "layers", f"{len(found.layers)}: {counts}"
    yield "weights", f"{found.weights:,} in {found.weight_bytes:,} bytes"
    yield "multiply-adds", f"{found.multiply_adds / 1e6:.1f} M"
    for support in found.backends:
        runs = "runs it" if support.isa is None else f"runs it with {support.isa} kernels"
        refused = "" if support.refusal is None else f"no: {_squeezed(support.refusal)}"
        yield f"backend {support.backend}", refused or runs


def _port_text(port: summary.Port) -> str:
    return f"{port.name} {'x'.join(map(str, port.shape))} {port.dtype}"


def _spec_rows(found: summary.Summary) -> Iterator[tuple[str, str]]:
    if found.spec is None:
        yield "spec", f"none: {found.spec_problem}"
        return
    yield "spec", f"from {found.spec_source}"
    if found.spec_problem is not None:
        yield "", f"which does not fit: {found.spec_problem}"
    yield from _fields("", asdict(found.spec))
    for level in found.levels:
        grid = f"{level.columns}x{level.rows} x {len(level.min_sizes)} min_sizes"
        yield f"stride {level.stride}", f"{level.priors} priors: {grid}"
    yield "priors", str(sum(level.priors for level in found.levels))
    smallest, largest = summary.face_sizes(found.spec, *EXAMPLE_FRAME)
    sizes = f"{_size_text(*smallest)} to {_size_text(*largest)} pixels"
    yield "faces", f"about {sizes} in a frame of {_size_text(*EXAMPLE_FRAME)}"


def _fields(prefix: str, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every field of the spec by the name that it has in its JSON."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _fields(f"{prefix}{name}.", value)
        else:
            yield f"  {prefix}{name}", _value_text(value)


def _value_text(value: object) -> str:
    if isinstance(value, (tuple, list)):
        separator = "; " if any(isinstance(item, (tuple, list)) for item in value) else ", "
        return separator.join(map(_value_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value is None or value == {} else str(value)


def _size_text(width: float, height: float) -> str:
    return f"{width:.0f}x{height:.0f}"


def _layer_rows(found: summary.Summary) -> Iterator[tuple[str, ...]]:
    yield "kind", "name", "output", "multiply-adds"
    for layer in found.layers:
        yield layer.kind, layer.name, "x".join(map(str, layer.shape)), f"{layer.multiply_adds:,}"


# bench


def _bench(arguments: argparse.Namespace) -> int:
    options = _given(arguments)
    frame, frame_text = _bench_frame(arguments)
    names, skipped = _bench_backends(arguments.backend or ["auto"], arguments.model)
    with contextlib.ExitStack() as stack:
        detectors = [
            stack.enter_context(FaceDetector(arguments.model, backend=name, **options))
            for name in names
        ]
        agreement, differs = _agreement(detectors, frame)
        measured = bench.measure(detectors, frame, arguments.frames)
    backends = [str(detector.backend) for detector in detectors]
    size = detectors[0].spec.input
    values = {
        "model": str(arguments.model),
        "input": _size_text(size.width, size.height),
        "frame": frame_text,
        "frames": arguments.frames,
        "machine": bench.machine(),
        "versions": {"edgeface": __version__, **bench.versions(["numpy", *backends])},
        "agreement": agreement,
        "skipped": skipped,
        "backends": [
            _bench_values(detector, stages, measured[0])
            for detector, stages in zip(detectors, measured)
        ],
    }
    if arguments.json:
        print(json.dumps(values))
    else:
        _print_bench(values)
    return FAILED if differs else 0


def _bench_values(
    detector: FaceDetector, stages: dict[str, bench.Statistics], first: dict[str, bench.Statistics]
) -> dict[str, Any]:
    return {
        "backend": str(detector.backend),
        "isa": detector.backend.isa,
        "num_threads": detector.num_threads,
        "frames_per_second": 1000 / stages["total"].median,
        "relative": stages["total"].median / first["total"].median,
        "milliseconds": {stage: asdict(statistics) for stage, statistics in stages.items()},
    }


def _bench_frame(arguments: argparse.Namespace) -> tuple[NDArray[np.uint8], str]:
    if arguments.image is None:
        return bench.random_frame(
            *arguments.frame_size
        ), f"{_size_text(*arguments.frame_size)} noise"
    try:
        frame = media.read_image(arguments.image)
    except media.MediaError as error:
        raise OSError(str(error)) from None
    height, width = frame.shape[:2]
    return frame, f"{_size_text(width, height)} {arguments.image}"


def _bench_backends(wanted: Sequence[str], path: Path) -> tuple[list[str], dict[str, str]]:
    """The backends to time, each once, and why those of `all` that are left out are."""
    if "all" not in wanted:
        return list(dict.fromkeys(wanted)), {}
    supports = supporting(model.read_graph(path)[1])
    skipped = {s.backend: s.refusal for s in supports if s.refusal is not None}
    names = [s.backend for s in supports if s.refusal is None]
    # With none left, opening `auto` gives the error that says why.
    return names or ["auto"], skipped


def _agreement(
    detectors: Sequence[FaceDetector], frame: NDArray[np.uint8]
) -> tuple[str | None, bool]:
    """Whether every backend finds the same faces, in words, and whether they differ."""
    first, *others = [(detector, detector.detect(frame)) for detector in detectors]
    for detector, faces in others:
        threshold = detector.spec.score_threshold
        differs = bench.difference(first[1], faces, threshold)
        if differs is not None:
            return f"{first[0].backend} and {detector.backend} differ: {differs}", True
    if not others:
        return None, False
    if len(first[1]) == 0:
        return "none finds a face in this frame: nothing to compare (--image gives one)", False
    return f"all find the same {_count_of(len(first[1]), 'face')}", False


def _print_bench(values: dict[str, Any]) -> None:
    rows = [("model", f"{values['model']}, input {values['input']}")]
    rows += [("frame", f"{values['frame']}, {values['frames']} detects")]
    rows += [("machine", values["machine"])]
    rows += [("versions", ", ".join(f"{name} {v}" for name, v in values["versions"].items()))]
    rows += [("faces", values["agreement"])] if values["agreement"] is not None else []
    rows += [(f"no {name}", _squeezed(why)) for name, why in values["skipped"].items()]
    _print_rows(rows)
    print()
    _print_table(_bench_rows(values["backends"]), align="<<><>>>>>>")


def _bench_rows(backends: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    yield "backend", "isa", "threads", "ms", *bench.STAGES, "frames/s", "relative"
    for values in backends:
        names = [values["backend"], values["isa"] or "-", str(values["num_threads"])]
        speed = [f"{values['frames_per_second']:.1f}", f"{values['relative']:.2f}x"]
        for statistic in ("median", "p95", "min"):
            stages = [values["milliseconds"][stage][statistic] for stage in bench.STAGES]
            yield (*names, statistic, *(f"{time:.3f}" for time in stages), *speed)
            names, speed = [""] * 3, [""] * 2


# demo


def _demo(arguments: argparse.Namespace) -> int:
    if arguments.model is None:
        raise ValueError("no model comes with edgeface yet: give one with --model FILE.tmfile")
    if arguments.output.suffix.lower() not in media.IMAGE_SUFFIXES:
        raise ValueError(f"{arguments.output}: expected the name of a picture, such as faces.png")
    media.opencv()
    frame = _astronaut()
    with FaceDetector(arguments.model, backend=arguments.backend, **_given(arguments)) as detector:
        faces = detector.detect(frame)
    media.write_image(arguments.output, faces.draw(frame))
    print("\n".join(_face_lines("astronaut", faces)))
    stages = ", ".join(f"{name} {ms:.2f}" for name, ms in detector.timings._asdict().items())
    print(f"{sum(detector.timings):.2f} ms on {detector.backend}: {stages}")
    print(f"drawn in {arguments.output}")
    return 0


def _astronaut() -> NDArray[np.uint8]:
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(
            f'the photograph needs scikit-image ({error}): pip install "edgeface[demo]"'
        ) from error
    # It is RGB; frames are BGR.
    photograph: NDArray[np.uint8] = data.astronaut()[:, :, ::-1].copy()
    return photograph


# Tables


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}".rstrip())


def _print_table(rows: Iterable[tuple[str, ...]], *, align: str) -> None:
    """Columns as wide as their widest cell; `align` has < or > for each."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths))
        print("  ".join(cells).rstrip())
