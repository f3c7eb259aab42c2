"""What must hold of the scheduler's sequences between any two calls."""

from collections.abc import Mapping

from stoker.core.errors import EngineError
from stoker.core.step import BLOCK_TOKENS
from stoker.kvcache import KVCache, Parent
from stoker.scheduler.limits import SchedulerLimits
from stoker.scheduler.sequence import SequenceState
from stoker.scheduler.waiting import TimeLimits


def check_sequences(
    running: list[SequenceState],
    waiting: list[SequenceState],
    live: Mapping[str, SequenceState],
    limits: SchedulerLimits,
    cache: KVCache,
) -> None:
    """Verify queues, order and every sequence's state.

    Args:
        running: Sequences that hold blocks; those aborted under a step in flight included.
        waiting: Sequences that hold none.
        live: All that were submitted and have neither ended nor been aborted, by id.
        limits: The scheduler's limits.
        cache: The cache that holds the published blocks.

    Raises:
        EngineError: An invariant is broken.
    """
    _check_histories(live)
    queued = [sequence for sequence in (*running, *waiting) if not sequence.aborted]
    if len(queued) != len(live) or any(live.get(s.request_id) is not s for s in queued):
        raise _broken("a live sequence is not exactly one of running and waiting")
    if len(running) > limits.max_running:
        raise _broken(f"{len(running)} sequences run and {limits.max_running} may")
    for queue in (running, waiting):
        orders = [sequence.order for sequence in queue]
        if orders != sorted(set(orders)):
            raise _broken("a queue is out of order")
    if any(_overtook(ran, waits) for ran in running for waits in waiting):
        raise _broken("a sequence was overtaken by one that came and is due later")
    _check_namespaces(running)
    for sequence in running:
        _check_running(sequence, cache)
    for sequence in waiting:
        if sequence.table or sequence.n_computed or sequence.n_published or sequence.aborted:
            raise _broken(f"the waiting sequence {sequence.request_id!r} holds blocks or is aborted")


def check_books(
    waiting: list[SequenceState],
    n_waiting_tokens: int,
    time_limits: TimeLimits,
    live: Mapping[str, SequenceState],
) -> None:
    """Verify what is counted and remembered beside the sequences.

    Args:
        waiting: The waiting sequences.
        n_waiting_tokens: What their tokens were counted to be.
        time_limits: Who is watched.
        live: As in `check_sequences`.

    Raises:
        EngineError: An invariant is broken.
    """
    if n_waiting_tokens != sum(len(sequence.tokens) for sequence in waiting):
        raise _broken(f"{n_waiting_tokens} tokens are counted as waiting, which is wrong")
    starts, ends = time_limits.watched()
    must_start = {s for s in live.values() if s.start_by is not None and s.n_cached is None}
    must_end = {s for s in live.values() if s.end_by is not None}
    if set(starts) != must_start or set(ends) != must_end:
        raise _broken("the time limits watched are not those of the live sequences")


def check_held(
    held: Mapping[str, SequenceState],
    live: Mapping[str, SequenceState],
    n_pinned: int,
    limits: SchedulerLimits,
) -> None:
    """Verify the sequences that hold their prompts' blocks after their end.

    Args:
        held: Those sequences, by id.
        live: All that were submitted and have neither ended nor been aborted, those included.
        n_pinned: Blocks that are counted as pinned.
        limits: The scheduler's limits.

    Raises:
        EngineError: An invariant is broken.
    """
    if any(live.get(request_id) is not sequence for request_id, sequence in held.items()):
        raise _broken("a held sequence is not live")
    for sequence in held.values():
        if not sequence.hold or len(sequence.table) != sequence.n_prompt // BLOCK_TOKENS:
            raise _broken(f"the held sequence {sequence.request_id!r} holds {len(sequence.table)} blocks")
    n_blocks = sum(sequence.n_prompt // BLOCK_TOKENS for sequence in live.values() if sequence.hold)
    if n_blocks != n_pinned or n_pinned > limits.max_pinned_blocks:
        raise _broken(f"{n_pinned} blocks are counted as pinned, which is wrong")


def _overtook(ran: SequenceState, waits: SequenceState) -> bool:
    return waits.arrival < ran.arrival and waits.order < ran.order and not ran.yields_to(waits)


def _check_namespaces(running: list[SequenceState]) -> None:
    namespaces: dict[int, Parent] = {}
    for sequence in running:
        for block in sequence.table:
            if namespaces.setdefault(block, sequence.namespace) != sequence.namespace:
                raise _broken(f"sequences of two namespaces hold block {block}")


def _broken(what: str) -> EngineError:
    return EngineError(f"scheduler: {what}; report this bug")


def _check_histories(live: Mapping[str, SequenceState]) -> None:
    for sequence in live.values():
        if sequence.edits is not None and sequence.edits.history.tolist() != sequence.tokens:
            raise _broken(f"the history of {sequence.request_id!r} is not its tokens")


def _check_running(sequence: SequenceState, cache: KVCache) -> None:
    name = f"the running sequence {sequence.request_id!r}"
    n_tokens = len(sequence.tokens)
    most = sequence.max_total - (sequence.max_total > sequence.n_prompt)  # all of it if it is only scored
    if not 0 <= sequence.n_computed < n_tokens <= most:
        raise _broken(f"{name} has computed {sequence.n_computed} of {n_tokens} tokens")
    if not min(sequence.n_computed, sequence.n_to_score) <= sequence.n_scored <= sequence.n_prompt:
        raise _broken(f"{name} has computed {sequence.n_computed} tokens and scored {sequence.n_scored}")
    if sequence.n_computed > len(sequence.table) * BLOCK_TOKENS:
        raise _broken(f"{name} has computed more tokens than its blocks hold")
    if sequence.n_published != sequence.n_computed // BLOCK_TOKENS:
        raise _broken(f"{name} has a full block that is not published, or the reverse")
    parent: Parent = sequence.namespace
    for i in range(len(sequence.table)):
        block = sequence.table[i]
        start = i * BLOCK_TOKENS
        key = (parent, tuple(sequence.tokens[start : start + BLOCK_TOKENS]))
        if cache.key_of(block) != (key if i < sequence.n_published else None):
            raise _broken(f"{name} has the wrong tokens published for its block {i}")
        parent = block
