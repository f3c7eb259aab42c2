"""The scheduler: requests in, plans out, results in, events out."""

from dataclasses import dataclass

from stoker.core.errors import EngineError, InvalidRequestError, QueueFullError
from stoker.core.stats import EngineStats
from stoker.core.step import StepPlan, StepResult
from stoker.core.tokens import TokenRequest, TokensEvent
from stoker.kvcache import KVCache
from stoker.scheduler.admission import Admission, validate_request
from stoker.scheduler.commit import apply_result, validate_result
from stoker.scheduler.counters import Counters, DrainRate
from stoker.scheduler.invariants import check_sequences
from stoker.scheduler.limits import SchedulerLimits
from stoker.scheduler.plan import build_plan, grow_tables
from stoker.scheduler.queue import SequenceQueue
from stoker.scheduler.sequence import SequenceState


@dataclass(slots=True)
class _StepInFlight:
    plan: StepPlan
    rows: list[SequenceState]
    started: float  # as the caller's clock says


class Scheduler:
    """Continuous batching over a paged, shared KV cache.

    The owner loops: `submit` and `abort` what arrived, ``plan = schedule(now)``, compute the plan,
    ``events = commit(plan, result, now)``. One step is in flight at a time. `submit` and `abort` may
    also be called between `schedule` and `commit`. Not thread-safe: one thread owns it.

    Sequences are served in the order of priority, then arrival, and every admitted sequence ends.
    (Counting computed tokens instead of keeping prefill and decode phases is vLLM v1's idea.)

    Args:
        limits: How much it takes on.
        kv_blocks: KV blocks of the engine, as its `StepEngine.kv_blocks` says.
        root: Names weights and KV type; sequences never share blocks across roots.
    """

    __slots__ = (
        "_admission",
        "_cache",
        "_counters",
        "_drain",
        "_in_flight",
        "_limits",
        "_live",
        "_n_arrived",
        "_root",
        "_running",
        "_waiting",
    )

    def __init__(self, limits: SchedulerLimits, kv_blocks: int, root: str) -> None:
        self._limits = limits
        self._root = root
        self._cache = KVCache(kv_blocks)
        self._counters = Counters()
        self._drain = DrainRate()
        self._running = SequenceQueue()
        self._waiting = SequenceQueue()
        self._live: dict[str, SequenceState] = {}
        self._n_arrived = 0
        self._in_flight: _StepInFlight | None = None
        self._admission = Admission(limits, self._cache, self._running, self._waiting, self._counters)

    def submit(self, request: TokenRequest, now: float) -> None:
        """Take a request into the queue.

        Args:
            request: The sequence to continue.
            now: The time, in seconds.

        Raises:
            InvalidRequestError: It is malformed, its id is in flight already, it exceeds the context
                (`ContextLengthError`) or it needs more KV blocks than exist.
            QueueFullError: Every running and waiting place is taken.
        """
        if request.request_id in self._live:
            raise InvalidRequestError(
                f"a request with the id {request.request_id!r} is in flight; use an id once",
                param="request_id",
            )
        validate_request(request, self._limits, self._cache.n_blocks)
        n_places = self._limits.max_running + self._limits.max_waiting
        if len(self._live) >= n_places:
            retry_after_s = self._drain.retry_after_s(len(self._waiting), self._step_seconds(now))
            raise QueueFullError(
                f"all {n_places} places, running and waiting, are taken; "
                f"try again in about {retry_after_s:.0f} s",
                retry_after_s=retry_after_s,
            )
        sequence = SequenceState.of(request, arrival=self._n_arrived, root=self._root)
        self._n_arrived += 1
        self._live[request.request_id] = sequence
        self._waiting.add(sequence)

    def abort(self, request_id: str) -> bool:
        """End a sequence without an event; harmless at any time.

        Blocks under a step in flight are released when it is committed.

        Returns:
            Whether there was such a sequence.
        """
        sequence = self._live.pop(request_id, None)
        if sequence is None:
            return False
        if not sequence.table:  # a running sequence has a block at least
            self._waiting.remove(sequence)
        elif self._in_flight is None:
            self._running.remove(sequence)
            self._cache.release(sequence.table)
        else:
            sequence.aborted = True
        return True

    def schedule(self, now: float) -> StepPlan | None:
        """Plan the next step.

        Args:
            now: The time, in seconds.

        Returns:
            The plan, valid until it is committed; None when there is nothing to do, which is only
            when no sequence runs or waits.

        Raises:
            EngineError: The step before has not been committed.
        """
        if self._in_flight is not None:
            raise EngineError("a step is in flight; commit it before scheduling the next")
        running = self._running
        if running.items:
            n_preempted = grow_tables(running, self._waiting, self._cache)
            self._counters.preemptions += n_preempted
        if self._waiting.items:
            self._admission.admit_waiting()
        if not running.items:
            return None
        plan, rows = build_plan(running.items, self._cache, self._limits.max_step_tokens)
        self._in_flight = _StepInFlight(plan, rows, now)
        return plan

    def commit(self, plan: StepPlan, result: StepResult, now: float) -> list[TokensEvent]:
        """Take in the result of a step.

        Args:
            plan: What `schedule` returned last.
            result: What the engine returned for it.
            now: The time, in seconds.

        Returns:
            One event per sequence with a sampled token or prompt scores, in the plan's order; none for
            aborted sequences.

        Raises:
            EngineError: This is not the plan in flight, or the result does not answer it.
        """
        step = self._in_flight
        if step is None or step.plan is not plan:
            raise EngineError("this plan is not in flight; commit what schedule() returned last, once")
        validate_result(plan, result)
        self._in_flight = None
        counters = self._counters
        counters.steps += 1
        counters.step_seconds += now - step.started
        events, ended = apply_result(plan, step.rows, result, self._cache)
        counters.generated_tokens += sum(len(event.token_ids) for event in events)
        for sequence in ended:
            del self._live[sequence.request_id]
        gone = ended + [sequence for sequence in self._running.items if sequence.aborted]
        for sequence in gone:
            self._running.remove(sequence)
            self._cache.release(sequence.table)
            self._drain.record(counters.step_seconds)
        return events

    def stats(self) -> EngineStats:
        """Return counters and gauges as of now."""
        counters = self._counters
        cache = self._cache
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_blocks_total=cache.n_blocks,
            kv_blocks_used=cache.n_blocks - cache.n_available,
            kv_blocks_cached=cache.n_cached,
            prompt_tokens_total=counters.prompt_tokens,
            cached_tokens_total=counters.cached_tokens,
            generated_tokens_total=counters.generated_tokens,
            preemptions_total=counters.preemptions,
            steps_total=counters.steps,
            step_seconds_total=counters.step_seconds,
        )

    def check(self) -> None:
        """Verify every invariant of scheduler and cache; costs O(sequences + blocks).

        Raises:
            EngineError: An invariant is broken; the message says which.
        """
        check_sequences(self._running.items, self._waiting.items, self._live, self._limits, self._cache)
        self._cache.check([sequence.table for sequence in self._running.items])

    def _step_seconds(self, now: float) -> float:
        in_flight = self._in_flight
        return self._counters.step_seconds + (now - in_flight.started if in_flight else 0.0)
