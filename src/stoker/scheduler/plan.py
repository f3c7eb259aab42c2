"""From the running sequences to the plan of one step."""

from typing import NamedTuple

from stoker.core.pooling import PoolRun
from stoker.core.step import BLOCK_TOKENS, PromptScoring, StepPlan
from stoker.kvcache import KVCache, Parent
from stoker.scheduler.budget import StepBudget
from stoker.scheduler.preempt import preempt_last
from stoker.scheduler.queue import SequenceQueue
from stoker.scheduler.restore import Restorer
from stoker.scheduler.sequence import SequenceState
from stoker.scheduler.waiting import WaitingQueue


def grow_tables(running: SequenceQueue, waiting: WaitingQueue, cache: KVCache) -> int:
    """Give each running sequence blocks for all its tokens, those before in order first.

    Returns:
        How many sequences were preempted for it.
    """
    n_preempted = 0
    # Preemption takes from the end of the list, which ends this loop early and nothing else.
    for sequence in running.items:
        while len(sequence.tokens) > len(sequence.table) * BLOCK_TOKENS:
            block = cache.allocate()
            if block is not None:
                sequence.table.append(block)
                continue
            preempted_itself = running.items[-1] is sequence
            preempt_last(running, waiting, cache)
            n_preempted += 1
            if preempted_itself:
                break
    return n_preempted


class _Sources(NamedTuple):
    """Where a step's chunks take tokens from, and blocks that need not be computed."""

    cache: KVCache
    budget: StepBudget
    restorer: Restorer


def build_plan(
    running: list[SequenceState], cache: KVCache, budget: StepBudget, restorer: Restorer
) -> tuple[StepPlan, list[SequenceState]]:
    """Plan one token for each decode, then chunks of prompts while the step's budget lasts.

    A prompt whose next full block is being computed in this very step, for another sequence, waits for
    it. So of several equal prompts that arrive together only one is computed, but for a last block.

    Args:
        running: The running sequences in order; their tables have room for all their tokens.
        cache: Where another sequence may have published what this one still has to compute.
        budget: What is left of the step beside the decodes; what is planned is taken from it.
        restorer: Restores prefixes from the tiers below the cache; who waits for that is not planned.

    Returns:
        The plan, which may be empty if all wait for the disk, and the sequence of each of its rows. Block
        tables and logit edits are shared with the sequences, not copied.
    """
    rows = [sequence for sequence in running if len(sequence.tokens) - sequence.n_computed == 1]
    plan = StepPlan(
        request_ids=[sequence.request_id for sequence in rows],
        tokens=[sequence.tokens[-1:] for sequence in rows],
        first_positions=[sequence.n_computed for sequence in rows],
        block_tables=[sequence.table for sequence in rows],
        samples=[sequence.wants_token for sequence in rows],
        sampling=[sequence.sampling for sequence in rows],
    )
    if len(rows) < len(running):
        _add_chunks(plan, rows, running, _Sources(cache, budget, restorer))
    plan.edits = {
        row: edits
        for row, sequence in enumerate(rows)
        if (edits := sequence.edits) is not None and plan.samples[row]
    }
    plan.scoring = {
        row: scoring
        for row, sequence in enumerate(rows)
        if sequence.wants_scores and (scoring := _scoring(sequence, plan.tokens[row])) is not None
    }
    plan.pooling = {
        row: run
        for row, sequence in enumerate(rows)
        if sequence.pool is not None and (run := _pool_run(sequence, plan.tokens[row])) is not None
    }
    plan.adapters = {
        row: digest for row, sequence in enumerate(rows) if (digest := sequence.namespace.adapter)
    }
    return plan, rows


def _add_chunks(
    plan: StepPlan,
    rows: list[SequenceState],
    running: list[SequenceState],
    sources: _Sources,
) -> None:
    in_work: set[tuple[Parent, tuple[int, ...]]] = set()
    for sequence in running:
        tokens = sequence.tokens
        if len(tokens) - sequence.n_computed == 1:
            continue
        if sources.budget.n_left == 0:
            return
        _skip_published(sequence, sources.cache)
        if sources.restorer.fill(sequence, others=bool(rows)):
            continue
        block_end = (sequence.n_published + 1) * BLOCK_TOKENS
        block = (sequence.parent, tuple(tokens[block_end - BLOCK_TOKENS : block_end]))
        if block_end <= sequence.n_shareable and block in in_work:
            continue
        if block_end <= len(tokens):
            in_work.add(block)
        start = sequence.n_computed
        scored_from = sequence.n_scored if sequence.wants_scores else None
        end = start + sources.budget.take(start, len(tokens) - start, scored_from=scored_from)
        if end == start:
            return
        sequence.begun = True
        rows.append(sequence)
        plan.request_ids.append(sequence.request_id)
        plan.tokens.append(tokens[start:end])
        plan.first_positions.append(start)
        plan.block_tables.append(sequence.table)
        plan.samples.append(end == len(tokens) and sequence.wants_token)
        plan.sampling.append(sequence.sampling)


def _pool_run(sequence: SequenceState, run: list[int]) -> PoolRun | None:
    pool = sequence.pool
    return None if pool is None else pool.run(sequence.n_computed, sequence.n_computed + len(run))


def _scoring(sequence: SequenceState, run: list[int]) -> PromptScoring | None:
    """Return what to score after the tokens of a run; None for nothing."""
    start = sequence.n_computed
    first, end = sequence.n_scored, min(start + len(run), sequence.n_to_score)
    if end <= first:
        return None
    if not sequence.candidates:
        targets = sequence.tokens[first + 1 : end + 1]
        return PromptScoring(range(first - start, end - start), targets, sequence.n_top)
    n_before = sequence.n_prompt - len(sequence.candidates)
    wanted = sequence.candidates[first - n_before : end - n_before]
    rows = [row for row, tokens in enumerate(wanted, first - start) for _ in tokens]
    return PromptScoring(rows, [token for tokens in wanted for token in tokens], sequence.n_top)


def _skip_published(sequence: SequenceState, cache: KVCache) -> None:
    """Jump over blocks that another sequence has computed since this one was admitted."""
    tokens = sequence.tokens
    start = sequence.n_published * BLOCK_TOKENS
    while (end := start + BLOCK_TOKENS) <= sequence.n_shareable:
        own = sequence.table[sequence.n_published]
        published = cache.exchange(sequence.parent, tokens[start:end], own)
        if published is None:
            return
        sequence.table[sequence.n_published] = published
        sequence.n_published += 1
        sequence.n_computed = start = end
