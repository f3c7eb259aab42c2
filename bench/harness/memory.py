"""What a server and its engines keep in memory."""

from collections.abc import Iterator
from pathlib import Path


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
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]:
        name, value = line.split(":")
        sizes_kib[name] = int(value.split()[0])
    return {"rss": sizes_kib["Rss"] << 10, "pss": sizes_kib["Pss"] << 10}
