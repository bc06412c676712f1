"""What a figure was measured on: it is worth nothing without."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("edgeface", "numpy", "onnxruntime", "opencv-python-headless", "opencv-python")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
TEMPERATURE = Path("/sys/class/thermal/thermal_zone0/temp")


def describe() -> dict[str, object]:
    """CPU, governor, temperature, load and versions; None for what this machine does not tell."""
    temperature = _text(TEMPERATURE)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "governor": _text(GOVERNOR),
        "temperature_c": None if temperature is None else int(temperature) / 1000,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _cpu() -> str | None:
    """The first that /proc/cpuinfo says; ARM kernels name the board or only the part's number."""
    lines = (_text(Path("/proc/cpuinfo")) or "").splitlines()
    found = dict(line.replace("\t", "").split(":", 1) for line in reversed(lines) if ":" in line)
    names = (found.get(key, "").strip() for key in ("model name", "Model", "Hardware", "CPU part"))
    return next(filter(None, names), None)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
