"""How long a detect takes, on one backend or on several in turn, and how hot the machine is meanwhile."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import model
from .backends import supporting
from .backends.target import CPU
from .cpu import default_num_threads
from .frames import MAX_PIXELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from .backends.target import Target
    from .detector import FaceDetector
    from .faces import Face, Faces

STAGES = ("preprocess", "run", "decode", "total")
WARM_UP = 10
# Backends take turns of this many frames, so that what the machine does besides (heat, other
# programs) meets them all alike.
TURN = 10
SAME_IOU, SAME_SCORE = 0.99, 1e-3
# A frequency this much lower at the end was lowered by the heat.
THROTTLED = 0.95


@dataclass(frozen=True)
class Statistics:
    """Of many detects, in milliseconds."""

    median: float
    p95: float
    p99: float
    min: float


@dataclass(frozen=True)
class Agreement:
    """Of several detectors on one frame."""

    faces: int  # that the first finds
    difference: str | None  # which backends differ and how, for people


@dataclass(frozen=True)
class Conditions:
    """What a machine is like at one moment; empty or None for what it does not tell."""

    temperatures: Mapping[str, float]  # degrees Celsius in every thermal zone
    megahertz: tuple[int, ...]  # of every CPU, where it can change
    governors: tuple[str, ...]  # of every CPU
    load: float | None  # the average of the last minute


def able_backends(path: Path, target: Target = CPU) -> tuple[list[str], dict[str, str]]:
    """The backends that run a model file on a device, and why each other one does not."""
    supports = supporting(model.read_graph(path)[1], target)
    refused = {s.backend: s.refusal for s in supports if s.refusal is not None}
    return [s.backend for s in supports if s.refusal is None], refused


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
    # A column is a stage, as the rows' order is Statistics' own.
    values = np.stack([*np.percentile(rows, (50, 95, 99), axis=0), rows.min(0)])
    return {stage: Statistics(*values[:, i].tolist()) for i, stage in enumerate(STAGES)}


def agreement(detectors: Sequence[FaceDetector], frame: NDArray[np.uint8]) -> Agreement:
    """Whether all find the faces of the first, and how many those are."""
    first, *others = [(detector, detector.detect(frame)) for detector in detectors]
    for detector, faces in others:
        differs = difference(first[1], faces, detector.spec.score_threshold)
        if differs is not None:
            names = f"{first[0].backend} and {detector.backend}"
            return Agreement(len(first[1]), f"{names} differ: {differs}")
    return Agreement(len(first[1]), None)


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


# --- The machine -----------------------------------------------------------------------------------


def conditions(system: Path = Path("/sys")) -> Conditions:
    """Now, as far as Linux tells it."""
    zones = sorted((system / "class" / "thermal").glob("thermal_zone*"))
    cpus = sorted((system / "devices" / "system" / "cpu").glob("cpu[0-9]*"), key=_cpu_number)
    frequencies = [_text(cpu / "cpufreq" / "scaling_cur_freq") for cpu in cpus]
    governors = [_text(cpu / "cpufreq" / "scaling_governor") for cpu in cpus]
    return Conditions(
        temperatures=dict(_temperatures(zones)),
        megahertz=tuple(int(text) // 1000 for text in frequencies if text is not None),
        governors=tuple(text for text in governors if text is not None),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def is_throttled(before: Conditions, after: Conditions) -> bool:
    """Whether the CPUs ended slower than they began, after having had work all the time."""
    return sum(after.megahertz) < THROTTLED * sum(before.megahertz)


def _cpu_number(directory: Path) -> int:
    return int(directory.name[len("cpu") :])


def _temperatures(zones: Sequence[Path]) -> Iterator[tuple[str, float]]:
    for zone in zones:
        text = _text(zone / "temp")
        if text is not None:
            # Boards have several zones of one type.
            yield (
                f"{zone.name[len('thermal_zone') :]} {_text(zone / 'type') or ''}".strip(),
                (int(text) / 1000),
            )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:  # also what a sensor gives that is switched off
        return None


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
