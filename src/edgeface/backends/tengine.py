"""Tengine: libtengine-lite of version 1.5, loaded at run time.

The library is what EDGEFACE_TENGINE_LIBRARY names, or libtengine-lite.so where the loader looks. It is never
given anybody's file, whose every byte it would trust, but a network that this package has read, checked and
written again, and that in memory: there is no file to find a writable place for.

What to know of it:

- It trusts the machine too: a build for another CPU ends the process. So it runs one convolution in a child
  process before it is let into this one.
- num_threads are OpenMP's. No more run than there were CPUs when Tengine was first used, and OMP_NUM_THREADS=1
  caps them all.
- It counts CPUs from 0: in a process that may not use those (taskset), threads beyond the first run there
  all the same, unless a cpuset keeps them out. The calling thread stays where it was.
- With more than one thread it does not survive a fork: in the child, detect raises BackendError instead of
  waiting for threads that are not there. Start processes with the method "spawn".
- uint8 networks run on 64-bit ARM without a fast convolution, an order of magnitude slower than int8.
- A float32 softmax on ARM takes exp(x) as (1 + x / 1024)^1024 where four or more values follow its axis, which
  is off by x^2 / 2048 of it. Along the last axis, as heads have it, it is exact.
- Some of its messages go to stderr and cannot be kept from there.
- Builds are made with the vendor's telemetry unless TENGINE_ONLINE_REPORT=OFF says otherwise. In such a one
  it is given no host to report to; see `_silence`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import _core
from ..errors import BackendError, ModelError
from ..formats import tmfile
from ..graph import Conv, Graph, Node, Tensor
from . import probe

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "tengine"
LIBRARY = "libtengine-lite.so"
LIBRARY_VARIABLE = "EDGEFACE_TENGINE_LIBRARY"

_LOADER_CACHE = Path("/etc/ld.so.cache")
_DIRECTORIES = ("/usr/local/lib", "/usr/lib", "/lib", "/usr/lib64", "/lib64")

_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_HOST_VARIABLE = "tengine_report_host"
# No name: it cannot be put into a DNS query, so that nothing leaves the machine, and no socket is opened. An
# address that refuses the connection would do harm: the reporter then closes its socket's descriptor twice,
# and the second time it may be somebody else's.
_NO_HOST = ".."

_PROBE = """\
import sys
import numpy
from edgeface import _core
runner = _core.Tengine(sys.argv[1], sys.stdin.buffer.read(), num_threads=1)
runner.input()[:] = 1
runner.run()
found = runner.output("y").reshape(-1, 36)
if not numpy.allclose(found, 6.75 + numpy.arange(len(found))[:, None], atol=1e-3):
    raise RuntimeError("it computes a convolution wrongly")
"""


def unavailable() -> str | None:
    """Why there is no library to use here; asks a child process once for each version of the file."""
    library = library_path()
    if library is None:
        return f"{LIBRARY} is not where the loader looks; {LIBRARY_VARIABLE} may name it"
    reason = _probed(probe.identity(library))
    return None if reason is None else f"the library at {library} {reason}"


def discouraged(graph: Graph) -> str | None:
    """Where Tengine itself is wrong, as measured (per layer, in an emulated CPU)."""
    if not platform.machine().lower().startswith(("arm", "aarch64")):
        return None
    # Not from platform.machine(): a 32-bit system often has a 64-bit kernel.
    is_64_bit = sys.maxsize > 1 << 32
    dtype = graph.tensors[graph.input].dtype
    if is_64_bit and dtype == np.int8:
        return (
            "its int8 convolutions clamp to a value off the stack on 64-bit ARM where the output "
            "channels are no multiple of 16, unless the library was mended"
        )
    if not is_64_bit and dtype == np.float32:
        return "its float32 depthwise convolutions are wrong on 32-bit ARM for some image sizes"
    return None


def open_graph(graph: Graph, num_threads: int) -> _core.Tengine:
    library = library_path()
    if library is None:
        raise BackendError(unavailable())
    model = _written(graph)
    _silence(library)
    with _sleeping_threads():
        return _core.Tengine(library, model, num_threads=num_threads)


def _written(graph: Graph) -> bytes:
    try:
        return tmfile.write(graph)
    except ModelError as error:
        raise BackendError(str(error)) from None


def library_path() -> str | None:
    name = os.environ.get(LIBRARY_VARIABLE) or LIBRARY
    return name if "/" in name else _found(name)


def _found(name: str) -> str | None:
    """Where the loader would find it. Asking the loader itself would already run the library's code."""
    searched = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    first = next((f"{d}/{name}" for d in searched if d and Path(d, name).is_file()), None)
    return (
        first
        or _cached(name)
        or next((f"{d}/{name}" for d in _DIRECTORIES if Path(d, name).is_file()), None)
    )


def _cached(name: str) -> str | None:
    """The path in the loader's cache, whose paths are all NUL-terminated."""
    try:
        cache = _LOADER_CACHE.read_bytes()
    except OSError:
        return None
    match = re.search(rb"\0(/[^\0]*/%s)\0" % re.escape(name.encode()), cache)
    return None if match is None else os.fsdecode(match[1])


@functools.cache
def _probed(identity: tuple[str, int, int]) -> str | None:
    library, *_ = identity
    environment = {_HOST_VARIABLE: _NO_HOST} if _reports(library) else {}
    return probe.failure(
        _PROBE, [library], stdin=_written(_one_convolution()), environment=environment
    )


def _one_convolution() -> Graph:
    """16 channels, each the sum of 3 x 3 x 3 pixels, plus the channel's number."""
    weight = np.full((16, 3, 3, 3), 0.25, np.float32)
    tensors = (
        Tensor("input", (1, 3, 8, 8)),
        Tensor("weight", weight.shape, data=weight),
        Tensor("bias", (16,), data=np.arange(16, dtype=np.float32)),
        Tensor("y", (1, 16, 6, 6)),
    )
    node = Node(Conv(), "conv", ("input", "weight", "bias"), "y")
    return Graph((node,), {tensor.name: tensor for tensor in tensors}, "input", ("y",))


def _reports(library: str) -> bool:
    """Whether the vendor's reporter is in the file: the only code that asks for that variable.

    get_tengine_hcl_version() would say so too, but only after init_tengine(), when it has reported.
    """
    try:
        return _HOST_VARIABLE.encode() in Path(library).read_bytes()
    except OSError:
        return False


@contextlib.contextmanager
def _sleeping_threads() -> Iterator[None]:
    """Has OpenMP's threads sleep while they wait, where this loads it: it reads the variable then and only then.

    Otherwise they spin, and take their cores from the camera and from one another: two threads ran in
    12.5 ms (median; 12.1 at best) where these take 8.9 (5.9), 2 CPUs, other work on them.
    """
    if any(name in os.environ for name in _WAIT_VARIABLES):
        yield
        return
    os.environ[_WAIT_VARIABLES[0]] = "PASSIVE"
    try:
        yield
    finally:
        os.environ.pop(_WAIT_VARIABLES[0], None)


@functools.cache
def _silence(library: str) -> None:
    """Leaves the reporter without a host, before it starts; warns once.

    It would send the machine's addresses, CPU, system and the program's name over plain HTTP, at once and
    every two hours. A host that the caller has set stays.
    """
    if not _reports(library) or _HOST_VARIABLE in os.environ:
        return
    os.environ[_HOST_VARIABLE] = _NO_HOST
    warnings.warn(
        f"{library} was built with its vendor's telemetry, which is now without a host to report to; "
        "its thread still wakes up a thousand times a second. Build it with "
        "-DTENGINE_ONLINE_REPORT=OFF",
        RuntimeWarning,
        stacklevel=2,
    )
