"""Which CPUs this process may use here, which of them are the fast ones, and how many threads that makes."""

from __future__ import annotations

import contextlib
import math
import numbers
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Beyond four, these small networks spend more on waiting for one another than they gain.
MAX_DEFAULT_THREADS = 4
CGROUP = Path("/sys/fs/cgroup")
SYSTEM = Path("/sys/devices/system/cpu")
# Threads share a frame's rows equally, so that the slowest one is waited for. CPUs of one kind differ by what
# their makers allow each (2.26 to 2.4 GHz among the fast ones of an RK3588), those of two kinds by more (1.42 to
# 1.8 GHz in an RK3399, 1.2 to 1.5 GHz in an RK3368).
SAME_SPEED = 0.85
AFFINITIES = ("big", "little")


@dataclass(frozen=True)
class Cluster:
    """CPUs that share a cache and have one speed."""

    cpus: tuple[int, ...]
    # Of the fastest: capacity (1024 is this machine's best) or kHz, as the system tells either; else 0.
    speed: int


def default_num_threads(cpus: Iterable[int] | None = None) -> int:
    """min(CPUs, cgroup quota, 4), at least 1; by default those of affinity "big", all where all are alike."""
    count = len(set(named_cpus("big") if cpus is None else cpus))
    return max(1, min(count, cgroup_quota(), MAX_DEFAULT_THREADS))


def allowed_cpus() -> frozenset[int]:
    """The affinity mask, in which cpusets of containers are contained too."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


# --- Clusters --------------------------------------------------------------------------------------


def named_cpus(name: str, system: Path = SYSTEM) -> frozenset[int]:
    """The "big" CPUs among those allowed, or the "little" ones: all, where there is one kind."""
    found = clusters(allowed_cpus(), system)
    return _joined(found if name == "big" else found[::-1])


def clusters(cpus: Iterable[int], system: Path = SYSTEM) -> tuple[Cluster, ...]:
    """The fastest first."""
    cpus = sorted(cpus)
    speeds = dict(zip(cpus, _speeds([system / f"cpu{cpu}" for cpu in cpus])))
    groups: dict[tuple[str, ...], list[int]] = {}
    for cpu, place in zip(cpus, _places([system / f"cpu{cpu}" / "topology" for cpu in cpus])):
        groups.setdefault(place, []).append(cpu)
    found = [cluster for group in groups.values() for cluster in _of_one_speed(group, speeds)]
    return tuple(sorted(found, key=lambda cluster: (-cluster.speed, cluster.cpus)))


def _speeds(directories: Sequence[Path]) -> list[int]:
    # The capacity counts what a CPU does in a cycle too, but old kernels do not tell it.
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        found = [_number(directory / name) for directory in directories]
        if all(speed > 0 for speed in found):
            return found
    return [0] * len(directories)


def _places(directories: Sequence[Path]) -> list[tuple[str, ...]]:
    """Package and cluster. Older kernels call clusters of ARM packages; x86 calls two threads of a core a cluster."""
    siblings = [_text(directory / "thread_siblings_list") for directory in directories]
    names = ["physical_package_id"]
    if not any(set("-,") & set(text) for text in siblings):
        names.append("cluster_id")
    return [tuple(_text(directory / name) for name in names) for directory in directories]


def _of_one_speed(cpus: Sequence[int], speeds: dict[int, int]) -> list[Cluster]:
    found: list[Cluster] = []
    for cpu in sorted(cpus, key=lambda cpu: (-speeds[cpu], cpu)):
        if found and _are_alike(found[-1].speed, speeds[cpu]):
            found[-1] = Cluster(tuple(sorted((*found[-1].cpus, cpu))), found[-1].speed)
        else:
            found.append(Cluster((cpu,), speeds[cpu]))
    return found


def _joined(found: Sequence[Cluster]) -> frozenset[int]:
    """The first, with as many others of its speed as there are threads for."""
    cpus: set[int] = set()
    for cluster in found:
        if cpus and (
            len(cpus) >= MAX_DEFAULT_THREADS or not _are_alike(found[0].speed, cluster.speed)
        ):
            break
        cpus.update(cluster.cpus)
    return frozenset(cpus)


def _are_alike(one: int, other: int) -> bool:
    return min(one, other) >= SAME_SPEED * max(one, other)


# --- Affinity --------------------------------------------------------------------------------------


def check_affinity(affinity: object) -> None:
    """TypeError or ValueError unless it is None, one of AFFINITIES or CPUs' numbers."""
    if affinity is None or (isinstance(affinity, str) and affinity in AFFINITIES):
        return
    expected = f'affinity is {affinity!r}; expected "big", "little" or CPUs, as [4, 5]'
    if not isinstance(affinity, Collection):
        raise TypeError(expected)
    if isinstance(affinity, str):
        raise ValueError(expected)  # noqa: TRY004 - the type is right
    for number in affinity:
        if isinstance(number, bool) or not isinstance(number, numbers.Integral):
            raise TypeError(f"affinity has {number!r} in it; expected CPUs' numbers")


def affinity_cpus(
    affinity: str | Collection[int] | None, system: Path = SYSTEM
) -> frozenset[int] | None:
    """The CPUs that are meant; ValueError where this process may not use them."""
    if affinity is None:
        return None
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("affinity is for Linux: this system does not say which CPU runs a thread")
    if isinstance(affinity, str):
        return named_cpus(affinity, system)
    cpus, allowed = frozenset(map(int, affinity)), allowed_cpus()
    if not cpus or not cpus <= allowed:
        raise ValueError(
            f"affinity is {sorted(cpus)}; expected some of the CPUs {sorted(allowed)} that this process "
            "may use"
        )
    return cpus


@contextlib.contextmanager
def pinned(cpus: frozenset[int] | None) -> Iterator[None]:
    """The calling thread, and all that it starts meanwhile, on these CPUs alone; None leaves it where it is."""
    before = allowed_cpus()
    # Within them already: a loop that pins its own thread saves what moving it costs.
    if cpus is None or before <= cpus:
        yield
        return
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise BackendError(f"the CPUs {sorted(cpus)} are gone: {error.strerror}") from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# --- Control groups --------------------------------------------------------------------------------


def cgroup_quota(root: Path = CGROUP, membership: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs that the container may use, rounded up; very many when there is no limit."""
    own = dict(_memberships(_lines(membership)))
    found = [_v2(directory) for directory in _ancestors(root, own.get("", "/"))]
    for name in ("cpu", "cpu,cpuacct"):
        found += [_v1(directory) for directory in _ancestors(root / name, own.get("cpu", "/"))]
    return min(found)


def _memberships(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """A controller, "" for all of version 2, and this process's group."""
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        for controller in controllers.split(","):
            yield controller, group


def _ancestors(root: Path, group: str) -> list[Path]:
    """A group's directory and every one above it: each may set a limit."""
    path = root / group.lstrip("/")
    return [path, *(parent for parent in path.parents if root in (parent, *parent.parents))]


def _v2(directory: Path) -> int:
    fields = " ".join(_lines(directory / "cpu.max")).split()
    return _cpus(fields[0], fields[1]) if len(fields) == 2 else _UNLIMITED


def _v1(directory: Path) -> int:
    quota = _lines(directory / "cpu.cfs_quota_us")
    period = _lines(directory / "cpu.cfs_period_us")
    return _cpus(quota[0], period[0]) if quota and period else _UNLIMITED


_UNLIMITED = 1 << 20


def _cpus(quota: str, period: str) -> int:
    # "max" (version 2) and "-1" (version 1) say that there is no limit.
    if not quota.isdigit() or not period.isdigit() or int(quota) == 0 or int(period) == 0:
        return _UNLIMITED
    return math.ceil(int(quota) / int(period))


# --- Files -----------------------------------------------------------------------------------------


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isascii() and text.isdigit() else 0


def _text(path: Path) -> str:
    return " ".join(_lines(path)).strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
