"""A scheduler driven by a fake engine and a fake clock, as the worker process drives the real ones."""

from collections.abc import Callable

from stoker.core.batching import BatchingPolicy
from stoker.core.drafting import Drafter
from stoker.core.errors import DeadlineError, QueueTimeoutError
from stoker.core.step import StepPlan
from stoker.core.tokens import FinishReason, TokenLogprob, TokenRequest, TokensEvent
from stoker.kvcache import TierBooks
from stoker.scheduler import Scheduler, SchedulerLimits
from stoker.testing.clock import FakeClock
from stoker.testing.forcing import constraint_of
from stoker.testing.kv_tiers import FakeTiers
from stoker.testing.step_engine import FakeStepEngine

STEP_S = 0.005
"""What each step takes on the loop's clock."""


class SchedulerLoop:
    """Submits, steps and keeps what came out; every invariant is checked after every call.

    Args:
        kv_blocks: KV blocks of the fake engine.
        context_length, max_running, max_waiting, max_waiting_tokens, max_step_tokens, max_call_steps,
            max_call_s: As in `SchedulerLimits`.
        batching: How steps are filled.
        step_time: What a step takes on the loop's clock, in seconds.
        max_pinned_blocks, max_restored_blocks: As there.
        tiers: Books of the tiers below the KV cache; None for none.
        files: What is on disk in the beginning.
        drafter: Guesses next tokens; None for nobody.

    Attributes:
        clock: The time that the scheduler is told.
        engine: What computes its plans.
        scheduler: The scheduler under test.
        tiers: Moves blocks, if there are tiers; its disk answers when `settle` is called.
        tokens: Output of each request so far, by id.
        scores: Scores of each request's prompt so far, by id.
        finished: Why each request that ended did so, by id.
        expired: Requests that were given up at a time limit, by id.
        events: Every event, in order.
        plans: Every plan, in order.
        drafter: As given; may be replaced between any two steps.
    """

    def __init__(
        self,
        *,
        kv_blocks: int = 64,
        context_length: int = 1024,
        max_running: int = 8,
        max_waiting: int = 16,
        max_waiting_tokens: int = 2**20,
        max_step_tokens: int = 64,
        max_call_steps: int = 1,
        max_call_s: float = 1.0,
        batching: BatchingPolicy | None = None,
        step_time: Callable[[StepPlan], float] = lambda _: STEP_S,
        max_pinned_blocks: int = 0,
        max_restored_blocks: int = 32,
        tiers: TierBooks | None = None,
        files: dict[bytes, bytes] | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.engine = FakeStepEngine(kv_blocks)
        limits = SchedulerLimits(
            context_length=context_length,
            max_running=max_running,
            max_waiting=max_waiting,
            max_waiting_tokens=max_waiting_tokens,
            max_step_tokens=max_step_tokens,
            max_call_steps=max_call_steps,
            max_call_s=max_call_s,
            max_pinned_blocks=max_pinned_blocks,
            max_restored_blocks=max_restored_blocks,
        )
        self.scheduler = Scheduler(
            limits, kv_blocks, root=self.engine.fingerprint, batching=batching, tiers=tiers
        )
        self._step_time = step_time
        self.drafter = drafter
        self.tiers = None if tiers is None else FakeTiers(self.engine, tiers, files)
        self.tokens: dict[str, list[int]] = {}
        self.scores: dict[str, list[TokenLogprob]] = {}
        self.finished: dict[str, FinishReason] = {}
        self.expired: dict[str, QueueTimeoutError | DeadlineError] = {}
        self.events: list[TokensEvent] = []
        self.plans: list[StepPlan] = []

    def submit(self, *requests: TokenRequest) -> None:
        """Submit requests at the present time."""
        for request in requests:
            self.scheduler.submit(request, self.clock(), constraint_of(request))
            self.scheduler.check()

    def abort(self, request_id: str) -> bool:
        """Abort a request."""
        known = self.scheduler.abort(request_id)
        self.scheduler.check()
        return known

    def expire(self) -> None:
        """Give up what has no time left; may be called at any time, as `abort`."""
        self.expired.update((each.request_id, each.error) for each in self.scheduler.expire(self.clock()))
        self.scheduler.check()

    def schedule(self) -> StepPlan | None:
        """Schedule a step, to be given to `commit`; None when there is nothing to do."""
        self.expire()
        plan = self.scheduler.schedule(self.clock())
        self.scheduler.check()
        if self.tiers is not None:
            self.tiers.move()
            self.scheduler.check()
        if plan is not None:
            if self.drafter is not None:
                if self.tiers is None:
                    self.scheduler.speculate(plan, self.drafter)
                else:
                    self.scheduler.speculate(plan, self.drafter, self.tiers.move)
                self.scheduler.check()
            self.plans.append(plan)
        return plan

    def commit(self, plan: StepPlan) -> list[TokensEvent]:
        """Compute a plan and commit its result."""
        result = self.engine.forward(plan)
        n_steps = 1 if plan.drafts else max(1, *map(len, result.token_ids))
        seconds = n_steps * self._step_time(plan)
        events = self.scheduler.commit(plan, result, self.clock.advance(seconds))
        self.scheduler.check()
        for event in events:
            self.tokens.setdefault(event.request_id, []).extend(event.token_ids)
            self.scores.setdefault(event.request_id, []).extend(event.prompt_scores or ())
            if event.finish_reason is not None:
                self.finished[event.request_id] = event.finish_reason
        self.events.extend(events)
        return events

    def step(self) -> list[TokensEvent] | None:
        """Schedule, compute and commit one step; None when there is nothing to do."""
        plan = self.schedule()
        return None if plan is None else self.commit(plan)

    def run(self, max_steps: int = 10_000) -> None:
        """Step until there is nothing to do; the disk answers after each step.

        Raises:
            RuntimeError: There still was after `max_steps` steps.
        """
        for _ in range(max_steps):
            if self.tiers is not None:
                self.tiers.settle()
            if self.step() is not None:
                continue
            wake_at = self.scheduler.wake_at
            if wake_at is None:
                return
            if self.tiers is None:
                self.clock.advance(max(0.0, wake_at - self.clock()))
        raise RuntimeError(f"the scheduler still has work after {max_steps} steps")
