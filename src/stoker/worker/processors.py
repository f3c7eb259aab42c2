"""How many processors this process may use."""

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_processors(cgroup: Path = _CGROUP) -> int:
    """Return the processors of this process's affinity, or fewer where a cgroup's quota is less.

    A quota of one and a half processors counts as one: a second thread would be stopped for half of
    every period, and the step would wait for it.
    """
    n_processors = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return n_processors if quota is None else max(1, min(n_processors, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """Return the processors' worth of time that the cgroup grants (version 2, then 1), or None."""
    v2 = cgroup / "cpu.max"
    if v2.exists():
        quota, period = v2.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    v1 = cgroup / "cpu"
    if (v1 / "cpu.cfs_quota_us").exists():
        quota_us = int((v1 / "cpu.cfs_quota_us").read_text())
        return None if quota_us <= 0 else quota_us / int((v1 / "cpu.cfs_period_us").read_text())
    return None
