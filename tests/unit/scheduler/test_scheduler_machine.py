"""Random schedules: every invariant after every call; tokens, scores and embeddings as of the request alone.

The invariants (`Scheduler.check`, after every call) say, among others: no block leaked or counted
wrongly, none held by sequences of two namespaces, nobody overtaken by a lower priority.
"""

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stoker.core.batching import BatchingPolicy
from stoker.core.errors import InvalidRequestError, QueueFullError
from stoker.core.grammar import Grammar
from stoker.core.pooling import Pooling
from stoker.core.sampling import SamplingParams
from stoker.core.step import StepPlan
from stoker.core.tokens import TokenRequest
from stoker.kvcache import TierBooks
from stoker.scheduler.sequence import SequenceState
from stoker.testing.expectations import Expectations, Expected
from stoker.testing.forcing import FORCING, LENGTHS
from stoker.testing.oracle_drafter import OracleDrafter
from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.workloads import make_request, make_tokens

POLICIES = st.builds(
    BatchingPolicy,
    mode=st.sampled_from(["latency", "latency", "size", "time"]),
    itl_target_s=st.sampled_from([1e-6, 0.01, 0.02, 10.0]),
    prefill_share=st.sampled_from([0.0, 0.25, 0.9]),
    batch_wait_s=st.sampled_from([0.0, 0.02, 1.0]),
    prompt_patience_s=st.sampled_from([0.0, 0.001, 1.0]),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Tiny pools force eviction and preemption; few prefixes and salts force sharing."""

    @initialize(
        kv_blocks=st.integers(2, 14),
        max_running=st.integers(1, 5),
        max_waiting=st.integers(0, 6),
        max_waiting_tokens=st.sampled_from([40, 200, 10_000]),
        spare_step_tokens=st.integers(0, 60),
        max_call_steps=st.integers(1, 4),
        batching=POLICIES,
        token_s=st.sampled_from([0.0, 0.0001, 0.002]),
    )
    def start(
        self,
        kv_blocks: int,
        max_running: int,
        max_waiting: int,
        max_waiting_tokens: int,
        spare_step_tokens: int,
        max_call_steps: int,
        batching: BatchingPolicy,
        token_s: float,
    ) -> None:
        limits = (kv_blocks, max_running, max_waiting, max_waiting_tokens, spare_step_tokens)
        self.begin(*limits, max_call_steps=max_call_steps, batching=batching, token_s=token_s)

    def begin(
        self,
        kv_blocks: int,
        max_running: int,
        max_waiting: int,
        max_waiting_tokens: int,
        spare_step_tokens: int,
        *,
        max_call_steps: int,
        batching: BatchingPolicy,
        token_s: float,
    ) -> None:
        self.loop = SchedulerLoop(
            kv_blocks=kv_blocks,
            context_length=160,
            max_running=max_running,
            max_waiting=max_waiting,
            max_waiting_tokens=max_waiting_tokens,
            max_step_tokens=max_running + spare_step_tokens,
            max_call_steps=max_call_steps,
            batching=batching,
            step_time=lambda plan: 0.002 + token_s * plan.n_tokens,
            **self.tiers(),
        )
        self.max_call_steps = max_call_steps
        self.interrupted = bytearray(1)
        self.loop.engine.heed(self.interrupted)
        self.batching = batching
        self.n_places = max_running + max_waiting
        self.max_waiting_tokens = max_waiting_tokens
        self.max_step_tokens = max_running + spare_step_tokens
        self.expectations = Expectations()
        self.oracle = OracleDrafter()
        self.plan: StepPlan | None = None
        self.n_submitted = 0

    @property
    def live(self) -> dict[str, Expected]:
        return self.expectations.live

    def running(self) -> list[SequenceState]:
        return self.loop.scheduler._running.items

    def forced(self, request_id: str) -> bool:
        return self.live[request_id].request.grammar is not None

    def tiers(self) -> dict[str, Any]:
        """Return what the loop is given beside its limits."""
        return {}

    @rule(
        prefix=st.sampled_from(["p", "q"]),
        n_prefix=st.sampled_from([0, 1, 15, 16, 17, 31, 32, 33, 48, 64]),
        n_tail=st.sampled_from([0, 0, 1, 7, 16, 20]),
        max_tokens=st.sampled_from([1, 2, 15, 16, 17, 40]),
        salt=st.sampled_from(["", "", "tenant"]),
        priority=st.integers(0, 2),
        queue_timeout_s=st.sampled_from([None, None, 0.0, 0.01, 0.1]),
        timeout_s=st.sampled_from([None, None, 0.0, 0.02, 0.2]),
        seed=st.integers(0, 2),
        with_stop=st.booleans(),
        penalty=st.sampled_from([0.0, 0.0, 0.5]),
        with_minimum=st.booleans(),
        prompt_logprobs=st.sampled_from([None, None, 0, 2]),
        pooling=st.sampled_from([None, None, None, *Pooling]),
        n_after=st.sampled_from([0, 0, 1, 2, 20]),
        n_choices=st.sampled_from([1, 1, 1, 3]),
        forcing=st.sampled_from([None, None, FORCING]),
    )
    def submit(
        self,
        *,
        prefix: str,
        n_prefix: int,
        n_tail: int,
        max_tokens: int,
        salt: str,
        priority: int,
        queue_timeout_s: float | None,
        timeout_s: float | None,
        seed: int,
        with_stop: bool,
        penalty: float,
        with_minimum: bool,
        prompt_logprobs: int | None,
        pooling: Pooling | None,
        n_after: int,
        n_choices: int,
        forcing: Grammar | None,
    ) -> None:
        """Submit a request as its choices, of which the first alone is scored, only scored, or pooled.

        What is only scored has scores of the prompt's own tokens, or of others after its last `n_after`.
        """
        alone = pooling is not None or prompt_logprobs == 0
        tail = make_tokens(f"tail {self.n_submitted}", n_tail)
        n_prompt = n_prefix + n_tail
        candidates = [make_tokens(f"after {at}", 1 + at % 3) for at in range(min(n_after, n_prompt))]
        first = make_request(
            "",
            prompt=make_tokens(prefix, n_prefix) + tail,
            max_tokens=0 if alone else max_tokens,
            min_tokens=max_tokens // 2 if with_minimum and not alone else 0,
            stop_token_ids=frozenset(range(12)) if with_stop else frozenset(),
            sampling=SamplingParams(seed=seed, frequency_penalty=penalty),
            prompt_logprobs=prompt_logprobs if pooling is None else None,
            pooling=pooling,
            candidates=candidates if prompt_logprobs == 0 and pooling is None else (),
            cache_salt=salt,
            priority=priority,
            queue_timeout_s=queue_timeout_s,
            timeout_s=timeout_s,
        )
        first = replace(first, grammar=None if alone else forcing)
        for choice in range(n_choices):
            sampling = replace(first.sampling, choice=choice)
            other = replace(
                first,
                max_tokens=max_tokens,
                prompt_logprobs=None,
                candidates=(),
                pooling=None,
                sampling=sampling,
            )
            self._submit(other if choice else first)

    def _submit(self, request: TokenRequest) -> None:
        request_id = str(self.n_submitted)
        self.n_submitted += 1
        request = replace(request, request_id=request_id)
        now = self.loop.clock()
        n_waiting_tokens = self.loop.scheduler.stats().waiting_tokens
        too_long = n_waiting_tokens > 0 and n_waiting_tokens + len(request.prompt) > self.max_waiting_tokens
        try:
            self.loop.submit(request)
        except QueueFullError:
            assert len(self.live) == self.n_places or too_long
        except InvalidRequestError:
            n_computed = len(request.prompt) + max(0, request.max_tokens - 1)
            assert not request.prompt or -(-n_computed // 16) > self.loop.engine.kv_blocks
        else:
            assert len(self.live) < self.n_places
            assert not too_long
            self.expectations.admit(request, now)
            self.oracle.learn(request)

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        """Abort anybody, at any time: waiting, running, in flight, ended or unknown."""
        request_id = data.draw(st.sampled_from([*map(str, range(self.n_submitted)), "nobody"]))
        assert self.loop.abort(request_id) == self.expectations.abort(request_id)

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.05, 1.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.loop.clock.advance(seconds)

    @rule()
    def expire(self) -> None:
        """Whoever is out of time, and nobody else, is given up, with the right error, also under a step."""
        self.loop.expired.clear()
        due = self.expectations.expire(self.loop.clock())
        self.loop.expire()
        assert {request_id: type(error) for request_id, error in self.loop.expired.items()} == due

    @rule(batching=POLICIES)
    def retune(self, batching: BatchingPolicy) -> None:
        """Fill steps by another policy, at any time."""
        self.batching = batching
        self.loop.scheduler.retune(batching)

    @rule(right=st.sampled_from([None, 0.0, 0.5, 0.9, 1.0]), computes=st.booleans())
    def guess(self, *, right: float | None, computes: bool) -> None:
        """Have somebody guess next tokens, or nobody, at any time."""
        self.oracle.right = right or 0.0
        self.oracle.computes = computes
        self.loop.drafter = None if right is None else self.oracle

    @precondition(lambda self: self.plan is None)
    @rule()
    def schedule(self) -> None:
        self.expire()
        self.plan = self.loop.schedule()
        if self.plan is None and self.live and not self.running():
            wake_at = self.loop.scheduler.wake_at
            now = self.loop.clock()
            assert self.batching.mode == "time"
            assert wake_at is not None
            assert now < wake_at <= now + self.batching.batch_wait_s
            self.loop.clock.advance(wake_at - now + 1e-9)
            self.expire()
            self.plan = self.loop.schedule()
        running = self.running()
        for sequence in running:  # who waits for the disk is in no plan
            if not sequence.aborted:
                self.live[sequence.request_id].begun = True
        all_wait = bool(running) and all(sequence.waits_since is not None for sequence in running)
        assert (self.plan is None) == (not self.live or all_wait)
        if self.plan is None:
            assert not self.live or self.loop.scheduler.wake_at is not None
        else:
            assert 1 <= self.plan.n_tokens <= self.max_step_tokens
            assert 1 <= self.plan.n_steps <= self.max_call_steps

    @precondition(lambda self: self.plan is not None)
    @rule(interrupted=st.booleans())
    def commit(self, *, interrupted: bool = False) -> None:
        """Compute the plan, or the first step of it alone, as when mail comes during the call."""
        assert self.plan is not None
        self.interrupted[0] = interrupted
        for event in self.loop.commit(self.plan):
            drafted = self.plan.drafts.get(self.plan.request_ids.index(event.request_id), 0)
            n_forced = max(LENGTHS) if self.forced(event.request_id) else 0
            n_sampled = 1 if interrupted else self.plan.n_steps
            assert len(event.token_ids) <= drafted + n_sampled + n_forced
            self.expectations.take(event)
        self.plan = None

    @rule(n_steps=st.integers(1, 40))
    def run_steps(self, n_steps: int) -> None:
        for _ in range(n_steps):
            if self.plan is None:
                self.schedule()
            if self.plan is not None:
                self.commit()

    @invariant()
    def gauges_agree(self) -> None:
        stats = self.loop.scheduler.stats()
        if self.plan is None:
            assert stats.running + stats.waiting == len(self.live)
        assert stats.kv_blocks_used + stats.kv_blocks_cached <= stats.kv_blocks_total
        if not self.live and not self.expectations.held and self.plan is None:
            assert stats.kv_blocks_used == 0

    def teardown(self) -> None:
        """Every request that was admitted ends, and nothing is held when all have."""
        if not hasattr(self, "loop"):
            return
        # Alone, each would take at most one step per prompt and output token; preemption
        # recomputes, but the first in order never.
        n_steps = 200 * (1 + len(self.live)) ** 2
        while self.live or self.plan is not None:
            n_steps -= 1
            assert n_steps > 0, f"{sorted(self.live)} never end"
            self.run_steps(1)
            self.loop.clock.advance(0.01)  # who waits for the disk has patience for a while
        self.gauges_agree()
        assert self.loop.schedule() is None


class TieredMachine(SchedulerMachine):
    """The same over tiers, with a disk that answers late, loses files, fails, and outlives the engine."""

    def tiers(self) -> dict[str, Any]:
        self.books = TierBooks(self.n_slots, disk=self.with_disk, max_reads=2, max_writes=2)
        n_pinned = max(0, self.limits[0] - 10)  # a whole context is left
        return {
            "tiers": self.books,
            "files": self.files,
            "max_restored_blocks": 2,
            "max_pinned_blocks": n_pinned,
        }

    @initialize(
        kv_blocks=st.integers(2, 16),
        max_running=st.integers(1, 5),
        spare_step_tokens=st.integers(0, 60),
        n_slots=st.integers(1, 12),
        with_disk=st.booleans(),
        max_call_steps=st.integers(1, 4),
        batching=POLICIES,
        token_s=st.sampled_from([0.0, 0.0001, 0.002]),
    )
    def start(
        self,
        kv_blocks: int,
        max_running: int,
        spare_step_tokens: int,
        n_slots: int,
        *,
        with_disk: bool,
        max_call_steps: int,
        batching: BatchingPolicy,
        token_s: float,
    ) -> None:
        self.n_slots = n_slots
        self.with_disk = with_disk
        self.files: dict[bytes, bytes] = {}
        self.limits = (kv_blocks, max_running, 6, 10_000, spare_step_tokens)
        self.token_s = token_s
        self.begin(*self.limits, max_call_steps=max_call_steps, batching=batching, token_s=token_s)

    @rule(n=st.integers(1, 4))
    def disk_answers(self, n: int) -> None:
        assert self.loop.tiers is not None
        self.loop.tiers.settle(n)

    @rule(n=st.integers(1, 2))
    def disk_loses(self, n: int) -> None:
        assert self.loop.tiers is not None
        self.loop.tiers.n_lost += n

    @precondition(lambda self: self.with_disk)
    @rule(broken=st.booleans())
    def disk_fails(self, *, broken: bool) -> None:
        assert self.loop.tiers is not None
        self.loop.tiers.broken = broken
        if not broken:
            self.books.writing = True

    @rule(prefix=st.sampled_from(["p", "q"]), n_tokens=st.sampled_from([15, 16, 33, 48, 64]))
    def pin(self, prefix: str, n_tokens: int) -> None:
        request = make_request(
            str(self.n_submitted), prompt=make_tokens(prefix, n_tokens), max_tokens=1, hold=True
        )
        self.n_submitted += 1
        try:
            self.loop.submit(request)
        except (InvalidRequestError, QueueFullError):
            return
        self.expectations.admit(request, self.loop.clock())

    @precondition(lambda self: not self.live and self.plan is None)
    @rule()
    def restart(self) -> None:
        """The files alone are left."""
        n_submitted = self.n_submitted
        self.begin(
            *self.limits,
            max_call_steps=self.max_call_steps,
            batching=self.batching,
            token_s=self.token_s,
        )
        self.n_submitted = n_submitted

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "loop") and self.loop.tiers is not None:
            self.loop.tiers.settle()
            self.loop.scheduler.check()
            assert self.books.n_coming == 0


_SETTINGS = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
SchedulerMachine.TestCase.settings = _SETTINGS
TieredMachine.TestCase.settings = _SETTINGS
TestScheduler = SchedulerMachine.TestCase
TestTieredScheduler = TieredMachine.TestCase
