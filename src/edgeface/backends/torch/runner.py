"""A network on a device: run by the core as any backend's, or by a detector that stays on the device."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...errors import BackendError
from .detector import Detector
from .network import Network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ... import _core
    from ...detector import Options
    from ...graph import Graph
    from ...spec import ModelSpec
    from ..target import Target


class Runner:
    """Input and outputs are on the host, for whoever has them there."""

    def __init__(self, graph: Graph, num_threads: int, target: Target) -> None:
        self.device = open_device(target.device)
        self._num_threads = num_threads
        self._graph = graph
        # A CPU has the exponents of float32 in bfloat16, and hardly any of them instructions for float16.
        half = torch.bfloat16 if self.device.type == "cpu" else torch.float16
        try:
            self._network = Network(graph, self.device, half if target.half else torch.float32)
        except RuntimeError as error:  # no memory left there
            raise BackendError(f"torch failed: {error}") from None
        self._input = np.zeros(graph.tensors[graph.input].shape, np.float32)
        self._outputs: dict[str, NDArray[np.float32]] = {}

    def input(self) -> NDArray[np.float32]:
        return self._input

    def run(self) -> None:
        with self.running():
            found = self.heads(torch.from_numpy(self._input).to(self.device))
            tensors = self._graph.tensors
            self._outputs = {
                name: values.reshape(tensors[name].shape).cpu().numpy()
                for name, values in found.items()
            }

    def output(self, name: str) -> NDArray[np.float32]:
        if name not in self._graph.outputs:
            raise BackendError(f"the network has no output '{name}'")
        return self._outputs[name]

    def own_detector(
        self, spec: ModelSpec, options: Options, core_options: _core.Options
    ) -> Detector:
        """All steps on the device, in place of the core's."""
        return Detector(self, spec, options, core_options)

    def heads(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every output of (N, C, H, W) images as (N, rows, columns)."""
        return self._network(images)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """What the network has to be run within; BackendError for what goes wrong in it."""
        with torch.inference_mode(), _threads(self.device, self._num_threads), _exact(self.device):
            try:
                yield
            except RuntimeError as error:
                raise BackendError(f"torch failed: {error}") from None


def open_device(name: str) -> torch.device:
    """The device of that name; BackendError where PyTorch has none, or cannot reach it."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).partition("\n")[0]
        raise BackendError(
            f"torch {torch.__version__} cannot use the device '{name}': {why}"
        ) from None
    return device


@contextlib.contextmanager
def _threads(device: torch.device, count: int) -> Iterator[None]:
    """PyTorch's number of threads is the process's, not ours: it is set for as long as a frame takes."""
    before = torch.get_num_threads()
    if device.type != "cpu" or before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _exact(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Unless told otherwise, cuDNN rounds float32 to 10 bits (TF32): other faces than everywhere else."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    cudnn = torch.backends.cudnn
    flags: contextlib.AbstractContextManager[None] = cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )
    return flags
