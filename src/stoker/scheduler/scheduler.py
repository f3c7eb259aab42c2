"""The scheduler: requests in, plans out, results in, events out."""

from collections.abc import Callable

from stoker.core.batching import MAX_DEFERRAL_S, BatchingPolicy
from stoker.core.drafting import Drafter
from stoker.core.errors import EngineError, InvalidRequestError, QueueFullError
from stoker.core.grammar import Constraint
from stoker.core.stats import EngineStats
from stoker.core.step import BLOCK_TOKENS, StepPlan, StepResult
from stoker.core.tokens import TokenRequest, TokensEvent
from stoker.core.work import TYPICAL_WORK, ModelWork
from stoker.kvcache import KVCache, TierBooks
from stoker.scheduler.admission import Admission, validate_request
from stoker.scheduler.commit import apply_result, count_reused, validate_result
from stoker.scheduler.counters import Counters, DrainRate
from stoker.scheduler.drafts import give_back, speculate
from stoker.scheduler.expiry import Expiry
from stoker.scheduler.gate import BatchGate
from stoker.scheduler.held import HeldSequences
from stoker.scheduler.invariants import check_books, check_sequences
from stoker.scheduler.limits import SchedulerLimits
from stoker.scheduler.pace import Pace
from stoker.scheduler.plan import build_plan, grow_tables
from stoker.scheduler.queue import SequenceQueue
from stoker.scheduler.report import report
from stoker.scheduler.restore import Restorer
from stoker.scheduler.sequence import SequenceState
from stoker.scheduler.steps import StepInFlight, look_ahead
from stoker.scheduler.waiting import TimeLimits, WaitingQueue


class Scheduler:
    """Continuous batching over a paged, shared KV cache.

    The owner loops: `submit` and `abort` what arrived, `expire`, ``plan = schedule(now)``, compute the
    plan, ``events = commit(plan, result, now)``. One step is in flight at a time. `submit`, `abort` and
    `expire` may also be called between `schedule` and `commit`. Not thread-safe: one thread owns it.

    Sequences are served in the order of priority, then of who is due first: of arrival, unless the policy
    lets long prompts be due later. Every admitted sequence ends. How much a step computes is chosen by the
    policy and by what steps have taken (`Pace`); no token depends on it. What planning a step costs does
    not depend on how many wait.

    With tiers below the KV cache, what `tiers` says is to be saved and loaded has to be done between
    `schedule` and the forward, or the next `schedule` if there is no plan.
    (Counting computed tokens instead of keeping prefill and decode phases is vLLM v1's idea.)

    Args:
        limits: How much it takes on.
        kv_blocks: KV blocks of the engine, as its `StepEngine.kv_blocks` says.
        root: Names weights and KV type; sequences never share blocks across roots.
        batching: How steps are filled; may be replaced at any time (`retune`).
        model: Operations and bytes of the model, where the prediction of a step's time begins.
        tiers: Where evicted blocks go; None to forget them.
    """

    __slots__ = (
        "_admission",
        "_cache",
        "_counters",
        "_drain",
        "_gate",
        "_held",
        "_in_flight",
        "_limits",
        "_live",
        "_n_arrived",
        "_pace",
        "_restorer",
        "_root",
        "_running",
        "_step_ended",
        "_time_limits",
        "_waiting",
    )

    def __init__(
        self,
        limits: SchedulerLimits,
        kv_blocks: int,
        root: str,
        *,
        batching: BatchingPolicy | None = None,
        model: ModelWork = TYPICAL_WORK,
        tiers: TierBooks | None = None,
    ) -> None:
        self._limits = limits
        self._root = root
        self._cache = KVCache(kv_blocks, tiers)
        self._counters = Counters()
        self._restorer = Restorer(self._cache, self._counters, limits.max_restored_blocks)
        self._held = HeldSequences(self._cache, limits)
        self._drain = DrainRate()
        self._running = SequenceQueue()
        self._waiting = WaitingQueue()
        self._time_limits = TimeLimits()
        self._live: dict[str, SequenceState] = {}
        self._n_arrived = 0
        self._in_flight: StepInFlight | None = None
        self._step_ended: float | None = None  # None after idling
        self._gate = BatchGate()
        self._pace = Pace(
            batching or BatchingPolicy(),
            max_step_tokens=limits.max_step_tokens,
            model=model,
            counters=self._counters,
        )
        self._admission = Admission(
            limits, self._cache, self._running, self._waiting, self._time_limits, self._counters
        )

    def submit(self, request: TokenRequest, now: float, constraint: Constraint | None = None) -> None:
        """Take a request into the queue.

        Args:
            request: The sequence to continue.
            now: The time, in seconds.
            constraint: Holds it to its grammar, if it has one; told of every token from now on.

        Raises:
            InvalidRequestError: It is malformed, its id is in flight already, it exceeds the context
                (`ContextLengthError`) or it needs more KV blocks than exist.
            QueueFullError: Every running and waiting place is taken, or the waiting ones have too many
                tokens.
        """
        if request.request_id in self._live:
            raise InvalidRequestError(
                f"a request with the id {request.request_id!r} is in flight; use an id once",
                param="request_id",
            )
        validate_request(request, self._limits, self._cache.n_blocks)
        self._held.validate(request)
        n_places = self._limits.max_running + self._limits.max_waiting
        if len(self._live) - len(self._held) >= n_places:
            raise self._full(f"all {n_places} places, running and waiting, are taken", now)
        n_waiting = self._waiting.n_tokens
        if n_waiting and n_waiting + len(request.prompt) > self._limits.max_waiting_tokens:
            raise self._full(
                f"the prompts of waiting requests have {n_waiting} tokens and this one "
                f"{len(request.prompt)}, over the limit of {self._limits.max_waiting_tokens} together",
                now,
            )
        sequence = SequenceState.of(
            request, arrival=self._n_arrived, root=self._root, now=now, constraint=constraint
        )
        if patience_s := self._pace.policy.prompt_patience_s:
            hits = self._cache.match(sequence.namespace, sequence.tokens[: sequence.n_shareable + 1])
            n_uncached = len(sequence.tokens) - len(hits) * BLOCK_TOKENS
            sequence.defer(min(MAX_DEFERRAL_S, patience_s * n_uncached))
        self._n_arrived += 1
        self._held.claim(sequence)
        self._gate.arrived(now)
        self._live[request.request_id] = sequence
        self._waiting.add(sequence)
        self._time_limits.watch(sequence)

    def abort(self, request_id: str) -> bool:
        """End a sequence without an event; harmless at any time.

        Blocks under a step in flight are released when it is committed.

        Returns:
            Whether there was such a sequence.
        """
        sequence = self._live.pop(request_id, None)
        if sequence is None:
            return False
        self._time_limits.forget(sequence)
        if self._held.give_up(sequence):
            return True
        if not sequence.table:  # a running sequence has a block at least
            self._waiting.remove(sequence)
        elif self._in_flight is None:
            self._running.remove(sequence)
            self._release(sequence)
        else:
            sequence.aborted = True
        return True

    def adapters_in_use(self) -> set[str]:
        """Return the digests of all adapters that sequences are, or will be, computed with."""
        return {digest for each in self._live.values() if (digest := each.namespace.adapter)}

    def expire(self, now: float) -> list[Expiry]:
        """Give up the sequences whose time limits are over, as `abort` does; costs O(log n) for each.

        Args:
            now: The time, in seconds.
        """
        expired: list[Expiry] = []
        while (sequence := self._time_limits.unfinished(now)) is not None:
            expired.append(Expiry.unfinished(sequence.request_id))
            self.abort(sequence.request_id)
        while (sequence := self._time_limits.unbegun(now)) is not None:
            expired.append(Expiry.unbegun(sequence.request_id, self._retry_after_s(now)))
            self.abort(sequence.request_id)
        self._counters.expired += len(expired)
        return expired

    def retune(self, batching: BatchingPolicy) -> None:
        """Fill steps by another policy from the next one on; what was learnt of steps stays.

        The order of those that have been submitted stays, too.
        """
        self._pace.policy = batching

    @property
    def wake_at(self) -> float | None:
        """When `schedule` is to be called again though nothing has happened; None for never.

        Only of use when it has returned None: the policy lets who waits wait for a full step, or who runs
        waits for the disk, which will not be waited for longer.
        """
        opens_at = self._gate.opens_at(self._pace.policy) if self._waiting else None
        gives_up_at = self._restorer.wake_at
        if opens_at is None or gives_up_at is None:
            return gives_up_at if opens_at is None else opens_at
        return min(opens_at, gives_up_at)

    def schedule(self, now: float) -> StepPlan | None:
        """Plan the next step.

        Args:
            now: The time, in seconds.

        Returns:
            The plan, valid until it is committed; None when there is nothing to compute now: no sequence
            runs and none waits, those that wait are to wait for a fuller step, or all that run wait for
            the disk. In the last two cases `wake_at` is set.

        Raises:
            EngineError: The step before has not been committed.
        """
        if self._in_flight is not None:
            raise EngineError("a step is in flight; commit it before scheduling the next")
        running = self._running
        if running.items:
            n_preempted = grow_tables(running, self._waiting, self._cache)
            self._counters.preemptions += n_preempted
        budget = self._pace.budget(running.items)
        if not self._waiting:
            self._gate.open()
        elif self._may_begin(now):
            self._admission.admit_waiting(budget.n_tokens)
            budget = self._pace.budget(running.items)
        self._cache.save_unwritten(self._limits.max_restored_blocks)
        self._restorer.begin(now)
        if not running.items:
            self._step_ended = None
            return None
        self._pace.n_budget = budget.n_tokens
        plan, rows = build_plan(running.items, self._cache, budget, self._restorer)
        if not rows:
            self._step_ended = None
            return None
        n_steps = self._pace.call_steps(self._limits.max_call_steps, self._limits.max_call_s)
        if n_steps > 1 and not self._waiting and len(rows) == len(running):
            look_ahead(plan, rows, self._cache, n_steps)
        since = now if self._step_ended is None else self._step_ended
        self._in_flight = StepInFlight(plan, rows, budget, now, since)
        return plan

    def _may_begin(self, now: float) -> bool:
        """Whether those that wait need not wait for others that would fill the step with them."""
        opens_at = self._gate.opens_at(self._pace.policy)
        limits, waiting = self._limits, self._waiting
        if (
            opens_at is None
            or now >= opens_at
            or waiting.n_tokens + len(self._running) >= limits.max_step_tokens
            or len(waiting) + len(self._running) >= limits.max_running
        ):
            self._gate.open()
            return True
        return False

    def speculate(
        self, plan: StepPlan, drafter: Drafter, save_evicted: Callable[[], object] = lambda: None
    ) -> None:
        """Let a plan that only decodes have drafts where they are expected to pay.

        Args:
            plan: What `schedule` has just returned; if it takes several steps, drafts take their place.
            drafter: Guesses how sequences go on.
            save_evicted: Copies to host memory what the books of the tiers say by then: blocks may be
                evicted for guesses, and are overwritten soon. Called whether there are any or not.

        Raises:
            EngineError: This is not the plan in flight.
        """
        step = self._in_flight
        if step is None or step.plan is not plan:
            raise EngineError("this plan is not in flight; speculate on what schedule() returned last")
        speculate(step, drafter, self._cache, self._pace, save_evicted)

    def commit(
        self,
        plan: StepPlan,
        result: StepResult,
        now: float,
        *,
        moved_s: float = 0.0,
        drafting_s: float = 0.0,
    ) -> list[TokensEvent]:
        """Take in the result of a step.

        Args:
            plan: What `schedule` returned last.
            result: What the engine returned for it.
            now: The time, in seconds.
            moved_s: How long blocks were copied to and from the tiers before the forward.
            drafting_s: How long `speculate` took.

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
        self._in_flight, counters = None, self._counters
        n_steps = 1 if plan.drafts else max(1, *map(len, result.token_ids))
        counters.steps += n_steps
        counters.step_seconds += now - step.started
        self._step_ended = now
        n_accepted = sum(len(result.token_ids[row]) - 1 for row in plan.drafts)
        counters.drafted_tokens += step.budget.n_drafted
        counters.accepted_tokens += n_accepted
        counters.drafting_seconds += drafting_s
        self._pace.record(
            step.budget,
            now - step.since,
            n_steps=n_steps,
            moved_s=moved_s,
            drafting_s=drafting_s,
            n_reused=sum(result.reused.values()),
            n_accepted=n_accepted,
            on_trial=step.on_trial,
        )
        counters.cached_tokens += count_reused(step.rows, result)
        events, ended, n_forced = apply_result(plan, step.rows, result, self._cache)
        give_back(plan, step.rows, self._cache)
        counters.forced_tokens += n_forced
        counters.generated_tokens += sum(len(event.token_ids) for event in events)
        for sequence in ended:
            self._time_limits.forget(sequence)
            if not sequence.hold:
                del self._live[sequence.request_id]
        gone = ended + [sequence for sequence in self._running.items if sequence.aborted]
        for sequence in gone:
            self._running.remove(sequence)
            if sequence.hold and not sequence.aborted:
                self._held.end(sequence)
            else:
                self._release(sequence)
            self._drain.record(counters.step_seconds)
        return events

    def save_unwritten(self) -> bool:
        """Tell the tiers of some blocks to be written, as `schedule` does; return whether there are more."""
        self._cache.save_unwritten(self._limits.max_restored_blocks)
        return self._cache.n_unwritten > 0

    def stats(self) -> EngineStats:
        """Return counters and gauges as of now."""
        return report(
            running=self._running,
            waiting=self._waiting,
            held=self._held,
            cache=self._cache,
            counters=self._counters,
            pace=self._pace,
        )

    def check(self) -> None:
        """Verify every invariant of scheduler and cache; costs O(sequences + blocks).

        Raises:
            EngineError: An invariant is broken; the message says which.
        """
        waiting = self._waiting.in_order()
        held = self._held.ended
        live = {request_id: each for request_id, each in self._live.items() if request_id not in held}
        check_sequences(self._running.items, waiting, live, self._limits, self._cache)
        check_books(waiting, self._waiting.n_tokens, self._time_limits, live)
        self._held.check(self._live)
        self._cache.check([sequence.table for sequence in (*self._running.items, *held.values())])

    def _release(self, sequence: SequenceState) -> None:
        self._cache.keep(sequence.table[: sequence.n_published])
        self._cache.release(sequence.table)

    def _full(self, why: str, now: float) -> QueueFullError:
        retry_after_s = self._retry_after_s(now)
        return QueueFullError(f"{why}; try again in about {retry_after_s:.0f} s", retry_after_s=retry_after_s)

    def _retry_after_s(self, now: float) -> float:
        return self._drain.retry_after_s(len(self._waiting), self._step_seconds(now))

    def _step_seconds(self, now: float) -> float:
        in_flight = self._in_flight
        return self._counters.step_seconds + (now - in_flight.started if in_flight else 0.0)
