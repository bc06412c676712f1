"""How long models take on this board: every backend that it has, on one thread and more.

    python on_device.py rfb320.tmfile rfb320-int8.tmfile --json board.json

Needs nothing but edgeface. --frame takes a photograph where OpenCV is installed, and without it a .npy with
an (H, W, 3) uint8 array; otherwise the frame is noise, in which there are no faces to compare.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface import BackendError, FaceDetector, ModelError, __version__, bench, model
from edgeface.cli.tables import conditions_text, count_of, print_table
from edgeface.cpu import default_num_threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

FRAME = 1280, 720


def main() -> int:
    args = arguments()
    frame = read_frame(args.frame)
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": bench.machine(),
        "system": platform.platform(),
        "versions": {"edgeface": __version__, **bench.versions(["numpy", "onnxruntime"])},
        "frame": {"size": frame.shape[1::-1], "source": str(args.frame or "noise")},
        "frames": args.frames,
        "before": asdict(bench.conditions()),
        "groups": [],
    }
    for path in args.models:
        for num_threads in args.threads:
            threads = count_of(num_threads, "thread")
            print(f"{path.name}, {threads} ...", file=sys.stderr, flush=True)
            result["groups"].append(measure(path, num_threads, frame, args.frames))
    result["after"] = asdict(bench.conditions())
    report(result)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if any(group["difference"] for group in result["groups"]) else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument(
        "--threads",
        type=lambda text: [int(count) for count in text.split(",")],
        default=list(range(1, default_num_threads() + 1)),
        metavar="N,N",
        help="default: 1 to as many as edgeface would use",
    )
    parser.add_argument("--frame", type=Path, metavar="FILE", help="a photograph, or a .npy")
    parser.add_argument("--frames", type=int, default=300, help="detects of each")
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args()


def read_frame(path: Path | None) -> NDArray[np.uint8]:
    if path is None:
        return bench.random_frame(*FRAME)
    if path.suffix == ".npy":
        frame: NDArray[np.uint8] = np.load(path)
        return frame
    from edgeface import media

    return media.read_image(path)


def measure(path: Path, num_threads: int, frame: NDArray[np.uint8], frames: int) -> dict[str, Any]:
    """Every backend that runs the file, in turns; what each finds is compared first."""
    names, refused = bench.able_backends(path)
    graph = model.read_graph(path)[1]
    with contextlib.ExitStack() as stack:
        detectors = [
            stack.enter_context(FaceDetector(path, backend=name, num_threads=num_threads))
            for name in names
        ]
        agreement = bench.agreement(detectors, frame)
        # Not earlier: a governor lets idle CPUs run slowly.
        before = bench.conditions()
        measured = bench.measure(detectors, frame, frames)
        rows = [backend_values(*row) for row in zip(detectors, measured)]
    after = bench.conditions()
    return {
        "model": path.name,
        "precision": graph.tensors[graph.input].dtype.name,
        "threads": num_threads,
        "faces": agreement.faces,
        "difference": agreement.difference,
        "refused": refused,
        "before": asdict(before),
        "after": asdict(after),
        "throttled": bench.is_throttled(before, after),
        "backends": rows,
    }


def backend_values(detector: FaceDetector, measured: dict[str, bench.Statistics]) -> dict[str, Any]:
    return {
        "backend": str(detector.backend),
        "isa": detector.backend.isa,
        "milliseconds": {stage: asdict(statistics) for stage, statistics in measured.items()},
    }


# --- What is told ----------------------------------------------------------------------------------


def report(result: dict[str, Any]) -> None:
    width, height = result["frame"]["size"]
    print(f"{result['machine']}, {result['system']}")
    print(f"{width}x{height} {result['frame']['source']}, {result['frames']} detects each")
    for moment in ("before", "after"):
        print(f"{moment}: {conditions_text(result[moment])}")
    print()
    print_table(table(result["groups"]), align="<<><<>>>>>>>")
    for group in result["groups"]:
        for line in notes(group):
            print(line)


def table(groups: Sequence[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    yield (
        *("model", "type", "threads", "backend", "isa", "p50", "p95", "p99", "min"),
        *("preprocess", "network", "decode"),
    )
    for group in groups:
        for row in group["backends"]:
            times = row["milliseconds"]
            cells = [group["model"], group["precision"], str(group["threads"])]
            cells += [row["backend"], row["isa"] or "-"]
            cells += [f"{times['total'][name]:.2f}" for name in ("median", "p95", "p99", "min")]
            stages = [stage for stage in bench.STAGES if stage != "total"]
            yield (*cells, *(f"{times[stage]['median']:.2f}" for stage in stages))


def notes(group: dict[str, Any]) -> Iterator[str]:
    name = f"{group['model']}, {count_of(group['threads'], 'thread')}"
    if group["difference"]:
        yield f"{name}: {group['difference']}"
    if group["throttled"]:
        yield (
            f"{name}: throttled: {conditions_text(group['before'])} -> "
            f"{conditions_text(group['after'])}"
        )
    if group["threads"] == 1:
        yield from (f"{group['model']}: no {b}: {why}" for b, why in group["refused"].items())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BackendError, ImportError, ModelError, OSError, ValueError) as error:
        sys.exit(f"on_device: {error}")
