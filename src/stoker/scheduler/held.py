"""Pinned prefixes: sequences that stay after their end and hold the full blocks of their prompts."""

from collections.abc import Mapping

from stoker.core.errors import InvalidRequestError
from stoker.core.step import BLOCK_TOKENS
from stoker.core.tokens import TokenRequest
from stoker.kvcache import KVCache
from stoker.scheduler.invariants import check_held
from stoker.scheduler.limits import SchedulerLimits
from stoker.scheduler.sequence import SequenceState


class HeldSequences:
    """Counts the blocks of sequences that are to stay, and has those that have ended.

    What has ended is in no step: nothing is computed or sampled for it.

    Args:
        cache: Where their blocks are.
        limits: How many blocks may be held.

    Attributes:
        ended: The sequences that have ended, by id.
    """

    __slots__ = ("_cache", "_limits", "_n_claimed", "ended")

    def __init__(self, cache: KVCache, limits: SchedulerLimits) -> None:
        self._cache = cache
        self._limits = limits
        self._n_claimed = 0  # blocks that are held or will be
        self.ended: dict[str, SequenceState] = {}

    def __len__(self) -> int:
        """Return how many have ended."""
        return len(self.ended)

    @property
    def n_blocks(self) -> int:
        """Blocks that those hold which have ended."""
        return sum(len(sequence.table) for sequence in self.ended.values())

    def validate(self, request: TokenRequest) -> None:
        """Refuse a request that would hold no blocks after its end, or more than there may be.

        Raises:
            InvalidRequestError: It would.
        """
        if not request.hold:
            return
        n_blocks = len(request.prompt) // BLOCK_TOKENS
        most = self._limits.max_pinned_blocks
        if not n_blocks:
            raise InvalidRequestError(
                f"the prefix has {len(request.prompt)} tokens; pin {BLOCK_TOKENS} or more, since whole KV "
                f"blocks of {BLOCK_TOKENS} tokens are pinned",
                param="prompt",
            )
        if self._n_claimed + n_blocks > most:
            raise InvalidRequestError(
                f"the prefix takes {n_blocks} KV blocks; {self._n_claimed} of at most {most} are pinned: "
                "unpin another prefix, or raise max_pinned_tokens or kv_memory",
                param="prompt",
                code="pinned_limit_exceeded",
            )

    def claim(self, sequence: SequenceState) -> None:
        """Count the blocks of a sequence that was submitted, if it is to stay."""
        if sequence.hold:
            self._n_claimed += sequence.n_prompt // BLOCK_TOKENS

    def give_up(self, sequence: SequenceState) -> bool:
        """Forget a sequence that was aborted; return whether it had ended, and so held blocks until now."""
        if sequence.hold:
            self._n_claimed -= sequence.n_prompt // BLOCK_TOKENS
        if self.ended.pop(sequence.request_id, None) is None:
            return False
        self._cache.release(sequence.table)  # a step in flight has references of its own
        return True

    def end(self, sequence: SequenceState) -> None:
        """Let a sequence that has ended keep the full blocks of its prompt, and no others."""
        n_kept = min(sequence.n_prompt // BLOCK_TOKENS, sequence.n_published)
        self._cache.keep(sequence.table[:n_kept])
        self._cache.release(sequence.table[n_kept:])
        sequence.table = sequence.table[:n_kept]
        self.ended[sequence.request_id] = sequence

    def check(self, live: Mapping[str, SequenceState]) -> None:
        """Verify the counts against all live sequences, those that have ended included.

        Raises:
            EngineError: An invariant is broken.
        """
        check_held(self.ended, live, self._n_claimed, self._limits)
