"""edgeface bench: how long a model takes on this machine."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__, media
from .. import bench as timing
from ..backends.target import CPU, Target
from ..detector import FaceDetector
from .arguments import (
    EXAMPLE_FRAME,
    FAILED,
    add_command,
    backend_parser,
    given_options,
    options_parser,
    parse_count,
    parse_size,
)
from .tables import conditions_text, count_of, print_rows, print_table, size_text, squeezed

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

EPILOG = """\
Several backends take turns of 10 frames; they must first find the same faces (IoU of at least 0.99,
scores within 0.001), otherwise the exit status is 1. The faces of a random frame are mostly none:
give --image to compare real ones. "relative" is the median total time over the first backend's.
"""


def add_parser(commands: Any) -> None:
    backend = backend_parser("a runtime, may be repeated; all: those that run it", "all")
    backend.set_defaults(backend=None)
    text = "time a model on this machine"
    parser = add_command(
        commands, "bench", run, options_parser(), backend, text=text, epilog=EPILOG
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a .tmfile or .onnx")
    parser.add_argument(
        "--frames",
        type=parse_count,
        default=100,
        metavar="N",
        help="detects (default: %(default)s)",
    )
    frame = parser.add_mutually_exclusive_group()
    frame.add_argument(
        "--frame-size",
        type=parse_size,
        default=EXAMPLE_FRAME,
        metavar="WxH",
        help="of a random frame (default: 640x480)",
    )
    frame.add_argument("--image", type=Path, metavar="FILE", help="a real frame instead")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    options = given_options(arguments)
    frame, frame_text = _frame(arguments)
    target = Target(options.get("device", CPU.device), options.get("half", CPU.half))
    names, skipped = _backends(arguments.backend or ["auto"], arguments.model, target)
    with contextlib.ExitStack() as stack:
        detectors = [
            stack.enter_context(FaceDetector(arguments.model, backend=name, **options))
            for name in names
        ]
        agreement, differs = _agreement(detectors, frame)
        # Not earlier: a governor lets idle CPUs run slowly.
        before = timing.conditions()
        measured = timing.measure(detectors, frame, arguments.frames)
        after = timing.conditions()
    backends = [str(detector.backend) for detector in detectors]
    size = detectors[0].spec.input
    values = {
        "model": str(arguments.model),
        "input": size_text(size.width, size.height),
        "frame": frame_text,
        "frames": arguments.frames,
        "machine": timing.machine(),
        "versions": {"edgeface": __version__, **timing.versions(["numpy", *backends])},
        "before": asdict(before),
        "after": asdict(after),
        "throttled": timing.is_throttled(before, after),
        "agreement": agreement,
        "skipped": skipped,
        "backends": [
            _values(detector, stages, measured[0]) for detector, stages in zip(detectors, measured)
        ],
    }
    if arguments.json:
        print(json.dumps(values))
    else:
        _print_values(values)
    return FAILED if differs else 0


def _values(
    detector: FaceDetector,
    stages: dict[str, timing.Statistics],
    first: dict[str, timing.Statistics],
) -> dict[str, Any]:
    return {
        "backend": str(detector.backend),
        "isa": detector.backend.isa,
        "num_threads": detector.num_threads,
        "frames_per_second": 1000 / stages["total"].median,
        "relative": stages["total"].median / first["total"].median,
        "milliseconds": {stage: asdict(statistics) for stage, statistics in stages.items()},
    }


def _frame(arguments: argparse.Namespace) -> tuple[NDArray[np.uint8], str]:
    if arguments.image is None:
        size = arguments.frame_size
        return timing.random_frame(*size), f"{size_text(*size)} noise"
    try:
        frame = media.read_image(arguments.image)
    except media.MediaError as error:
        raise OSError(str(error)) from None
    height, width = frame.shape[:2]
    return frame, f"{size_text(width, height)} {arguments.image}"


def _backends(
    wanted: Sequence[str], path: Path, target: Target
) -> tuple[list[str], dict[str, str]]:
    """The backends to time, each once, and why those of `all` that are left out are."""
    if "all" not in wanted:
        return list(dict.fromkeys(wanted)), {}
    names, skipped = timing.able_backends(path, target)
    # With none left, opening `auto` gives the error that says why.
    return names or ["auto"], skipped


def _agreement(
    detectors: Sequence[FaceDetector], frame: NDArray[np.uint8]
) -> tuple[str | None, bool]:
    """Whether every backend finds the same faces, in words, and whether they differ."""
    found = timing.agreement(detectors, frame)
    if found.difference is not None:
        return found.difference, True
    if len(detectors) == 1:
        return None, False
    if found.faces == 0:
        return "none finds a face in this frame: nothing to compare (--image gives one)", False
    return f"all find the same {count_of(found.faces, 'face')}", False


def _print_values(values: dict[str, Any]) -> None:
    rows = [("model", f"{values['model']}, input {values['input']}")]
    rows += [("frame", f"{values['frame']}, {values['frames']} detects")]
    rows += [("machine", values["machine"])]
    rows += [("versions", ", ".join(f"{name} {v}" for name, v in values["versions"].items()))]
    rows += [(moment, conditions_text(values[moment])) for moment in ("before", "after")]
    rows += [("throttled", "the CPUs ended slower than they began")] if values["throttled"] else []
    rows += [("faces", values["agreement"])] if values["agreement"] is not None else []
    rows += [(f"no {name}", squeezed(why)) for name, why in values["skipped"].items()]
    print_rows(rows)
    print()
    print_table(_rows(values["backends"]), align="<<><>>>>>>")


def _rows(backends: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    yield "backend", "isa", "threads", "ms", *timing.STAGES, "frames/s", "relative"
    for values in backends:
        names = [values["backend"], values["isa"] or "-", str(values["num_threads"])]
        speed = [f"{values['frames_per_second']:.1f}", f"{values['relative']:.2f}x"]
        for statistic in ("median", "p95", "min"):
            stages = [values["milliseconds"][stage][statistic] for stage in timing.STAGES]
            yield (*names, statistic, *(f"{time:.3f}" for time in stages), *speed)
            names, speed = [""] * 3, [""] * 2
