"""Chooses each step's budget, and learns from what the steps took."""

from collections.abc import Iterable
from math import inf

from stoker.core.batching import BatchingPolicy
from stoker.core.drafting import DraftCosts
from stoker.core.work import ModelWork, StepWork
from stoker.scheduler.budget import StepBudget
from stoker.scheduler.cost import CostModel
from stoker.scheduler.counters import Counters
from stoker.scheduler.draft_costs import DraftPace
from stoker.scheduler.quantile import LatestQuantile
from stoker.scheduler.sequence import SequenceState
from stoker.scheduler.steps import CallPace

HELD_SHARE = 0.95
"""Share of a stream's tokens that come within the target."""

RATIOS = 256
"""Over so many of the latest steps the error of predictions is looked at."""

LEAST_RATIOS = 20
FIRST_RATIO = 1.25
"""Taken for the error before there are `LEAST_RATIOS`."""

LEAST_RATIO, MOST_RATIO = 0.5, 4.0
"""Bounds of the correction; beyond them something else is wrong than the prediction."""


class Pace:
    """Keeps steps within the time that streams are to have from token to token.

    A step's time is predicted by a `CostModel`. The prediction is a mean, so what a step may be predicted
    to take is the target divided by the 95 % quantile of measured to predicted time. Only steps that had
    streams and prompts count for that: their size was chosen by it.

    Args:
        policy: How a step is filled.
        max_step_tokens: Most tokens in a step.
        model: Operations and bytes of the model.
        counters: Where steps are counted.

    Attributes:
        policy: As given; may be replaced between any two steps.
        n_budget: Tokens that the latest step might have had; set by whoever plans it.
    """

    __slots__ = (
        "_calls",
        "_costs",
        "_counters",
        "_drafts",
        "_max_step_tokens",
        "_ratios",
        "n_budget",
        "policy",
    )

    def __init__(
        self, policy: BatchingPolicy, *, max_step_tokens: int, model: ModelWork, counters: Counters
    ) -> None:
        self.policy = policy
        self._max_step_tokens = max_step_tokens
        self._counters = counters
        self._costs = CostModel(model)
        self._calls = CallPace()
        self._drafts = DraftPace(model)
        self._ratios = LatestQuantile(HELD_SHARE, size=RATIOS, at_first=FIRST_RATIO, least=LEAST_RATIOS)
        self.n_budget = max_step_tokens

    @property
    def ratio(self) -> float:
        """By how much a step may exceed its prediction: the correction that is in use."""
        return max(LEAST_RATIO, min(MOST_RATIO, self._ratios.value))

    def budget(self, running: Iterable[SequenceState]) -> StepBudget:
        """Return the budget of the next step, its decodes already counted."""
        n_decodes = n_context = 0
        for sequence in running:
            n_tokens = len(sequence.tokens)
            if n_tokens - sequence.n_computed == 1:
                n_decodes += 1
                n_context += n_tokens
        work = StepWork(n_decodes, n_context, n_context, n_decodes)
        return StepBudget(work, self._max_step_tokens, self._prompt_seconds(work), self._costs)

    def _prompt_seconds(self, decodes: StepWork) -> float | None:
        """Return how long a step beside these decodes may compute prompts; None for no limit."""
        policy = self.policy
        if policy.mode != "latency" or decodes.rows == 0:
            return None
        decode_s = self._costs.predict(decodes)
        least_s = decode_s * policy.prefill_share / (1 - policy.prefill_share)
        return max(least_s, policy.itl_target_s / self.ratio - decode_s)

    def call_steps(self, most: int, most_s: float) -> int:
        """Return how many decode steps the next call may have.

        A call's tokens arrive together, so a stream that has a target waits for the whole call.

        Args:
            most: Most steps.
            most_s: Longest that a call of several steps is meant to take.
        """
        policy = self.policy
        if policy.mode == "latency":
            most_s = min(most_s, policy.itl_target_s / self.ratio)
        return self._calls.steps_within(most_s, most)

    def draft_costs(self, budget: StepBudget) -> DraftCosts:
        """Return what a step of this budget, which has only decodes, takes with and without drafts."""
        policy = self.policy
        most_s = policy.itl_target_s / self.ratio if policy.mode == "latency" else inf
        return self._drafts.costs(budget.work, most_s)

    def record(
        self,
        budget: StepBudget,
        seconds: float,
        *,
        n_steps: int = 1,
        moved_s: float = 0.0,
        drafting_s: float = 0.0,
        n_reused: int = 0,
        n_accepted: int = 0,
        on_trial: bool = False,
    ) -> None:
        """Learn from a call.

        Args:
            budget: That of its first step.
            seconds: From the end of the call before, or from when it was planned if there was none, to
                its end: what a stream waited for its tokens.
            n_steps: Steps that it took.
            moved_s: How much of that blocks were copied to and from the tiers, which nobody predicts.
            drafting_s: How much of that drafts were made.
            n_reused: Tokens that were planned and not computed, since the engine had them.
            n_accepted: Tokens of drafts that were right.
            on_trial: Drafts were not expected to pay.
        """
        computed_s = seconds - moved_s - drafting_s
        if computed_s <= 0:
            return
        step_s = computed_s / n_steps
        self._calls.record(computed_s, n_steps)
        work = budget.work
        work.rows = max(0, work.rows - n_reused)
        if n_steps > 1:  # each step reads a token more of every sequence: the mean step
            n_more = work.rows * (n_steps - 1) // 2
            work.pairs += n_more
            work.reads += n_more
        if budget.n_drafted:
            self._drafts.observe_drafted(
                work,
                step_s,
                drafting_s=drafting_s,
                n_drafted=budget.n_drafted,
                n_accepted=n_accepted,
                on_trial=on_trial,
            )
        elif budget.decodes_only:
            self._drafts.observe_plain(work, step_s, alone=n_steps == 1)
        predicted_s = self._costs.observe(work, step_s)
        counters = self._counters
        counters.interval_seconds += computed_s
        counters.predicted_seconds += predicted_s * n_steps
        if budget.n_streams:
            counters.streaming_steps += n_steps
            counters.late_steps += seconds > self.policy.itl_target_s
            if not budget.decodes_only:
                self._ratios.add(step_s / predicted_s)
