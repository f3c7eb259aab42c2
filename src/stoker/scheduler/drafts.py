"""Drafts behind the tokens of a plan that only decodes."""

from collections.abc import Callable, Mapping

from stoker.core.drafting import MAX_DRAFT_TOKENS, Drafter, DraftSeat
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.kvcache import KVCache, blocks_for
from stoker.scheduler.budget import StepBudget
from stoker.scheduler.pace import Pace
from stoker.scheduler.sequence import SequenceState
from stoker.scheduler.steps import StepInFlight, steps_alike


def draft_seats(rows: list[SequenceState]) -> list[DraftSeat]:
    """Return the sequences of a plan whose next tokens are chosen by rules that are known now."""
    seats = []
    for row, sequence in enumerate(rows):
        most = min(MAX_DRAFT_TOKENS, steps_alike(sequence) - 1)
        if most > 0:
            seats.append(DraftSeat(row, sequence, most))
    return seats


def speculate(
    step: StepInFlight, drafter: Drafter, cache: KVCache, pace: Pace, save_evicted: Callable[[], object]
) -> None:
    """Ask for drafts and put them into the plan of a step.

    Args:
        step: The step, before it is computed.
        drafter: Guesses how sequences go on.
        cache: Where blocks come from.
        pace: Predicts what the step takes.
        save_evicted: Copies blocks out that were evicted for guesses, before these are computed.
    """
    plan, rows, budget = step.plan, step.rows, step.budget
    if not budget.decodes_only or plan.pooling or not (seats := draft_seats(rows)):
        return
    costs = pace.draft_costs(budget)
    computes = drafter.needs_blocks(costs)
    if computes:
        seats = reserve(seats, rows, cache)
        save_evicted()
    drafts = drafter.draft(plan, seats, costs)
    step.on_trial = drafts.on_trial
    add_drafts(plan, rows, drafts.tokens, cache, budget)
    save_evicted()
    if computes:
        give_back_unused(plan, seats, rows, cache)


def reserve(seats: list[DraftSeat], rows: list[SequenceState], cache: KVCache) -> list[DraftSeat]:
    """Give sequences the blocks that guesses are computed into, and return seats for as many as they hold.

    Args:
        seats: Sequences that may have a draft.
        rows: The sequence of each row of the plan.
        cache: Where blocks come from.
    """
    return [
        DraftSeat(seat.row, seat.sequence, most)
        for seat in seats
        if (most := _extend(rows[seat.row], seat.most, cache)) > 0
    ]


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
        n_tokens = _extend(sequence, _n_usable(sequence, draft[: budget.n_left]), cache)
        if n_tokens > 0:
            plan.tokens[row] = [*plan.tokens[row], *draft[:n_tokens]]
            plan.drafts[row] = n_tokens
            budget.add_draft(len(sequence.tokens), n_tokens)
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
        _shorten(rows[row], len(rows[row].tokens), cache)


def give_back_unused(
    plan: StepPlan, seats: list[DraftSeat], rows: list[SequenceState], cache: KVCache
) -> None:
    """Release what was reserved for guesses and has no draft now.

    Args:
        plan: The plan with its drafts.
        seats: The sequences for which blocks were reserved.
        rows: The sequence of each row of the plan.
        cache: Where blocks go back to.
    """
    for seat in seats:
        if seat.row not in plan.drafts:
            sequence = rows[seat.row]
            _shorten(sequence, len(sequence.tokens) + plan.n_steps - 1, cache)


def _extend(sequence: SequenceState, n_more: int, cache: KVCache) -> int:
    """Return for how many tokens behind those of a sequence it has, or gets, blocks: `n_more` at most."""
    table = sequence.table
    n_known = len(sequence.tokens)
    for _ in range(blocks_for(n_known + n_more) - len(table)):
        if (block := cache.allocate()) is None:
            break
        table.append(block)
    return min(n_more, len(table) * BLOCK_TOKENS - n_known)


def _shorten(sequence: SequenceState, n_tokens: int, cache: KVCache) -> None:
    """Release the blocks of a sequence beyond those for so many tokens."""
    n_blocks = blocks_for(n_tokens)
    cache.release(sequence.table[n_blocks:])
    del sequence.table[n_blocks:]


def _n_usable(sequence: SequenceState, draft: list[int]) -> int:
    """Return how many tokens of a draft come before one that ends the sequence."""
    stops = sequence.stop_token_ids
    if not stops.isdisjoint(draft):
        return next(i for i, token in enumerate(draft) if token in stops)
    return len(draft)
