"""How long a detect takes, on one backend or on several in turn."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .cpu import default_num_threads
from .detector import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .detector import FaceDetector
    from .faces import Face, Faces

STAGES = ("preprocess", "run", "decode", "total")
WARM_UP = 10
# Backends take turns of this many frames, so that what the machine does besides (heat, other
# programs) meets them all alike.
TURN = 10
SAME_IOU, SAME_SCORE = 0.99, 1e-3


@dataclass(frozen=True)
class Statistics:
    """Of many detects, in milliseconds."""

    median: float
    p95: float
    min: float


def random_frame(width: int, height: int) -> NDArray[np.uint8]:
    """The same noise every time."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"the frame is {width}x{height}; expected at most {MAX_PIXELS} pixels")
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def measure(
    detectors: Sequence[FaceDetector], frame: NDArray[np.uint8], frames: int
) -> list[dict[str, Statistics]]:
    """For every detector, the statistics of every one of STAGES over `frames` detects."""
    for detector in detectors:
        for _ in range(WARM_UP):
            detector.detect(frame)
    rows: list[list[tuple[float, ...]]] = [[] for _ in detectors]
    for start in range(0, frames, TURN):
        for detector, row in zip(detectors, rows):
            if len(detectors) > 1:
                # The other one has just filled the caches with its own weights.
                detector.detect(frame)
            row += [_timed(detector, frame) for _ in range(min(TURN, frames - start))]
    return [_statistics(np.array(row)) for row in rows]


def _timed(detector: FaceDetector, frame: NDArray[np.uint8]) -> tuple[float, ...]:
    start = time.perf_counter()
    detector.detect(frame)
    total = (time.perf_counter() - start) * 1000
    return (*detector.timings, total)


def _statistics(rows: NDArray[np.float64]) -> dict[str, Statistics]:
    median, p95, least = np.median(rows, 0), np.percentile(rows, 95, 0), rows.min(0)
    return {
        stage: Statistics(float(median[i]), float(p95[i]), float(least[i]))
        for i, stage in enumerate(STAGES)
    }


def difference(one: Faces, other: Faces, score_threshold: float) -> str | None:
    """What one finds and the other does not, or None where both find the same faces."""
    for faces, others, missing in ((one, other, "second"), (other, one, "first")):
        for face in faces:
            # Rounding may put this face on either side of the threshold.
            is_marginal = face.score < score_threshold + SAME_SCORE
            if not is_marginal and not any(_is_same(face, candidate) for candidate in others):
                corners = ", ".join(f"{value:.1f}" for value in face.box)
                return f"the {missing} lacks the face at {corners} (score {face.score:.4f})"
    return None


def _is_same(one: Face, other: Face) -> bool:
    return abs(one.score - other.score) <= SAME_SCORE and iou(one, other) >= SAME_IOU


def iou(one: Face, other: Face) -> float:
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    shared = max(0.0, width) * max(0.0, height)
    both = one.width * one.height + other.width * other.height - shared
    return shared / both if both > 0 else 0.0


def machine() -> str:
    """The processor as the system names it, and how many threads a detector uses by default."""
    threads = default_num_threads()
    return f"{_processor()}, {os.cpu_count()} CPUs (default: {threads} threads)"


def _processor() -> str:
    # x86 has the first; boards with a device tree the last.
    for path, key in (("/proc/cpuinfo", "model name"), ("/proc/device-tree/model", "")):
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith(key):
                name = line.rpartition(":")[2].strip(" \0\t")
                return f"{name} ({platform.machine()})"
    return platform.machine()


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    found = {package: _version(package) for package in packages}
    installed = {package: version for package, version in found.items() if version is not None}
    return {"python": platform.python_version(), **installed}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
