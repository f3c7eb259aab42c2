"""What a server and its engines keep in memory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_FIELDS_WITHOUT_PATH: Final = 4  # permissions, offset, device and inode, behind the addresses
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


def largest_private_mapping(pid: int) -> int:
    """Return how much is resident of the process's largest mapping of no file: an engine's KV blocks."""
    sizes: list[tuple[int, int]] = []
    is_private = False
    for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            is_private = len(rest) == _FIELDS_WITHOUT_PATH
        elif is_private and name == "Size:":
            size_kib = int(rest[0])
        elif is_private and name == "Rss:":
            sizes.append((size_kib, int(rest[0])))
    return max(sizes)[1] << 10


def _rollup(pid: int) -> str:
    """Read the sums over a process's mappings.

    A process that starts another program loses what was opened before it is read; then once more.
    """
    for _ in range(_EXECUTIONS):
        with contextlib.suppress(ProcessLookupError):
            return Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    raise ProcessLookupError(pid)
