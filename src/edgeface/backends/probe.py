"""Tries in a child process what could kill this one.

A library built for another CPU raises nothing: its first unknown instruction ends the process (SIGILL), and
so does a damaged one (SIGBUS, SIGSEGV). Where no child can be started, because Python is embedded or frozen
into a program of another name, nothing is tried and everything counts as sound.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A board with a slow card takes seconds to start Python and NumPy.
TIMEOUT = 60.0

# A child that dies leaves no core dump, and finds modules where this process does.
_PROLOGUE = """\
import sys
sys.path[:] = {path!r}
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
except ImportError:
    pass
try:
    exec({program!r})
except Exception as error:
    print(f"{{error}}")
    sys.exit(1)
"""


def failure(
    program: str,
    arguments: Sequence[str] = (),
    *,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> str | None:
    """What a Python program ends with in a process of its own; None where it ends well.

    That is the text of its exception, "killed the probe with SIGILL" and the like, or that it hangs.
    """
    interpreter = _interpreter()
    if interpreter is None:
        return None
    command = [interpreter, "-c", _PROLOGUE.format(path=sys.path, program=program), *arguments]
    try:
        ended = subprocess.run(
            command,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"kept the probe busy for more than {timeout:g} s"
    except OSError:
        return None
    if ended.returncode == 0:
        return None
    if ended.returncode < 0:
        return f"killed the probe with {_signal_name(-ended.returncode)}"
    said = ended.stdout.decode(errors="replace").strip()
    return said or f"ended the probe with status {ended.returncode}"


def import_failure(module: str) -> str | None:
    """Why importing a module would not work, or would kill this process; asked once for each version of it."""
    if module in sys.modules:
        return None
    spec = importlib.util.find_spec(module)
    if spec is None:
        return "is not installed"
    return _import_failure(module, identity(spec.origin or ""))


def identity(path: str) -> tuple[str, int, int]:
    """Something that changes when the file does."""
    try:
        found = Path(path).stat()
    except OSError:
        return path, 0, 0
    return path, found.st_mtime_ns, found.st_size


@functools.cache
def _import_failure(module: str, _identity: tuple[str, int, int]) -> str | None:
    return failure(f"import {module}")


def _interpreter() -> str | None:
    executable = sys.executable or ""
    is_python = Path(executable).name.lower().startswith(("python", "pypy"))
    return executable if is_python and not getattr(sys, "frozen", False) else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
