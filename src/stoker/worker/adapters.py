"""Which adapters the engine has in memory, and the requests that wait for theirs.

An adapter is read when a sequence first needs it, in a thread, while steps go on; it is taken over between
two engine calls. When there are as many as there may be, the one used least recently makes room of those
that no sequence is, or will be, computed with.
"""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from stoker.core.errors import (
    CapacityError,
    DeadlineError,
    EngineError,
    QueueFullError,
    QueueTimeoutError,
    RequestError,
)
from stoker.core.grammar import Constraint
from stoker.core.protocols import Adaptable
from stoker.core.stats import EngineStats
from stoker.core.tokens import AdapterRef, TokenRequest
from stoker.worker.peer import Peer

RETRY_AFTER_S = 1.0
"""When to try again if too many wait for adapters."""


@dataclass(frozen=True, slots=True)
class WaitingSubmission:
    """A sequence whose adapter is not in memory yet.

    Attributes:
        peer: Who submitted it.
        sequence: Its number there.
        request: What is to be done.
        since: When it came, on the loop's clock.
        constraint: Holds it to its grammar, if it has one.
    """

    peer: Peer
    sequence: int
    request: TokenRequest
    since: float
    constraint: Constraint | None = None

    @property
    def due(self) -> float:
        """When it has waited for too long, on the loop's clock."""
        limits = (self.request.queue_timeout_s, self.request.timeout_s)
        return self.since + min((each for each in limits if each is not None), default=math.inf)

    def at(self, now: float) -> TokenRequest:
        """Return the request with what is left of its time limits."""
        return with_time_left(self.request, now - self.since)


def with_time_left(request: TokenRequest, spent_s: float) -> TokenRequest:
    """Return a request that is submitted so much later than it came."""

    def left(limit_s: float | None) -> float | None:
        return None if limit_s is None else max(0.0, limit_s - spent_s)

    return replace(request, queue_timeout_s=left(request.queue_timeout_s), timeout_s=left(request.timeout_s))


@dataclass(frozen=True, slots=True)
class Settled:
    """A submission that waits no more; `error` says why it cannot be taken."""

    submission: WaitingSubmission
    error: RequestError | CapacityError | EngineError | None = None


class AdapterShelf:
    """Brings adapters in and out; belongs to the engine loop.

    One is read at a time, so that no more than one beyond the most is ever in memory.

    Args:
        engine: Has the adapters.
        most: Most adapters in memory.
        max_waiting: Most sequences that wait for theirs.
        in_use: Returns the digests of those that must stay.
        nudge: Wakes the loop; called in another thread.
    """

    def __init__(
        self,
        engine: Adaptable,
        *,
        most: int,
        max_waiting: int,
        in_use: Callable[[], set[str]],
        nudge: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._most = most
        self._max_waiting = max_waiting
        self._in_use = in_use
        self._nudge = nudge
        self._resident: dict[str, None] = {}  # used least recently first
        self._waiting: dict[str, WaitingSubmission] = {}  # by request id, the oldest first
        self._reading: tuple[AdapterRef, Future[object]] | None = None
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="adapters")
        self._n_loads = 0
        self._n_evictions = 0

    def use(self, adapter: AdapterRef) -> bool:
        """Tell whether an adapter is in memory; if so it counts as used now."""
        if adapter.digest not in self._resident:
            return False
        del self._resident[adapter.digest]
        self._resident[adapter.digest] = None
        return True

    def wait(self, submission: WaitingSubmission) -> None:
        """Let a sequence wait for its adapter.

        Raises:
            QueueFullError: Too many do.
        """
        if len(self._waiting) >= self._max_waiting:
            raise QueueFullError(
                f"{len(self._waiting)} requests wait for adapters to be loaded; try again later",
                retry_after_s=RETRY_AFTER_S,
            )
        self._waiting[submission.request.request_id] = submission

    def forget(self, request_id: str) -> None:
        """Nobody waits for this sequence any more."""
        self._waiting.pop(request_id, None)

    def forget_peer(self, peer: Peer) -> None:
        """A gateway has gone."""
        for request_id in [key for key, each in self._waiting.items() if each.peer is peer]:
            del self._waiting[request_id]

    def settle(self, now: float) -> list[Settled]:
        """Take over what has been read and begin to read what is wanted next.

        Returns:
            Those that need not wait any more.
        """
        if not self._waiting and self._reading is None:
            return []
        overdue = [each for each in self._waiting.values() if each.due <= now]
        settled = [self._drop(each, _late(each)) for each in overdue]
        if self._reading is not None and self._reading[1].done():
            settled += self._take_over(*self._reading)
        self._read_next()
        return settled

    @property
    def wake_at(self) -> float | None:
        """When `settle` is to be called again though nothing has happened; None for never."""
        due = min((each.due for each in self._waiting.values()), default=math.inf)
        return None if due == math.inf else due

    def counted(self, stats: EngineStats) -> EngineStats:
        """Return the stats with those of the adapters."""
        if not self._n_loads:
            return stats
        return replace(
            stats,
            adapters_resident=len(self._resident),
            adapter_loads_total=self._n_loads,
            adapter_evictions_total=self._n_evictions,
        )

    def close(self) -> None:
        """Stop reading."""
        self._reader.shutdown(cancel_futures=True)

    def _drop(
        self, submission: WaitingSubmission, error: RequestError | CapacityError | EngineError | None = None
    ) -> Settled:
        self._waiting.pop(submission.request.request_id)
        return Settled(submission, error)

    def _take_over(self, adapter: AdapterRef, reading: "Future[object]") -> list[Settled]:
        failure = reading.exception()
        # What cannot be read in one place may be whole in another.
        alike = {adapter} if failure else {each for each in self._wanted() if each.digest == adapter.digest}
        waiting = [each for each in self._waiting.values() if each.request.adapter in alike]
        if failure is not None:
            self._reading = None
            error = EngineError(f"The adapter cannot be loaded: {failure}")
            return [self._drop(each, error) for each in waiting]
        if not waiting:  # they were aborted meanwhile
            self._reading = None
            return []
        if not self._make_room():
            return []
        self._engine.place_adapter(adapter.digest, reading.result())
        self._reading = None
        self._resident[adapter.digest] = None
        self._n_loads += 1
        return [self._drop(each) for each in waiting]

    def _wanted(self) -> set[AdapterRef]:
        return {each.request.adapter for each in self._waiting.values() if each.request.adapter is not None}

    def _make_room(self) -> bool:
        if len(self._resident) < self._most:
            return True
        in_use = self._in_use()
        for digest in self._resident:
            if digest not in in_use:
                self._engine.drop_adapter(digest)
                del self._resident[digest]
                self._n_evictions += 1
                return True
        return False

    def _read_next(self) -> None:
        if self._reading is not None or not self._waiting:
            return
        adapter = next(iter(self._waiting.values())).request.adapter
        if adapter is not None:
            future = self._reader.submit(self._engine.read_adapter, adapter)
            self._reading = adapter, future
            future.add_done_callback(lambda _: self._nudge())


def _late(submission: WaitingSubmission) -> QueueTimeoutError | DeadlineError:
    queue_s, whole_s = submission.request.queue_timeout_s, submission.request.timeout_s
    if queue_s is not None and (whole_s is None or queue_s <= whole_s):
        return QueueTimeoutError(
            f"the request's adapter was not in memory within its {queue_s:g} s; try again later",
            retry_after_s=RETRY_AFTER_S,
        )
    return DeadlineError("the request waited for its adapter until its time limit was over")
