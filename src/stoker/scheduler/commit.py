"""From the result of one step to events."""

from stoker.core.errors import EngineError
from stoker.core.grammar import Constraint
from stoker.core.step import BLOCK_TOKENS, StepPlan, StepResult
from stoker.core.tokens import FinishReason, TokensEvent
from stoker.kvcache import KVCache
from stoker.scheduler.sequence import SequenceState


def validate_result(plan: StepPlan, result: StepResult) -> None:
    """Refuse a result that does not answer the plan.

    Raises:
        EngineError: A row is missing, or tokens were sampled or scored where none were asked for or the
            reverse.
    """
    wanted = {row: len(scoring.targets) for row, scoring in plan.scoring.items()}
    scored = {row: len(scores) for row, scores in result.scores.items()}
    if scored != wanted:
        raise EngineError(f"a step that scores {wanted} tokens by row returned {scored}; report this bug")
    if result.sums.keys() != plan.pooling.keys():
        raise EngineError(
            f"a step that pools the rows {list(plan.pooling)} returned sums of {list(result.sums)}; "
            "report this bug"
        )
    n_sampled = [len(run) for run in result.token_ids]
    if plan.drafts:
        _validate_drafts(plan, result)
        for row in plan.drafts:
            n_sampled[row] = 1
    n_steps = max(n_sampled, default=0) if True in plan.samples else 1
    if (
        len(result.logprobs) != len(plan.samples)
        or n_sampled != [n_steps if samples else 0 for samples in plan.samples]
        or not 1 <= n_steps <= plan.n_steps
    ):
        raise EngineError(
            f"a call of at most {plan.n_steps} steps of {len(plan.samples)} sequences with "
            f"samples={plan.samples} returned token_ids={result.token_ids} and {len(result.logprobs)} rows "
            "of logprobs; report this bug"
        )


def _validate_drafts(plan: StepPlan, result: StepResult) -> None:
    """Refuse samples that go on after a guess that was wrong, or that are none at all."""
    for row, n_draft in plan.drafts.items():
        sampled = result.token_ids[row]
        draft = plan.tokens[row][-n_draft:]
        if not 1 <= len(sampled) <= n_draft + 1 or sampled[:-1] != draft[: len(sampled) - 1]:
            raise EngineError(f"a step with the draft {draft} returned the tokens {sampled}; report this bug")


def apply_result(
    plan: StepPlan, rows: list[SequenceState], result: StepResult, cache: KVCache
) -> tuple[list[TokensEvent], list[SequenceState], int]:
    """Count the plan's tokens as computed, append what was sampled and publish the blocks that are full.

    What a grammar forces to follow is appended, too; it is computed by later steps, as a prompt is.

    Args:
        plan: What was computed.
        rows: The sequence of each row; aborted ones are passed over.
        result: What was sampled; validated.
        cache: Where full blocks are published.

    Returns:
        One event per sequence with sampled tokens or scores; the sequences that ended, of which what is
        held does not say so; and how many tokens grammars have forced.

    Raises:
        EngineError: A sequence goes on after a token that ends it.
    """
    events: list[TokensEvent] = []
    ended: list[SequenceState] = []
    n_all_forced = 0
    for row, (sequence, run, sampled, logprobs) in enumerate(
        zip(rows, plan.tokens, result.token_ids, result.logprobs, strict=True)
    ):
        if sequence.aborted:
            continue
        scores = result.scores.get(row)
        if scores is not None:
            sequence.n_scored = sequence.n_computed + plan.scoring[row].rows[-1] + 1
        # Of the tokens sampled, all but the last have been computed, too; of a draft, those that were right.
        n_run = len(run) - plan.drafts.get(row, 0)
        n_computed = sequence.n_computed = sequence.n_computed + n_run + max(0, len(sampled) - 1)
        if sequence.pool is not None and (sums := result.sums.get(row)) is not None:
            sequence.pool.take(sums, n_computed)
        reason, forced = _append(sequence, sampled) if sampled else (None, [])
        n_all_forced += len(forced)
        if n_computed >= (sequence.n_published + 1) * BLOCK_TOKENS:
            _publish_full(sequence, cache)
        if not sampled:
            if n_computed == sequence.max_total:  # scored or pooled, and nothing is to be sampled
                reason = FinishReason.LENGTH
            elif scores is None:
                continue
        if reason is not None:
            ended.append(sequence)
        events.append(
            TokensEvent(
                sequence.request_id,
                (*sampled, *forced),
                tuple(logprobs),
                sequence.n_cached or 0,
                None if sequence.hold else reason,
                scores,
                sequence.pool.embedding() if sequence.pool is not None and reason is not None else None,
            )
        )
    return events, ended, n_all_forced


def count_reused(rows: list[SequenceState], result: StepResult) -> int:
    """Count as cached what the engine had by itself of prompts, and return how much that is."""
    n_reused = 0
    for row, n_tokens in result.reused.items():
        sequence = rows[row]
        n_cached = sequence.n_cached or 0
        if len(sequence.tokens) == sequence.n_prompt and not sequence.aborted:
            sequence.n_cached = min(n_cached + n_tokens, sequence.n_prompt - 1)
            n_reused += sequence.n_cached - n_cached
    return n_reused


def _append(sequence: SequenceState, sampled: list[int]) -> tuple[FinishReason | None, list[int]]:
    """Append sampled tokens and what has to follow them.

    Returns:
        Why the sequence ends with the last token, if it does, and the tokens that had to follow.
    """
    stops = sequence.stop_token_ids
    if len(sampled) > 1 and not stops.isdisjoint(sampled[:-1]):
        raise EngineError(
            f"an engine call went on after an end token of {sequence.request_id!r}: {sampled}; "
            "report this bug"
        )
    forced: list[int] = []
    tokens = sequence.tokens
    tokens += sampled
    edits = sequence.edits
    complete = False
    if edits is not None:
        edits.history.extend(sampled)
        if (constraint := edits.constraint) is not None:
            complete = constraint.advance(sampled)
            if not complete and tokens[-1] not in stops:
                forced = _force(constraint, stops, sequence.max_total - len(tokens))
                complete = bool(forced) and constraint.complete
                tokens += forced
                edits.history.extend(forced)
    if complete or tokens[-1] in stops:
        return FinishReason.STOP, forced
    return FinishReason.LENGTH if len(tokens) == sequence.max_total else None, forced


def _force(constraint: Constraint, stops: frozenset[int], most: int) -> list[int]:
    """Return the tokens that have to follow, up to one that ends the sequence."""
    forced = list(constraint.force(most))
    if stops.isdisjoint(forced):
        return forced
    return forced[: next(index for index, token in enumerate(forced) if token in stops) + 1]


def _publish_full(sequence: SequenceState, cache: KVCache) -> None:
    table = sequence.table
    parent = sequence.parent
    for i in range(sequence.n_published, sequence.n_computed // BLOCK_TOKENS):
        start = i * BLOCK_TOKENS
        parent = cache.publish(parent, sequence.tokens[start : start + BLOCK_TOKENS], table[i])
        table[i] = parent
    sequence.n_published = sequence.n_computed // BLOCK_TOKENS
