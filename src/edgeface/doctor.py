"""What this machine is and what of it edgeface uses: for whoever asks why it is slow, or refuses."""

from __future__ import annotations

import os
import platform
import re
import struct
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__, _core, bench
from .backends import BACKENDS, native, probe, tengine
from .cpu import cgroup_quota, default_num_threads
from .graph import Conv, Graph, Node, Quantization, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = ("numpy", "onnxruntime", "opencv", "tqdm", "scikit-image")
# OpenCV comes in several packages of the same module.
_OPENCV = tuple(
    f"opencv-{kind}python{end}" for kind in ("", "contrib-") for end in ("-headless", "")
)
# What the kernels use or might, of the many that the system lists.
FEATURES = frozenset(
    """
    sse4_1 ssse3 avx avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni avx_vnni amx_int8
    neon vfpv3 vfpv4 asimd asimdhp fphp asimddp i8mm bf16 sve sve2
    """.split()  # noqa: SIM905 - twenty-four lines otherwise
)

_CHANNELS = 16
_ONES = 3 * 3 * 3  # what a convolution of ones by ones sums up
_UNLIMITED_CPUS = 1 << 16

_SELF_TEST = """\
import sys
from edgeface import doctor
for isa in sys.argv[1:]:
    doctor.check_isa(isa)
"""


def examine() -> dict[str, Any]:
    """Plain values for JSON; a part that fails is {"error": why}."""
    parts: dict[str, Callable[[], Any]] = {
        "edgeface": lambda: __version__,
        "machine": bench.machine,
        "features": cpu_features,
        "isas": _core.isas,
        "isa": _isa,
        "self_test": self_test,
        "threads": _threads,
        "memory": _memory,
        "system": _system,
        "libc": lambda: " ".join(platform.libc_ver()).strip() or None,
        "python": _python,
        "packages": _packages,
        "backends": _backends,
        "tengine": _tengine,
        "environment": _environment,
    }
    return {name: _attempt(part) for name, part in parts.items()}


def is_sound(found: dict[str, Any]) -> bool:
    """Whether every ISA computes what it must, and one can be chosen."""
    tests = found["self_test"]
    return isinstance(found["isa"], str) and all(answer == "ok" for answer in tests.values())


def _attempt(part: Callable[[], Any]) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return part()
    except Exception as error:  # noqa: BLE001 - whatever is broken here is what the user came to read
        return {"error": f"{type(error).__name__}: {error}"}


# --- The native engine -----------------------------------------------------------------------------


def self_test() -> dict[str, str]:
    """For every ISA "ok" or what is wrong, tried in a child process first: it may be a fatal one."""
    isas = _core.isas()
    # A child takes seconds on a board: one for all of them, where it lives through that.
    all_live = probe.failure(_SELF_TEST, isas) is None
    return {isa: _isa_answer(isa, lives=all_live) for isa in isas}


def _isa_answer(isa: str, *, lives: bool) -> str:
    try:
        reason = None if lives else probe.failure(_SELF_TEST, [isa])
        if reason is None:
            check_isa(isa)  # where no child can be started, this is the first time
    except Exception as error:  # noqa: BLE001 - as above
        reason = f"{type(error).__name__}: {error}"
    return reason or "ok"


def check_isa(isa: str) -> None:
    """Runs a float32 and an int8 convolution whose sums are known; RuntimeError where they are not."""
    for graph in (one_convolution(np.float32), one_convolution(np.int8)):
        engine = _core.Engine(native.lower(graph), num_threads=1, isa=isa)
        engine.input()[:] = 1
        engine.run()
        found = engine.output("y").reshape(-1, _CHANNELS)
        # Small whole numbers: exact in either type and in any order.
        if not np.array_equal(found, np.broadcast_to(_ONES + np.arange(_CHANNELS), found.shape)):
            raise RuntimeError(f"its {found.dtype} convolution is wrong")


def one_convolution(dtype: type[np.generic]) -> Graph:
    """3 x 3 x 3 ones summed, plus the channel's number; int8 in steps of 1."""
    is_float = dtype is np.float32
    steps = None if is_float else Quantization(np.ones(1, np.float32), np.zeros(1, np.int32))
    weight = np.ones((_CHANNELS, 3, 3, 3), dtype)
    bias = np.arange(_CHANNELS).astype(np.float32 if is_float else np.int32)
    tensors = (
        Tensor("input", (1, 3, 8, 8), np.dtype(dtype), quantization=steps),
        Tensor("weight", weight.shape, weight.dtype, weight, steps),
        Tensor("bias", bias.shape, bias.dtype, bias, steps),
        Tensor("y", (1, _CHANNELS, 6, 6), np.dtype(dtype), quantization=steps),
    )
    node = Node(Conv(), "conv", ("input", "weight", "bias"), "y")
    return Graph((node,), {tensor.name: tensor for tensor in tensors}, "input", ("y",))


def _isa() -> str:
    """The one that a detector uses here, as EDGEFACE_ISA says."""
    return native.open_graph(one_convolution(np.float32), 1).isa


# --- The machine -----------------------------------------------------------------------------------


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Those of FEATURES that the system lists for the first CPU."""
    text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    listed = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return [] if listed is None else [name for name in listed[1].split() if name in FEATURES]


def _threads() -> dict[str, Any]:
    quota = cgroup_quota()
    has_affinity = hasattr(os, "sched_getaffinity")
    return {
        "cpus": os.cpu_count(),
        "affinity": len(os.sched_getaffinity(0)) if has_affinity else None,
        "cgroup_quota": quota if quota < _UNLIMITED_CPUS else None,
        "default": default_num_threads(),
    }


def _memory() -> dict[str, int]:
    """Megabytes."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    return {"total": int(found["MemTotal"]) >> 10, "available": int(found["MemAvailable"]) >> 10}


def _system() -> str:
    release = Path("/etc/os-release")
    text = release.read_text(encoding="utf-8", errors="replace") if release.is_file() else ""
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', text, re.MULTILINE)
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    return kernel if name is None else f"{name[1]}, {kernel}"


def _python() -> str:
    bits = struct.calcsize("P") * 8
    return f"{platform.python_implementation()} {platform.python_version()}, {bits} bit, {sys.executable}"


def _packages() -> dict[str, str | None]:
    """None: not installed."""
    found = {package: _version(package) for package in PACKAGES}
    variants = (_version(package) for package in _OPENCV)
    found["opencv"] = next((version for version in variants if version is not None), None)
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# --- Backends --------------------------------------------------------------------------------------


def _backends() -> dict[str, str]:
    """For each "ok" or why it cannot be used here."""
    return {name: _backend_answer(name) for name in BACKENDS}


def _backend_answer(name: str) -> str:
    try:
        return BACKENDS[name].unavailable() or "ok"
    except Exception as error:  # noqa: BLE001 - as above
        return f"{type(error).__name__}: {error}"


def _tengine() -> dict[str, str | None]:
    """The library that would be loaded, and its version where it can be."""
    library = tengine.library_path()
    if library is None or tengine.unavailable() is not None:
        return {"library": library, "version": None}
    version = tengine.open_graph(one_convolution(np.float32), 1).version
    return {"library": library, "version": version}


def _environment() -> dict[str, str]:
    return {
        name: value for name, value in sorted(os.environ.items()) if name.startswith("EDGEFACE_")
    }
