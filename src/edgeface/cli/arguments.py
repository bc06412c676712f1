"""What the commands take: the options that they share and the types of arguments."""

from __future__ import annotations

import argparse
import math
import re
from typing import TYPE_CHECKING, Any

from .. import bundled
from ..backends import BACKENDS
from ..cpu import AFFINITIES
from ..detector import NMS
from ..fitting import FRAME, MAX_SIDE
from ..spec import RESIZES

if TYPE_CHECKING:
    from collections.abc import Callable

# What a command's run returns when some inputs failed or backends differ; otherwise it is 0.
FAILED = 1

# The frame taken as an example: what cheap cameras give.
EXAMPLE_FRAME = (640, 480)

# FaceDetector's arguments that are options here, but for `backend`, which `bench` takes several times.
API_OPTIONS = frozenset(
    {
        "spec",
        "device",
        "half",
        "num_threads",
        "affinity",
        "input_size",
        "resize",
        "score_threshold",
        "iou_threshold",
        "nms",
        "max_faces",
        "min_face",
        "levels",
        "max_side",
    }
)


def add_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *parents: argparse.ArgumentParser,
    text: str,
    epilog: str = "",
) -> argparse.ArgumentParser:
    """The parser of a command that `run` does, with what every command has."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text[:1].upper() + text[1:] + ".",
        epilog=epilog,
        parents=list(parents),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where in the program an error arose"
    )
    parser.set_defaults(run=run)
    return parser


def backend_parser(text: str, *more: str) -> argparse.ArgumentParser:
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


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=bundled.DEFAULT,
        help="a .tmfile, .onnx or released .pth, or a name that `edgeface models` lists (default: %(default)s)",
    )


def options_parser() -> argparse.ArgumentParser:
    """FaceDetector's options under their own names; those not given are left to its defaults."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    add_spec_and_size(parser, follows=True)
    parser.add_argument(
        "--max-side",
        type=int,
        metavar="PIXELS",
        help=f"with --input-size {FRAME}, shrink longer frames to this (default: {MAX_SIDE})",
    )
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
    add_levels(parser, "the smallest face wanted, in frame pixels; levels without use do not run")
    add_target(parser)
    parser.add_argument(
        "--num-threads",
        type=int,
        metavar="N",
        help="default: the CPUs allowed of the fastest kind, at most 4",
    )
    parser.add_argument(
        "--affinity",
        type=parse_affinity,
        metavar="CPUS",
        help="run there alone: big, little, or numbers as 4,5",
    )
    return parser


def add_target(parser: argparse.ArgumentParser) -> None:
    """--device and --half."""
    parser.add_argument(
        "--device",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="cpu, cuda or cuda:1, for torch and onnxruntime (default: cpu)",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        default=argparse.SUPPRESS,
        help="compute in 16-bit floats, which torch does",
    )


def add_levels(parser: argparse.ArgumentParser, text: str) -> None:
    """--min-face, which `text` explains, and --levels."""
    parser.add_argument(
        "--min-face", type=float, default=argparse.SUPPRESS, metavar="PIXELS", help=text
    )
    parser.add_argument(
        "--levels",
        type=parse_levels,
        default=argparse.SUPPRESS,
        metavar="STRIDES",
        help="the levels of priors that stay, as 16,32 (default: what --min-face needs)",
    )


def add_spec_and_size(parser: argparse.ArgumentParser, *, follows: bool = False) -> None:
    """With `follows`, the size may be the frame's."""
    or_frame = f", or {FRAME} for each frame's own" if follows else ""
    parser.add_argument(
        "--spec",
        default=argparse.SUPPRESS,
        metavar="JSON",
        help="what the model was trained with (default: the .json beside it, or known)",
    )
    parser.add_argument(
        "--input-size",
        type=parse_input_size if follows else parse_size,
        default=argparse.SUPPRESS,
        metavar=f"WxH|{FRAME}" if follows else "WxH",
        help=f"of the network's input, instead of the file's{or_frame}",
    )


def parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 320x240")
    return int(match[1]), int(match[2])


def parse_affinity(text: str) -> str | tuple[int, ...]:
    if text in AFFINITIES:
        return text
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not big, little or CPUs such as 4,5")
    return tuple(map(int, text.split(",")))


def parse_input_size(text: str) -> tuple[int, int] | str:
    return FRAME if text == FRAME else parse_size(text)


def parse_levels(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,4}(,[1-9]\d{0,4})*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not strides, such as 16,32")
    return tuple(map(int, text.split(",")))


def parse_roi(text: str) -> tuple[int, int, int, int]:
    match = re.fullmatch(r"(\d+),(\d+),(\d+),(\d+)", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y,WIDTH,HEIGHT in whole pixels")
    return int(match[1]), int(match[2]), int(match[3]), int(match[4])


def parse_count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a count of 1 or more")
    return int(text)


def parse_hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours above 0")
    return hours


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """FaceDetector's options among the arguments, but for the backend."""
    return {name: value for name, value in vars(arguments).items() if name in API_OPTIONS}
