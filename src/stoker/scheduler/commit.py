"""From the result of one step to events."""

from stoker.core.errors import EngineError
from stoker.core.step import BLOCK_TOKENS, StepPlan, StepResult
from stoker.core.tokens import FinishReason, TokensEvent
from stoker.kvcache import KVCache
from stoker.scheduler.sequence import SequenceState


def validate_result(plan: StepPlan, result: StepResult) -> None:
    """Refuse a result that does not answer the plan.

    Raises:
        EngineError: A row is missing, or a token was sampled or scored where none was asked for or the
            reverse.
    """
    wanted = {row: len(scoring.targets) for row, scoring in plan.scoring.items()}
    scored = {row: len(scores) for row, scores in result.scores.items()}
    if scored != wanted:
        raise EngineError(f"a step that scores {wanted} tokens by row returned {scored}; report this bug")
    if len(result.logprobs) != len(plan.samples) or plan.samples != [
        token >= 0 for token in result.token_ids
    ]:
        raise EngineError(
            f"a step of {len(plan.samples)} sequences with samples={plan.samples} returned "
            f"token_ids={result.token_ids} and {len(result.logprobs)} logprobs; report this bug"
        )


def apply_result(
    plan: StepPlan, rows: list[SequenceState], result: StepResult, cache: KVCache
) -> tuple[list[TokensEvent], list[SequenceState]]:
    """Count the plan's tokens as computed, publish the blocks they filled and append what was sampled.

    Args:
        plan: What was computed.
        rows: The sequence of each row; aborted ones are passed over.
        result: What was sampled; validated.
        cache: Where full blocks are published.

    Returns:
        One event per sequence with a sampled token or scores, and the sequences that ended; what is held
        ends without saying so.
    """
    events: list[TokensEvent] = []
    ended: list[SequenceState] = []
    for row, (sequence, run, token, logprob) in enumerate(
        zip(rows, plan.tokens, result.token_ids, result.logprobs, strict=True)
    ):
        if sequence.aborted:
            continue
        scores = result.scores.get(row)
        if scores is not None:
            sequence.n_scored += len(scores)
        n_computed = sequence.n_computed = sequence.n_computed + len(run)
        if n_computed >= (sequence.n_published + 1) * BLOCK_TOKENS:
            _publish_full(sequence, cache)
        reason = None
        if token >= 0:
            reason = _append(sequence, token)
        elif sequence.n_computed == sequence.max_total:  # scored, and nothing is to be sampled
            reason = FinishReason.LENGTH
        elif scores is None:
            continue
        if reason is not None:
            ended.append(sequence)
        events.append(
            TokensEvent(
                sequence.request_id,
                (token,) if token >= 0 else (),
                () if logprob is None else (logprob,),
                sequence.n_cached or 0,
                None if sequence.hold else reason,
                scores,
            )
        )
    return events, ended


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


def _append(sequence: SequenceState, token: int) -> FinishReason | None:
    """Append a sampled token and return why the sequence ends with it, if it does."""
    sequence.tokens.append(token)
    if sequence.edits is not None:
        sequence.edits.history.append(token)
    if token in sequence.stop_token_ids:
        return FinishReason.STOP
    return FinishReason.LENGTH if len(sequence.tokens) == sequence.max_total else None


def _publish_full(sequence: SequenceState, cache: KVCache) -> None:
    table = sequence.table
    parent = sequence.parent
    for i in range(sequence.n_published, sequence.n_computed // BLOCK_TOKENS):
        start = i * BLOCK_TOKENS
        parent = cache.publish(parent, sequence.tokens[start : start + BLOCK_TOKENS], table[i])
        table[i] = parent
    sequence.n_published = sequence.n_computed // BLOCK_TOKENS
