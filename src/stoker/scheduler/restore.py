"""Sequences whose prefix is in a tier below the KV cache get it back before they compute what is left."""

from stoker.core.step import BLOCK_TOKENS
from stoker.kvcache import KVCache, Link, Place, TierBooks
from stoker.scheduler.counters import Counters
from stoker.scheduler.sequence import SequenceState

PATIENCE_S = 2.0
"""A disk that has answered nobody for so long, though somebody waits for it, is not waited for."""

DISTRUST_S = 60.0
"""After that it is asked for nothing for so long."""

MAX_WAIT_S = 30.0
"""A sequence waits for a disk that does answer for so long in all, others' steps included; then it computes
what is left."""


class Restorer:
    """Fills the next blocks of running sequences from host memory, or has them read from the disk.

    What is in host memory is there for the very step that is being planned. What is on the disk is read
    in a thread of its own while the sequence sits steps out; others go on, and are admitted behind it.
    While others have tokens to compute, a step restores `max_blocks` at most, so that it takes no longer
    than a step may.

    Args:
        cache: Where restored blocks are published.
        counters: Where cached tokens are counted.
        max_blocks: Most blocks restored in a step while others wait for it.
    """

    __slots__ = (
        "_answered_at",
        "_cache",
        "_counters",
        "_distrusted_until",
        "_max_blocks",
        "_n_answers",
        "_n_left",
        "_now",
        "wake_at",
    )

    def __init__(self, cache: KVCache, counters: Counters, max_blocks: int) -> None:
        self._cache = cache
        self._counters = counters
        self._max_blocks = max_blocks
        self._n_left = max_blocks
        self._now = 0.0
        self._n_answers = 0
        self._answered_at = 0.0
        self._distrusted_until: float | None = None
        self.wake_at: float | None = None  # when the first that waits for the disk has no more patience

    def begin(self, now: float) -> None:
        """Begin to plan a step."""
        self._now = now
        self._n_left = self._max_blocks
        self.wake_at = None
        tiers = self._cache.tiers
        if tiers is None:
            return
        if tiers.n_answers != self._n_answers:
            self._n_answers, self._answered_at = tiers.n_answers, now
        if self._distrusted_until is not None and now >= self._distrusted_until:
            self._distrusted_until = None
            tiers.reading = True

    def fill(self, sequence: SequenceState, *, others: bool) -> bool:
        """Restore what can be restored now of a sequence's next blocks.

        Args:
            sequence: A running sequence; its table has room for all its tokens.
            others: Whether somebody else has tokens in this step.

        Returns:
            Whether it sits this step out, since more of its prefix is on the way.
        """
        tiers = self._cache.tiers
        if tiers is None:
            return False
        tokens = sequence.tokens
        while (end := (sequence.n_published + 1) * BLOCK_TOKENS) <= sequence.n_shareable:
            link = self._cache.link(sequence.parent, tokens[end - BLOCK_TOKENS : end])
            place = tiers.find(link)
            if place is Place.HOST:
                if others and self._n_left <= 0:
                    return True
                self._restore(sequence, link)
            elif place is Place.NOWHERE:
                break
            elif self._waits(sequence, link, tiers):
                return True
            else:
                break
        sequence.waits_since = None
        return False

    def _restore(self, sequence: SequenceState, link: Link) -> None:
        block = sequence.table[sequence.n_published]
        self._cache.restore(sequence.parent, link, block)
        self._n_left -= 1
        sequence.n_published += 1
        sequence.n_computed = sequence.n_published * BLOCK_TOKENS
        if not sequence.begun and sequence.n_cached is not None:
            n_more = max(0, min(sequence.n_computed, sequence.n_prompt - 1) - sequence.n_cached)
            sequence.n_cached += n_more
            self._counters.cached_tokens += n_more

    def _waits(self, sequence: SequenceState, link: Link, tiers: TierBooks) -> bool:
        """Have what follows read from the disk; False if it cannot be, or takes too long."""
        if not sequence.asks_disk:
            return False
        if sequence.waits_since is None:
            sequence.waits_since = self._now
        silent_at = max(sequence.waits_since, self._answered_at) + PATIENCE_S
        enough_at = sequence.waits_since + MAX_WAIT_S
        if self._now >= silent_at:
            tiers.reading = False
            self._distrusted_until = self._now + DISTRUST_S
            return False
        if self._now >= enough_at:
            sequence.asks_disk = False
            return False
        if not self._ask(sequence, link, tiers):
            return False
        until = min(silent_at, enough_at)
        self.wake_at = until if self.wake_at is None else min(self.wake_at, until)
        return True

    def _ask(self, sequence: SequenceState, link: Link, tiers: TierBooks) -> bool:
        """Ask for as many of the next blocks as may be; False if none comes."""
        n_coming = 0
        start = sequence.n_published * BLOCK_TOKENS
        place = tiers.find(link)
        while place in (Place.DISK, Place.COMING):
            if place is Place.DISK and not tiers.ask(link):
                return n_coming > 0 or tiers.reads_are_full
            n_coming += 1
            start += BLOCK_TOKENS
            if start + BLOCK_TOKENS > sequence.n_shareable:
                break
            link = self._cache.link_after(link, sequence.tokens[start : start + BLOCK_TOKENS])
            place = tiers.find(link)
        return True
