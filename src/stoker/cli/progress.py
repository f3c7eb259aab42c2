"""Progress of a download: a bar on a terminal, a few plain lines elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic

from stoker.models.sources import Progress

LINE_INTERVAL_S = 5.0
"""Least time between two plain lines."""


@contextmanager
def pull_progress(name: str) -> Iterator[Progress]:
    """Show the progress of pulling `name` on standard error; nothing is shown until it is reported."""
    if not sys.stderr.isatty():
        yield _lines(name)
        return
    # Only here, since a server that has its model shows no bar.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar  # noqa: PLC0415

    columns = (
        TextColumn("pulling {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None, visible=False)

        def report(done_bytes: int, total_bytes: int | None) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes, visible=True)

        yield report


def _lines(name: str) -> Progress:
    next_s = 0.0

    def report(done_bytes: int, total_bytes: int | None) -> None:
        nonlocal next_s
        now_s = monotonic()
        complete = done_bytes == total_bytes
        if next_s == inf or (now_s < next_s and not complete):
            return
        next_s = inf if complete else now_s + LINE_INTERVAL_S
        share = "" if total_bytes is None else f" of {megabytes(total_bytes)}"
        sys.stderr.write(f"pulling {name}: {megabytes(done_bytes)}{share}\n")
        sys.stderr.flush()

    return report


def megabytes(size_bytes: int) -> str:
    """Return a size as people read it."""
    return f"{size_bytes / 1e6:.1f} MB"
