"""Number of processors that this process may use, and of threads that it uses."""

from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def available() -> int:
    """Return the number of CPUs that this process may use, at least 1.

    Its affinity and the limit of its control group (Linux) count.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _cgroup_limit()
    return max(1, count if limit is None else min(count, math.ceil(limit)))


def limit_threads(threads: int | None) -> None:
    """Set the number of CPU threads of PyTorch, which this loads.

    None: as many CPUs as are available, if PyTorch would take more.
    """
    import torch

    torch.set_num_threads(threads or min(torch.get_num_threads(), available()))


def _cgroup_limit() -> float | None:
    """Return the smallest limit of the control groups in CPUs, or None.

    Versions 1 and 2 are read. A container sees its own group as the root of the file system, a service finds its group below it.
    """
    limits = [
        limit
        for folder in _groups()
        if (limit := _quota(folder / "cpu.max") or _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))
    ]
    return min(limits, default=None)


def _groups() -> list[Path]:
    folders = [CGROUPS, CGROUPS / "cpu"]
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return folders
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = PurePosixPath(path.lstrip("/"))
        base = CGROUPS / "cpu" if controllers else CGROUPS
        folders += [base / parent for parent in (group, *group.parents) if ".." not in parent.parts]
    return folders


def _quota(*files: Path) -> float | None:
    """Read `quota period` from one file or from two.

    It is None without a limit.
    """
    try:
        quota, period = map(float, " ".join(file.read_text(encoding="ascii") for file in files).split()[:2])
    except (OSError, ValueError):  # no such file, or `max`
        return None
    return quota / period if quota > 0 and period > 0 else None
