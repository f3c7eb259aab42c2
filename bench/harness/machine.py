"""What a result says of the machine, the commit and the moment it was taken at."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stoker import __version__

_FLAGS = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def processor() -> str:
    """Name the processor and the instruction sets that matter here."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in _FLAGS if flag in fields.get("flags", "").split()]
    return f"{fields.get('model name', platform.processor())} ({' '.join(flags)})"


def commit() -> str:
    """Name the commit that is measured; a changed tree says so, results and their pages left aside."""
    name = _git("rev-parse", "--short", "HEAD")
    written = (
        ":!bench/results",
        ":!docs/benchmarks",
        ":!docs/benchmarks.md",
        ":!docs/quality.md",
        ":!README.md",
    )
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", *written)
    return f"{name}-dirty" if name and changed else name or "unknown"


def _git(*arguments: str) -> str:
    """Return what git prints; nothing where it fails."""
    out = subprocess.run(
        ["git", *arguments],  # noqa: S607  # the git on the path
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    return out.stdout.strip()


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def heading(benchmark: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Begin a result: what was measured, of which commit, when, where, how busy the machine was, and how.

    Args:
        benchmark: Name of the script.
        arguments: Its command line, parsed.
    """
    memory_kib = int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1])
    return {
        "benchmark": benchmark,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "stoker": __version__,
        "python": sys.version.split()[0],
        "processor": processor(),
        "cores": cores(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "load_average_before": round(os.getloadavg()[0], 2),
        "arguments": {name: _plain(value) for name, value in arguments.items() if value is not None},
    }


def _plain(value: Any) -> Any:
    """Return an argument as JSON can hold it; of a path only the name, which tells as much."""
    if isinstance(value, Path):
        return value.name
    return value if isinstance(value, (bool, int, float, list)) else str(value)
