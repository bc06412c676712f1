"""The command line: edgeface detect | info | bench | demo | convert | quantize | verify | eval | train | models | doctor."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import BackendError, DataError, ModelError
from . import bench, convert, demo, detect, doctor, info, models, quantize, train, verify
from . import eval as evaluate
from .tables import squeezed

if TYPE_CHECKING:
    from collections.abc import Sequence

# In the order of --help. Every command is a module with these two functions: add_parser, which says
# what it takes, and run, which does it and returns the exit status.
COMMANDS = (
    detect.add_parser,
    info.add_parser,
    bench.add_parser,
    demo.add_parser,
    convert.add_parser,
    quantize.add_parser,
    verify.add_parser,
    evaluate.add_parser,
    train.add_parser,
    models.add_parser,
    doctor.add_parser,
)

# What main adds to what commands return: 0 or arguments.FAILED, which is 1.
ERROR = 2
# What a shell says of a program that the signal ended: 128 and the signal's number.
INTERRUPTED, BROKEN_PIPE = 128 + 2, 128 + 13
# What a caller can act on; anything else is our bug and keeps its traceback.
EXPECTED = (ModelError, BackendError, DataError, ValueError, TypeError, OSError, ImportError)

STATUS_HELP = """\
Exit status: 0; 1 when some inputs failed or differ; 2 for an error; 130 when interrupted.
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
        status: int = arguments.run(arguments)
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
    return squeezed(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgeface",
        description="Finds faces in images and videos.",
        epilog=STATUS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgeface {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_parser in COMMANDS:
        add_parser(commands)
    return parser
