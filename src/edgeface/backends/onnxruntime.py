"""ONNX Runtime, fed with clean ONNX that this package writes.

The released files list their constants as graph inputs too, which stops its constant folding: they run 2.6
times slower as they are. Quantised networks run in integers; what goes in and comes out is float32.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BackendError, ModelError
from ..formats import onnx
from ..graph import Quantization
from . import probe
from .target import CPU as TARGET_CPU

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..graph import Graph
    from .target import Target

NAME = "onnxruntime"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def unavailable() -> str | None:
    """Releases of it died with an illegal instruction on ARMv8.0, so a child process imports it first."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "the onnxruntime package is not installed (pip install edgeface[onnxruntime])"
    if "onnxruntime" in sys.modules:
        return None
    reason = probe.import_failure("onnxruntime")
    return None if reason is None else f"importing onnxruntime {reason}"


def about() -> str:
    """The version, and whether it is a build for a GPU."""
    import onnxruntime

    has_cuda = CUDA in onnxruntime.get_available_providers()
    return f"{onnxruntime.__version__}, CUDA: {'in this build' if has_cuda else 'no'}"


def open_graph(graph: Graph, num_threads: int) -> Session:
    return open_on(graph, num_threads, TARGET_CPU)


def open_on(graph: Graph, num_threads: int, target: Target) -> Session:
    """On the CPU or a CUDA device, whose provider has to be there: it never falls back."""
    providers = _providers(graph, target)
    try:
        return Session(graph, onnx.write(_unsigned(graph)), num_threads, providers)
    except ModelError as error:
        raise BackendError(str(error)) from None


def _providers(graph: Graph, target: Target) -> Sequence[Any]:
    if target == TARGET_CPU:
        return [CPU]
    kind, _, number = target.device.partition(":")
    if target.half or kind != "cuda":
        raise BackendError(f"it runs on cpu or cuda in float32, not on {target}")
    if graph.is_quantized:
        raise BackendError("its CUDA provider runs float32 networks; this one is quantised")
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} here has no {CUDA} "
            "(onnxruntime-gpu has: pip uninstall onnxruntime, pip install onnxruntime-gpu)"
        )
    # TF32, its default, rounds to 10 bits: other faces than everywhere else.
    return [(CUDA, {"device_id": int(number or 0), "use_tf32": 0}), CPU]


def _unsigned(graph: Graph) -> Graph:
    """The same values, with activations stored as uint8 where they were int8.

    On x86 onnxruntime has no fast kernels for int8 ones. Measured with onnxruntime 1.31 on an EPYC with
    AVX-512 VNNI, one thread: RFB-320 takes 1.8 ms so, 4.9 ms as it is.
    """
    shifted = {
        tensor.name: dataclasses.replace(
            tensor,
            dtype=np.dtype(np.uint8),
            quantization=Quantization(
                tensor.quantization.scale, tensor.quantization.zero_point + 128
            ),
        )
        for tensor in graph.tensors.values()
        if tensor.dtype == np.int8 and not tensor.is_constant and tensor.quantization is not None
    }
    return dataclasses.replace(graph, tensors={**graph.tensors, **shifted}) if shifted else graph


def _saturates(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether onnxruntime's fast 8-bit kernels lose sums here: on x86 without VNNI, they stop at 16 bits."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        return "_vnni" not in cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return True


class Session:
    """Input and outputs stay in the same arrays, so that a run copies and allocates nothing of ours."""

    def __init__(
        self, graph: Graph, model: bytes, num_threads: int, providers: Sequence[Any]
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Its threads otherwise burn their cores between frames.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if graph.is_quantized and _saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=list(providers))
        except Exception as error:  # noqa: BLE001 - it raises classes of its own, and any of them
            raise BackendError(f"onnxruntime refused the network: {error}") from None
        if len(providers) > 1 and CUDA not in self._session.get_providers():
            # It writes why to stderr and goes on without: a library of CUDA that is missing, say.
            raise BackendError(f"onnxruntime could not use its {CUDA}; it says why on stderr")
        self._input = np.zeros(graph.tensors[graph.input].shape, np.float32)
        self._outputs = {
            name: np.zeros(graph.tensors[name].shape, np.float32) for name in graph.outputs
        }
        self._binding: Any = self._session.io_binding()
        self._bind(self._binding.bind_input, graph.input, self._input)
        for name, array in self._outputs.items():
            self._bind(self._binding.bind_output, name, array)

    @staticmethod
    def _bind(bind: Any, name: str, array: NDArray[np.float32]) -> None:
        bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def input(self) -> NDArray[np.float32]:
        return self._input

    def run(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # noqa: BLE001 - as above
            raise BackendError(f"onnxruntime failed: {error}") from None

    def output(self, name: str) -> NDArray[np.float32]:
        if name not in self._outputs:
            raise BackendError(f"the network has no output '{name}'")
        return self._outputs[name]
