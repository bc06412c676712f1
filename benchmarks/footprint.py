"""What edgeface weighs: the wheel, its import, a process that detects, and one that goes on detecting.

    python benchmarks/footprint.py --model version-RFB-320.onnx --frame group.jpg --wheel edgeface-*.whl

Linux only. Every figure is of a fresh process, and memory is what the kernel holds for it (VmHWM, VmRSS).
getrusage will not do: a child's ru_maxrss begins at the size of the process that started it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine
from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Sequence

IMPORTS = 20
PEAKS = 5
SAMPLES = 10
FRAME = 1280, 720

IMPORT_SOURCE = """
import time
start = time.perf_counter()
import {module}
print((time.perf_counter() - start) * 1e3)
"""

# arguments: image or "", width, height, output
FRAME_SOURCE = """
import sys
import numpy as np
image, width, height, output = sys.argv[1:]
size = int(width), int(height)
if image:
    import cv2
    frame = cv2.resize(cv2.imread(image), size, interpolation=cv2.INTER_AREA)
else:
    frame = np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), np.uint8)
np.save(output, frame)
"""

STATUS_SOURCE = """
import sys
import numpy as np
frame = np.load(sys.argv[1])

def kilobytes(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field))
"""

BASELINE_SOURCE = f"""
{STATUS_SOURCE}
print(kilobytes("VmHWM"))
"""

DETECTOR_SOURCE = f"""
{STATUS_SOURCE}
from edgeface import FaceDetector
detector = FaceDetector(sys.argv[2], backend=sys.argv[3], num_threads=1)
"""

PEAK_SOURCE = f"""
{DETECTOR_SOURCE}
detector.detect(frame)
print(kilobytes("VmHWM"))
"""

# arguments: frame, model, backend, detects between two samples, samples; prints one more, after the first
LONG_SOURCE = f"""
{DETECTOR_SOURCE}
detector.detect(frame)
print(kilobytes("VmRSS"), len(detector.detect(frame)), flush=True)
for sample in range(int(sys.argv[5])):
    for _ in range(int(sys.argv[4])):
        detector.detect(frame)
    print(kilobytes("VmRSS"), len(detector.detect(frame)), flush=True)
"""


def main() -> None:
    args = arguments()
    result: dict[str, Any] = {
        "machine": machine.describe(),
        "model": args.model.name,
        "backend": args.backend,
        "threads": 1,
    }
    if args.wheel is not None:
        result["wheel_bytes"] = args.wheel.stat().st_size
        print(f"wheel              {result['wheel_bytes'] / 1e6:9.2f} MB  {args.wheel.name}")

    result["import_ms"] = imports = import_times()
    for module, ms in imports.items():
        print(f"{'import ' + module:18} {ms:9.1f} ms")

    with tempfile.TemporaryDirectory() as folder:
        frame, small = Path(folder) / "frame.npy", Path(folder) / "small.npy"
        run(FRAME_SOURCE, args.frame or "", *FRAME, frame)
        run(FRAME_SOURCE, args.frame or "", *args.frame_size, small)
        result["peak_kb"] = peaks = peak_memory(frame, args.model, args.backend)
        for name, kb in peaks.items():
            print(f"peak, {name:12} {kb / 1024:9.1f} MiB")
        result["long_run"] = long = long_run(small, args)
    width, height = args.frame_size
    print(f"{args.detects} detects of {width}x{height}, {long['faces']} faces each: ", end="")
    print(f"{long['rss_kb'][0]} KiB after the first, {long['rss_kb'][-1]} KiB at the end, ", end="")
    print(f"{long['slope_kb_per_1000']:+.3f} KiB per 1000 after the first tenth")
    print("  every tenth: " + " ".join(map(str, long["rss_kb"])))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--backend", default="native")
    parser.add_argument("--frame", type=Path, help="a photograph (needs OpenCV); by default noise")
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--detects", type=int, default=100_000, help="of the long run")
    parser.add_argument(
        "--frame-size", type=size, default=(320, 240), metavar="WxH", help="of the long run"
    )
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    if args.detects < SAMPLES:
        parser.error(f"--detects is {args.detects}; expected at least {SAMPLES}, one a sample")
    return args


def size(text: str) -> tuple[int, int]:
    width, height = text.lower().split("x")
    return int(width), int(height)


def run(source: str, *args: object) -> str:
    """What the source prints in a fresh interpreter."""
    return subprocess.run(
        command(source, *args), check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def command(source: str, *args: object) -> list[str]:
    return [sys.executable, "-c", source, *map(str, args)]


def import_times() -> dict[str, float]:
    """Median milliseconds; edgeface's have numpy's in them. The first of each warms the file cache."""
    times: dict[str, list[float]] = {"numpy": [], "edgeface": []}
    for _ in tqdm(range(1 + IMPORTS), unit="round", leave=False):
        for module, measured in times.items():
            measured.append(float(run(IMPORT_SOURCE.format(module=module))))
    return {module: statistics.median(measured[1:]) for module, measured in times.items()}


def peak_memory(frame: Path, model: Path, backend: str) -> dict[str, float]:
    """Median KiB of a process that only holds the frame, and of one that detects in it."""
    baseline, detecting = [], []
    for _ in range(PEAKS):
        baseline.append(int(run(BASELINE_SOURCE, frame)))
        detecting.append(int(run(PEAK_SOURCE, frame, model, backend)))
    return {"numpy": statistics.median(baseline), "edgeface": statistics.median(detecting)}


def long_run(frame: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Resident KiB after the first detects and after every tenth of them."""
    between = args.detects // SAMPLES
    source = command(LONG_SOURCE, frame, args.model, args.backend, between, SAMPLES)
    with subprocess.Popen(source, stdout=subprocess.PIPE, text=True) as child:
        lines = tqdm(child.stdout, total=SAMPLES + 1, unit="sample", leave=False)
        samples = [tuple(map(int, line.split())) for line in lines]
    if child.returncode != 0:
        raise SystemExit(f"the long run ended with status {child.returncode}")
    memory, faces = zip(*samples)
    if len(set(faces)) > 1:
        raise SystemExit(f"the number of faces changed in the long run: {faces}")
    counts = [between * i for i in range(1, SAMPLES + 1)]
    return {
        "detects": args.detects,
        "frame": args.frame_size,
        "faces": faces[0],
        "rss_kb": memory,
        "slope_kb_per_1000": 1000 * slope(counts, memory[1:]),
    }


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least-squares line."""
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    products = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y))
    return products / sum((a - mean_x) ** 2 for a in x)


if __name__ == "__main__":
    main()
