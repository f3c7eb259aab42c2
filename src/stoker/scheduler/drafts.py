"""Drafts behind the tokens of a plan that only decodes."""

from collections.abc import Mapping

from stoker.core.drafting import MAX_DRAFT_TOKENS, DraftSeat
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.kvcache import KVCache, blocks_for
from stoker.scheduler.budget import StepBudget
from stoker.scheduler.sequence import SequenceState
from stoker.scheduler.steps import steps_alike


def draft_seats(rows: list[SequenceState]) -> list[DraftSeat]:
    """Return the sequences of a plan whose next tokens are chosen by rules that are known now."""
    seats = []
    for row, sequence in enumerate(rows):
        most = min(MAX_DRAFT_TOKENS, steps_alike(sequence) - 1)
        if most > 0:
            seats.append(DraftSeat(row, sequence, most))
    return seats


def add_drafts(
    plan: StepPlan,
    rows: list[SequenceState],
    drafts: Mapping[int, list[int]],
    cache: KVCache,
    budget: StepBudget,
) -> None:
    """Put drafts behind the runs of a plan, which takes one step then.

    They are cut before a token that would end the sequence, and where the step's tokens or the KV blocks are
    all held: nobody is preempted for a guess.

    Args:
        plan: A plan that only decodes.
        rows: The sequence of each of its rows.
        drafts: By row, of at most so many tokens as the row's seat says.
        cache: Where blocks come from.
        budget: That of the step.
    """
    for row, draft in drafts.items():
        sequence = rows[row]
        n_tokens = _n_usable(sequence, draft[: budget.n_left])
        table = sequence.table
        n_known = len(sequence.tokens)
        for _ in range(blocks_for(n_known + n_tokens) - len(table)):
            if (block := cache.allocate()) is None:
                break
            table.append(block)
        n_tokens = min(n_tokens, len(table) * BLOCK_TOKENS - n_known)
        if n_tokens > 0:
            plan.tokens[row] = [*plan.tokens[row], *draft[:n_tokens]]
            plan.drafts[row] = n_tokens
            budget.add_draft(n_known, n_tokens)
    if plan.drafts:
        plan.n_steps = 1
        plan.stop_token_ids = []


def give_back(plan: StepPlan, rows: list[SequenceState], cache: KVCache) -> None:
    """Release what wrong drafts had: the blocks behind the tokens that their sequences have now.

    Args:
        plan: What was computed, and counted.
        rows: The sequence of each of its rows.
        cache: Where blocks go back to.
    """
    for row in plan.drafts:
        sequence = rows[row]
        n_blocks = blocks_for(len(sequence.tokens))
        cache.release(sequence.table[n_blocks:])
        del sequence.table[n_blocks:]


def _n_usable(sequence: SequenceState, draft: list[int]) -> int:
    """Return how many tokens of a draft come before one that ends the sequence."""
    stops = sequence.stop_token_ids
    if not stops.isdisjoint(draft):
        return next(i for i, token in enumerate(draft) if token in stops)
    return len(draft)
