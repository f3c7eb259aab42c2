"""A server as seen from outside while it is under load: its engine, its probes, its metrics, its memory."""

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

import httpx2

from stoker.testing.server_process import ServerProcess, metric_totals


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process takes.

    Attributes:
        at_s: When it was looked at, in seconds since the load began.
        pid: The process.
        rss_kib: Resident memory.
        pss_kib: The same, with what is shared divided among those who share it.
        fds: Open file descriptors.
        threads: Threads.
    """

    at_s: float
    pid: int
    rss_kib: int
    pss_kib: int
    fds: int
    threads: int


def sample(pid: int, at_s: float) -> Sample | None:
    """Look at a process; None if it is gone or just going."""
    folder = Path(f"/proc/{pid}")
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()[1:]
        sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return Sample(
            at_s,
            pid,
            rss_kib=sizes["Rss"],
            pss_kib=sizes["Pss"],
            fds=len(os.listdir(folder / "fd")),  # noqa: PTH208 - only their number
            threads=len(os.listdir(folder / "task")),  # noqa: PTH208
        )
    except (OSError, KeyError):
        return None


class ServerView:
    """Looks at a server without stopping the event loop.

    Args:
        server: The server.
        client: Asks it.
    """

    def __init__(self, server: ServerProcess, client: httpx2.AsyncClient) -> None:
        self._server = server
        self._client = client

    @property
    def gateway(self) -> int:
        """Process id of the server itself."""
        return self._server.process.pid

    def engine(self) -> int | None:
        """Return the process id of the engine that runs or starts, or None between two."""
        try:
            return next(iter(self._server.children()), None)
        except OSError:  # a thread of the server ended while it was looked at
            return None

    async def ready(self) -> bool:
        """Return whether an engine is ready."""
        return (await self._client.get("/readyz")).status_code == httpx2.codes.OK

    async def metrics(self) -> dict[str, float]:
        """Return every metric by name, its labelled samples summed."""
        return metric_totals((await self._client.get("/metrics")).text)

    async def running(self) -> int:
        """Return how many sequences the engine computes."""
        return int((await self.metrics())["stoker_engine_running"])

    async def watch(
        self, started: float, every_s: float, gateway: list[Sample], engines: list[Sample]
    ) -> None:
        """Sample both processes for ever.

        Args:
            started: When the load began, on the monotonic clock.
            every_s: Time between samples.
            gateway: The gateway's samples are put here.
            engines: The engines' samples are put here.
        """
        while True:
            for pid, into in ((self.gateway, gateway), (self.engine(), engines)):
                seen = None if pid is None else sample(pid, time.monotonic() - started)
                if seen is not None:
                    into.append(seen)
            await asyncio.sleep(every_s)
