"""A process of its own for every runtime, driven over a pipe; between its turns it waits for a request."""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from . import Floats, Heads


class WorkerError(Exception):
    """The runtime refused, failed, or took its process down."""


class Turn(NamedTuple):
    """What one worker did while all others waited."""

    milliseconds: list[float]  # of every run
    stages: list[tuple[float, ...]]  # of every run, for those that tell
    cpu_seconds: float  # all its threads, over the whole turn


class Worker:
    """The coordinator's end: method calls are requests, answered by `Session` in the process."""

    def __init__(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._process = subprocess.Popen(
            # Not -m: what it answers with must be of this module's classes.
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            cwd=Path(__file__).parents[1],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, method: str, *arguments: object) -> Any:
        """WorkerError says what went wrong there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump((method, arguments), self._process.stdin)
            self._process.stdin.flush()
            problem, answer = pickle.load(self._process.stdout)
        except (OSError, EOFError):
            raise WorkerError(_ending(self._process.wait())) from None
        if problem is not None:
            raise WorkerError(problem)
        return answer

    def close(self) -> None:
        # Runtimes have been seen to hang or crash when they are taken apart.
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _ending(status: int) -> str:
    if status < 0:
        return f"its process died: {signal.Signals(-status).name}"
    return f"its process ended with status {status}"


@dataclass
class Session:
    """The worker's end."""

    runner: Any = None
    data: Any = None  # the last that was given, prepared

    def open_model(self, runtime: str, path: str, num_threads: int, variant: str) -> None:
        from . import adapter

        module = adapter(runtime)
        self.runner = module.open_model(Path(path), num_threads, module.VARIANTS[variant])

    def open_pipeline(self, module: str, *arguments: object) -> None:
        """A whole pipeline, by the module of that name and its `open_pipeline`."""
        from .detect import Detect

        self.runner = Detect(importlib.import_module(module).open_pipeline(*arguments))

    def heads(self, image: Floats) -> Heads:
        self._run_once(image)
        scores, boxes = self.runner.heads()
        return scores.copy(), boxes.copy()

    def faces(self, frame: NDArray[Any]) -> NDArray[Any]:
        self._run_once(frame)
        rows: NDArray[Any] = self.runner.rows
        return rows

    def _run_once(self, data: NDArray[Any]) -> None:
        self.data = self.runner.prepare(data)
        self.runner.fill(self.data)
        self.runner.run()

    def run(self, count: int, warm_up: int) -> Turn:
        """On what the last heads() or faces() were of."""
        cpu = time.process_time()
        for _ in range(warm_up):
            self.runner.fill(self.data)
            self.runner.run()
        times, stages = [], []
        for _ in range(count):
            self.runner.fill(self.data)
            start = time.perf_counter_ns()
            self.runner.run()
            times.append((time.perf_counter_ns() - start) / 1e6)
            stages += [tuple(self.runner.timings)] if hasattr(self.runner, "timings") else []
        return Turn(times, stages, time.process_time() - cpu)

    def torch_devices(self) -> tuple[str, ...]:
        """Those that PyTorch has here, of CPU and CUDA."""
        import torch

        return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

    def cpu_seconds(self) -> float:
        """Of this process since it began, all its threads."""
        return time.process_time()


def serve() -> None:
    """Answers requests until there are no more."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Runtimes print what they like, when they like.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    session = Session()
    while True:
        try:
            method, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        _answer(answers, session, method, arguments)


def _answer(answers: Any, session: Session, method: str, arguments: Sequence[Any]) -> None:
    try:
        answer = (None, getattr(session, method)(*arguments))
    except Exception as error:  # noqa: BLE001 - runtimes raise classes of their own
        reason = " ".join(str(error).split())[:200]
        answer = (f"{type(error).__name__}: {reason}", None)
    pickle.dump(answer, answers)
    answers.flush()
