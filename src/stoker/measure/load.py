"""Puts a trial's requests to a server: as clients become free, or at their times."""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stoker.measure.answer import AnswerReader, Fault
from stoker.measure.sample import Sample
from stoker.measure.target import Target
from stoker.measure.workload import PlannedRequest

TICK_S = 0.5
"""How often it is looked at requests that wait."""

MAX_PAUSE_S = 10.0
"""Longest that a client of a closed loop waits after a refusal before it sends its next request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadLimits:
    """What ends a request or a trial.

    Attributes:
        request_s: Longest that an answer may take.
        trial_s: Longest that a trial may take; what still runs then is given up.
        max_streams: Most requests in flight in an open loop.
    """

    request_s: float = 300.0
    trial_s: float = 600.0
    max_streams: int = 4096


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that has been sent and has brought no text yet."""

    planned: PlannedRequest
    waited_s: float


class Watch:
    """Sees what becomes of requests, and says whether the trial goes on; this one lets it."""

    def ended(self, sample: Sample) -> bool:  # noqa: ARG002 - for those that care
        """Take one that ended."""
        return True

    def waiting(self, requests: list[Waiting]) -> bool:  # noqa: ARG002
        """Take those that wait, now and then."""
        return True


class Load:
    """One trial.

    Args:
        target: The server.
        requests: In order; encoded before the first is sent.
        limits: What ends them.
        watch: Says whether the trial goes on.

    Attributes:
        samples: Of the requests that ended, in the order in which they did.
        n_unsent: Requests that were never sent.
        n_given_up: Requests that were still running when `watch` ended the trial.
        began_s: When it began, of `time.perf_counter`.
    """

    def __init__(
        self,
        target: Target,
        requests: list[PlannedRequest],
        limits: LoadLimits,
        watch: Watch,
    ) -> None:
        self._target = target
        self._limits = limits
        self._watch = watch
        self._running: dict[int, tuple[PlannedRequest, AnswerReader, float]] = {}
        encoded = (
            target.request(planned.shared, planned.text, planned.output_tokens) for planned in requests
        )
        self._work = list(zip(requests, encoded, strict=True))
        self._over = asyncio.Event()
        self.samples: list[Sample] = []
        self.n_unsent = len(requests)
        self.n_given_up = 0
        self.began_s = 0.0

    async def closed_loop(self, n_clients: int) -> None:
        """Have each of so many clients send its next request when its last one has ended."""
        work = iter(self._work)
        await self._until_over(*(self._client(work) for _ in range(min(n_clients, len(self._work)))))

    async def open_loop(self) -> None:
        """Send each request at its time, whatever has become of those before it."""
        await self._until_over(self._arrivals())

    async def _until_over(self, *coroutines: Coroutine[None, None, None]) -> None:
        self.began_s = time.perf_counter()
        running: asyncio.Future[list[None]] = asyncio.gather(*coroutines)
        over = asyncio.ensure_future(self._over.wait())
        ticks = asyncio.create_task(self._tick())
        both: list[asyncio.Future[Any]] = [running, over]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        ticks.cancel()
        if not running.done():
            running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now_s = time.perf_counter()
            waiting = [
                Waiting(planned, now_s - sent_s)
                for planned, reader, sent_s in self._running.values()
                if not reader.arrivals_s
            ]
            if not self._watch.waiting(waiting):
                self._over.set()

    async def _client(self, work: Iterator[tuple[PlannedRequest, bytes]]) -> None:
        for planned, encoded in work:
            if self._time_left_s() <= 0:
                return
            sample = await self._send(planned, encoded)
            if sample.error is not None and sample.error.startswith("http_"):
                await asyncio.sleep(
                    min(sample.retry_after_s or 0.0, MAX_PAUSE_S, max(0.0, self._time_left_s()))
                )

    async def _arrivals(self) -> None:
        running: set[asyncio.Task[Sample]] = set()
        try:
            for planned, encoded in self._work:
                due_s = planned.due_s or 0.0
                if due_s >= self._limits.trial_s:
                    break
                await asyncio.sleep(max(0.0, self.began_s + due_s - time.perf_counter()))
                if len(running) >= self._limits.max_streams:
                    self._refuse(planned)
                    continue
                task = asyncio.create_task(self._send(planned, encoded))
                running.add(task)
                task.add_done_callback(running.discard)
            if running:
                await asyncio.wait(running)
        finally:
            rest = list(running)
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

    def _time_left_s(self) -> float:
        return self.began_s + self._limits.trial_s - time.perf_counter()

    async def _send(self, planned: PlannedRequest, encoded: bytes) -> Sample:
        self.n_unsent -= 1
        reader, fault = AnswerReader(), None
        started_s = time.perf_counter()
        left_s = self._time_left_s()
        self._running[planned.index] = (planned, reader, started_s)
        try:
            started_s = await self._target.stream(encoded, reader, min(self._limits.request_s, left_s))
        except Fault as error:
            fault = error
            if fault.kind == "timeout" and left_s < self._limits.request_s:
                fault = Fault("time_limit", f"the trial's {self._limits.trial_s:.0f} s were over")
        except asyncio.CancelledError:
            self.n_given_up += 1
            raise
        finally:
            del self._running[planned.index]
        sample = self._sample(planned, reader, started_s, fault)
        self._keep(sample)
        return sample

    def _keep(self, sample: Sample) -> None:
        self.samples.append(sample)
        if not self._watch.ended(sample):
            self._over.set()

    def _refuse(self, planned: PlannedRequest) -> None:
        self.n_unsent -= 1
        detail = f"{self._limits.max_streams:,} requests were in flight already"
        self._keep(
            self._sample(planned, AnswerReader(), time.perf_counter(), Fault("too_many_streams", detail))
        )

    def _sample(
        self, planned: PlannedRequest, reader: AnswerReader, sent_s: float, fault: Fault | None
    ) -> Sample:
        arrivals_s = reader.arrivals_s
        counted = reader.count("completion_tokens")
        prompt_tokens = reader.count("prompt_tokens")
        return Sample(
            index=planned.index,
            sent_s=sent_s - self.began_s,
            late_s=None if planned.due_s is None else sent_s - self.began_s - planned.due_s,
            ttft_s=arrivals_s[0] - sent_s if arrivals_s else None,
            duration_s=time.perf_counter() - sent_s,
            gaps_s=tuple(after - before for before, after in pairwise(arrivals_s)),
            n_events=reader.n_events,
            prompt_tokens=planned.prompt_tokens if prompt_tokens is None else prompt_tokens,
            known_tokens=planned.known_tokens,
            cached_tokens=reader.cached_tokens,
            output_tokens=reader.n_events if counted is None else counted,
            wanted_tokens=planned.output_tokens,
            counted_by="events" if counted is None else "usage",
            error=None if fault is None else fault.kind,
            detail="" if fault is None else fault.detail,
            retry_after_s=None if fault is None else fault.retry_after_s,
        )
