"""How many threads this process may use here."""

from __future__ import annotations

import math
import os
from pathlib import Path

# Beyond four, these small networks spend more on waiting for one another than they gain.
MAX_DEFAULT_THREADS = 4
CGROUP = Path("/sys/fs/cgroup")


def default_num_threads() -> int:
    """min(cgroup quota, affinity mask, 4), at least 1."""
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(allowed, cgroup_quota(), MAX_DEFAULT_THREADS))


def cgroup_quota(root: Path = CGROUP, membership: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs that the container may use, rounded up; very many when there is no limit."""
    return min([_v2(directory) for directory in _ancestors(root, membership)] + [_v1(root)])


def _ancestors(root: Path, membership: Path) -> list[Path]:
    """This process's control group (version 2) and every one above it: each may set a limit."""
    own = next((line[3:] for line in _lines(membership) if line.startswith("0::")), "/")
    path = root / own.lstrip("/")
    return [path, *(parent for parent in path.parents if root in (parent, *parent.parents))]


def _v2(directory: Path) -> int:
    fields = " ".join(_lines(directory / "cpu.max")).split()
    return _cpus(fields[0], fields[1]) if len(fields) == 2 else _UNLIMITED


def _v1(root: Path) -> int:
    quota = _lines(root / "cpu" / "cpu.cfs_quota_us")
    period = _lines(root / "cpu" / "cpu.cfs_period_us")
    return _cpus(quota[0], period[0]) if quota and period else _UNLIMITED


_UNLIMITED = 1 << 20


def _cpus(quota: str, period: str) -> int:
    # "max" (version 2) and "-1" (version 1) say that there is no limit.
    if not quota.isdigit() or not period.isdigit() or int(quota) == 0 or int(period) == 0:
        return _UNLIMITED
    return math.ceil(int(quota) / int(period))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
