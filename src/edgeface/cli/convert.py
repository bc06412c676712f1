"""edgeface convert: a model in another format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import convert as conversion
from .. import media, parity
from .arguments import FAILED, add_command, add_levels, add_spec_and_size, given_options
from .tables import count_of, squeezed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

EPILOG = f"""\
IN is a .pth, .pt, .onnx or .tmfile, OUT a .tmfile or .onnx. The spec goes with it: beside a .tmfile as
.json, inside an .onnx.

What was written is read again and runs beside IN on the same noise and --images, on one backend. Every
tensor that the two networks have in common must agree within {parity.SAME.tensor:g} of its largest value;
otherwise the first that does not is named, OUT stays for you to look at, and the exit status is 1.
"""


def add_parser(commands: Any) -> None:
    text = "write a model in another format"
    parser = add_command(commands, "convert", run, text=text, epilog=EPILOG)
    parser.add_argument("source", type=Path, metavar="IN", help="a .pth, .pt, .onnx or .tmfile")
    parser.add_argument("target", type=Path, metavar="OUT", help="a .tmfile or .onnx")
    add_spec_and_size(parser)
    add_levels(parser, "leave out levels that only look for smaller faces (pixels of the input)")
    parser.add_argument("--force", action="store_true", help="replace OUT and its .json")
    parser.add_argument(
        "--images", nargs="+", type=Path, default=[], metavar="FILE", help="run both on these, too"
    )
    parser.add_argument("--no-verify", action="store_true", help="do not run what was written")


def run(arguments: argparse.Namespace) -> int:
    frames = _frames(arguments.images)
    written = conversion.convert(
        arguments.source, arguments.target, force=arguments.force, **given_options(arguments)
    )
    if written.warning is not None:
        print(
            f"edgeface: warning: no spec goes with it: {squeezed(written.warning)}", file=sys.stderr
        )
    if written.left_out:
        print(f"without the levels of stride {', '.join(map(str, written.left_out))}")
    print(f"wrote {written.target}: {written.bytes:,} bytes")
    if written.sidecar is not None:
        print(f"spec {written.sidecar}")
    elif written.warning is None:
        print(f"spec inside {written.target}")
    return 0 if arguments.no_verify else _verify(written, frames)


def _frames(paths: Sequence[Path]) -> dict[str, NDArray[np.uint8] | None]:
    try:
        pictures = {str(path): media.read_image(path) for path in paths}
    except media.MediaError as error:
        raise OSError(str(error)) from None
    return {"noise": None, **pictures}


def _verify(written: conversion.Converted, frames: Mapping[str, NDArray[np.uint8] | None]) -> int:
    target = parity.open_end(written.target)
    if target.spec is None and written.source.spec is not None:
        print(f"{written.target} does not fit its spec: {squeezed(str(target.spec_problem))}")
        return FAILED
    differing = [
        name for name, frame in frames.items() if _differs(written.source, target, name, frame)
    ]
    if differing:
        print(f"{written.target} is not the same as {written.source.path}: do not use it")
        return FAILED
    print(f"same as {written.source.path}")
    return 0


def _differs(
    source: parity.End, target: parity.End, name: str, frame: NDArray[np.uint8] | None
) -> bool:
    """Prints what was compared on one frame."""
    found = parity.compare_tensors(source, target, frame)
    heads = ", ".join(map(parity.difference_text, found.heads))
    print(f"{name} on {' and '.join(dict.fromkeys(found.backends))}: {heads}")
    if found.problem is not None:
        print(f"  {squeezed(found.problem)}")
    if found.diverging is not None:
        print(
            f"  first diverging tensor: {parity.difference_text(found.diverging)}; "
            f"expected at most {parity.SAME.tensor:g}"
        )
    else:
        print(f"  {count_of(found.compared, 'tensor')} inside compared, none differs")
    return found.verdict != "same" or found.diverging is not None
