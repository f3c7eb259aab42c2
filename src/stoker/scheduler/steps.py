"""How many decode steps one engine call takes.

A call costs time beside what it computes: the plan becomes arrays, the result events and a frame, gateway
and client wake up. Several steps in a call share it. The tokens are the same but come in groups; so a call is
kept short, and of one step whenever somebody waits for its end: in the queue, for others to compute or the
disk to bring a prefix, or with a prompt to compute.
"""

from dataclasses import dataclass

from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.kvcache import KVCache, blocks_for
from stoker.scheduler.budget import StepBudget
from stoker.scheduler.sequence import SequenceState


@dataclass(slots=True)
class StepInFlight:
    """A call that was planned and not committed yet.

    Attributes:
        plan: What is computed.
        rows: The sequence of each of its rows.
        budget: That of its first step.
        started: When it was planned, on the caller's clock.
        since: When the call before ended; when this one was planned if there was none.
        on_trial: Its drafts are not expected to pay.
    """

    plan: StepPlan
    rows: list[SequenceState]
    budget: StepBudget
    started: float
    since: float
    on_trial: bool = False


@dataclass(slots=True)
class CallPace:
    """How long a step takes: as long as those of the call before.

    A sequence joins by a call that computes its prompt, after which a single step shows the new pace.

    Attributes:
        step_seconds: Time of one step of the latest call.
    """

    step_seconds: float = float("inf")

    def record(self, seconds: float, n_steps: int) -> None:
        """Note how long a call has taken."""
        self.step_seconds = seconds / n_steps

    def steps_within(self, seconds: float, most: int) -> int:
        """Return how many steps, from 1 to `most`, are expected to end in time."""
        if self.step_seconds * most <= seconds:
            return most
        return max(1, int(seconds / self.step_seconds))


def look_ahead(plan: StepPlan, rows: list[SequenceState], cache: KVCache, most: int) -> None:
    """Let a plan that only decodes take up to `most` steps, and give its sequences the blocks for that.

    There are fewer where a sequence would reach its end, where the tokens that it must not choose change, or
    where blocks are short: nobody is preempted for steps that can as well be taken in the next call.

    Args:
        plan: A plan of one step.
        rows: The sequence of each of its rows; their tables have room for all their tokens.
        cache: Where blocks come from.
        most: Most steps.
    """
    if plan.scoring or plan.pooling or not all(plan.samples) or any(len(run) > 1 for run in plan.tokens):
        return
    n_steps = min(most, *[steps_alike(sequence) for sequence in rows])
    while n_steps > 1 and sum(_missing(sequence, n_steps) for sequence in rows) > cache.n_available:
        n_steps -= 1
    if n_steps <= 1:
        return
    for sequence in rows:
        for _ in range(_missing(sequence, n_steps)):
            if (block := cache.allocate()) is not None:  # there are enough, and nobody else takes any
                sequence.table.append(block)
    plan.n_steps = n_steps
    plan.stop_token_ids = [sequence.stop_token_ids for sequence in rows]


def steps_alike(sequence: SequenceState) -> int:
    """Return how many tokens can be chosen by the rules of the next one."""
    if len(sequence.tokens) < sequence.single_until:
        return 1
    n_left = sequence.max_total - len(sequence.tokens)
    edits = sequence.edits
    if edits is not None and edits.constraint is not None:  # what may follow is known only after each token
        return 1
    n_banned = 0 if edits is None else edits.n_banned_steps
    return min(n_left, n_banned or n_left)


def _missing(sequence: SequenceState, n_steps: int) -> int:
    """Return how many blocks `n_steps` need beyond the table: all but the last sampled token are computed."""
    n_tokens = len(sequence.tokens) + n_steps - 1
    return blocks_for(n_tokens) - len(sequence.table) if n_tokens > len(sequence.table) * BLOCK_TOKENS else 0
