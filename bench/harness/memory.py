"""What a server and its engines keep in memory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_EXECUTIONS: Final = 10  # a process that executes more programs while it is looked at is no server


def family(pid: int) -> Iterator[int]:
    """Yield a process and all that it started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="utf-8").split():
            yield from family(int(child))


def resident_bytes(pid: int) -> dict[str, int]:
    """Return a process's resident memory (``rss``), and its share of it (``pss``).

    For the share, what is mapped by several processes is divided among them.
    """
    sizes_kib: dict[str, int] = {}
    for line in _rollup(pid).splitlines()[1:]:
        name, value = line.split(":")
        sizes_kib[name] = int(value.split()[0])
    return {"rss": sizes_kib["Rss"] << 10, "pss": sizes_kib["Pss"] << 10}


def _rollup(pid: int) -> str:
    """Read the sums over a process's mappings.

    A process that starts another program loses what was opened before it is read; then once more.
    """
    for _ in range(_EXECUTIONS):
        with contextlib.suppress(ProcessLookupError):
            return Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    raise ProcessLookupError(pid)
