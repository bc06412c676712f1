"""What this machine is and what of it edgeface uses: for whoever asks why it is slow, or refuses."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import struct
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import __version__, _core, bench, bundled
from .backends import BACKENDS, native, probe, tengine
from .cpu import SYSTEM, allowed_cpus, cgroup_quota, clusters, default_num_threads
from .detector import FaceDetector
from .graph import Conv, Graph, Node, Quantization, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = ("numpy", "onnxruntime", "torch", "opencv", "tqdm", "scikit-image")
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
# /proc/cpuinfo's "CPU part" of ARM's own designs, as their manuals give it for MIDR_EL1.
PARTS = {
    0xC05: "Cortex-A5",
    0xC07: "Cortex-A7",
    0xC08: "Cortex-A8",
    0xC09: "Cortex-A9",
    0xC0D: "Cortex-A12",
    0xC0E: "Cortex-A17",
    0xC0F: "Cortex-A15",
    0xD03: "Cortex-A53",
    0xD04: "Cortex-A35",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0D: "Cortex-A77",
    0xD41: "Cortex-A78",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD80: "Cortex-A520",
    0xD81: "Cortex-A720",
}
_ARM = 0x41

# What the time is measured on where no model comes with edgeface: the layers of slim-320, but for its heads.
STAND_IN = "slim-320 without heads"
_SLIM_CHANNELS = (16, 32, 32, 32, 64, 64, 64, 64, 128, 128, 128, 256, 256)
_SLIM_STRIDE_2 = (0, 2, 4, 8, 11)
SECONDS = 1.0  # for all that is timed together
FRAME = 640, 480

_SELF_TEST = """\
import sys
from edgeface import doctor
for isa in sys.argv[1:]:
    doctor.check_isa(isa)
"""


def examine(model: Path | None = None) -> dict[str, Any]:
    """Plain values for JSON; a part that fails is {"error": why}.

    `model` is what is timed, by default the one that comes with edgeface.
    """
    parts: dict[str, Callable[[], Any]] = {
        "edgeface": lambda: __version__,
        "machine": bench.machine,
        "features": cpu_features,
        "isas": _core.isas,
        "isa": _isa,
        "self_test": self_test,
        "clusters": cpu_clusters,
        "threads": _threads,
        "conditions": lambda: dataclasses.asdict(bench.conditions()),
        "memory": _memory,
        "system": _system,
        "libc": lambda: " ".join(platform.libc_ver()).strip() or None,
        "python": _python,
        "packages": _packages,
        "backends": _backends,
        "tengine": _tengine,
        "environment": _environment,
        # Last: on a board the self-tests have left the CPUs fast by now.
        "times": lambda: _times(model),
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


def cpu_clusters(
    system: Path = SYSTEM, cpuinfo: Path = Path("/proc/cpuinfo")
) -> list[dict[str, Any]]:
    """Of the CPUs that this process may use, the fastest first."""
    names = cpu_names(cpuinfo)
    return [
        {
            "cpus": list(cluster.cpus),
            "name": names.get(cluster.cpus[0]),
            "megahertz": _megahertz(system / f"cpu{cluster.cpus[0]}" / "cpufreq"),
            "governor": _first_line(
                system / f"cpu{cluster.cpus[0]}" / "cpufreq" / "scaling_governor"
            ),
        }
        for cluster in clusters(allowed_cpus(), system)
    ]


def cpu_names(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[int, str]:
    """Of every CPU that the system names: x86 by its model, ARM by its part."""
    text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    named = {}
    for block in re.split(r"\n\s*\n", text):
        values = dict(re.findall(r"^([\w ]+?)\s*:\s*(.*?)\s*$", block, re.MULTILINE))
        if re.fullmatch(r"\d+", values.get("processor", "")):
            named[int(values["processor"])] = _cpu_name(values)
    return {number: name for number, name in named.items() if name is not None}


def _cpu_name(values: dict[str, str]) -> str | None:
    part = values.get("CPU part")
    if part is None:
        return values.get("model name")
    maker = values.get("CPU implementer", "")
    known = PARTS.get(int(part, 16)) if int(maker or "0", 16) == _ARM else None
    return known or f"part {part} of {maker or 'an unknown maker'}"


def _megahertz(cpufreq: Path) -> list[int] | None:
    """The least and the most that it may run at."""
    limits = [_first_line(cpufreq / f"scaling_{end}_freq") for end in ("min", "max")]
    return None if None in limits else [int(limit) // 1000 for limit in limits if limit is not None]


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip() or None
    except OSError:
        return None


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


# --- Time ------------------------------------------------------------------------------------------


def _times(model: Path | None) -> dict[str, Any]:
    if model is None and bundled.DEFAULT in bundled.names():
        model = bundled.path_of(bundled.DEFAULT)
    return _stand_in_times() if model is None else _model_times(model)


def _stand_in_times() -> dict[str, Any]:
    graphs = {"float32": stand_in(np.float32), "int8": stand_in(np.int8)}
    counts = _thread_counts()
    seconds = SECONDS / (len(graphs) * len(counts))
    rows = [
        {
            "type": name,
            "threads": count,
            "median": _median(native.open_graph(graph, count).run, seconds),
        }
        for name, graph in graphs.items()
        for count in counts
    ]
    return {"network": STAND_IN, "milliseconds": rows}


def _model_times(path: Path) -> dict[str, Any]:
    """Of whole detects."""
    frame, counts = bench.random_frame(*FRAME), _thread_counts()
    rows = []
    for count in counts:
        with FaceDetector(path, num_threads=count) as detector:
            median = _median(lambda: detector.detect(frame), SECONDS / len(counts))
            rows.append({"type": str(detector.backend), "threads": count, "median": median})
    return {"network": f"{path.name}, {FRAME[0]}x{FRAME[1]} frames", "milliseconds": rows}


def _thread_counts() -> list[int]:
    return sorted({1, default_num_threads()})


def _median(run: Callable[[], object], seconds: float) -> float:
    """Milliseconds of a run, the first one left out."""
    run()
    times: list[float] = []
    while sum(times) < seconds:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)) * 1000, 3)


def stand_in(dtype: type[np.generic]) -> Graph:
    """slim-320's convolutions, one after the other; how long they take is the same for any weights."""
    graph = _Sequence(dtype, (1, 3, 240, 320))
    for i, channels in enumerate(_SLIM_CHANNELS):
        stride = 2 if i in _SLIM_STRIDE_2 else 1
        if i == 0:
            graph.conv(channels, 3, stride)
        else:
            graph.conv(graph.shape[1], 3, stride, depthwise=True)
            graph.conv(channels, 1)
    return graph.graph()


class _Sequence:
    """Convolutions, each with a ReLU."""

    def __init__(self, dtype: type[np.generic], shape: tuple[int, ...]) -> None:
        self._dtype = np.dtype(dtype)
        one_step = Quantization(np.ones(1, np.float32), np.zeros(1, np.int32))
        self._steps = None if self._dtype == np.float32 else one_step
        self.shape = shape
        self._tensors = [Tensor("0", shape, self._dtype, quantization=self._steps)]
        self._nodes: list[Node] = []

    def conv(self, channels: int, kernel: int, stride: int = 1, *, depthwise: bool = False) -> None:
        _, inputs, height, width = self.shape
        data, output = str(len(self._nodes)), str(len(self._nodes) + 1)
        weight = np.zeros((channels, 1 if depthwise else inputs, kernel, kernel), self._dtype)
        bias = np.zeros(channels, np.float32 if self._steps is None else np.int32)
        self.shape = (1, channels, -(-height // stride), -(-width // stride))
        self._tensors += [
            Tensor(f"weight {output}", weight.shape, weight.dtype, weight, self._steps),
            Tensor(f"bias {output}", bias.shape, bias.dtype, bias, self._steps),
            Tensor(output, self.shape, self._dtype, quantization=self._steps),
        ]
        op = Conv((stride, stride), (1, 1), (kernel // 2,) * 4, inputs if depthwise else 1, "relu")
        names = (data, f"weight {output}", f"bias {output}")
        self._nodes.append(Node(op, f"conv {output}", names, output))

    def graph(self) -> Graph:
        tensors = {tensor.name: tensor for tensor in self._tensors}
        return Graph(tuple(self._nodes), tensors, "0", (str(len(self._nodes)),))


# --- Backends --------------------------------------------------------------------------------------


def _backends() -> dict[str, str]:
    """For each "ok", with what is to be known of it, or why it cannot be used here."""
    return {name: _backend_answer(name) for name in BACKENDS}


def _backend_answer(name: str) -> str:
    module = BACKENDS[name]
    try:
        reason = module.unavailable()
        about = getattr(module, "about", None)
        return reason or ("ok" if about is None else f"ok, {about()}")
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
