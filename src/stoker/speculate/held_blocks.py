"""Which tokens' keys and values a draft model has in which KV block."""

from stoker.core.step import BLOCK_TOKENS


class Chain:
    """Names of a sequence's full blocks: each of all tokens up to its end.

    Args:
        tokens: The sequence's own list, which grows.
    """

    __slots__ = ("_names", "_tokens")

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self._names = [0]

    def before(self, index: int) -> int:
        """Return the name of what comes before the block of this index, all of which is known."""
        names = self._names
        while len(names) <= index:
            start = (len(names) - 1) * BLOCK_TOKENS
            names.append(_name(names[-1], self._tokens[start : start + BLOCK_TOKENS]))
        return names[index]


class HeldBlocks:
    """Remembers what a draft model has computed into the blocks of the scheduler's tables.

    The scheduler shares, evicts and reuses blocks without telling; a block that now holds other tokens, or
    the same ones after others, is found out by what it held last. So a prefix that sequences share is
    computed once for all of them.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[int, tuple[int, list[int]]] = {}  # name of what is before it, and its tokens

    def n_held(self, tokens: list[int], table: list[int], chain: Chain) -> int:
        """Return how many of a sequence's first tokens are there."""
        for index, start in enumerate(range(0, len(tokens), BLOCK_TOKENS)):
            before, own = self._held.get(table[index], (None, []))
            wanted = tokens[start : start + BLOCK_TOKENS]
            if before != chain.before(index):
                return start
            if own != wanted or len(own) < BLOCK_TOKENS:
                return start + _n_equal(own, wanted)
        return len(tokens)

    def note(self, tokens: list[int], first: int, table: list[int], chain: Chain) -> None:
        """Remember that a sequence's tokens from one on are there now.

        Args:
            tokens: All that are there, guesses behind the sequence's own among them.
            first: The first that was computed; one of its own.
            table: The sequence's blocks.
            chain: Names of the sequence's blocks.
        """
        index = first // BLOCK_TOKENS
        before = chain.before(index)
        for start in range(index * BLOCK_TOKENS, len(tokens), BLOCK_TOKENS):
            own = tokens[start : start + BLOCK_TOKENS]
            self._held[table[start // BLOCK_TOKENS]] = (before, own)
            before = _name(before, own)


def _name(before: int, tokens: list[int]) -> int:
    return hash((before, *tokens))


def _n_equal(own: list[int], wanted: list[int]) -> int:
    for n, (one, other) in enumerate(zip(own, wanted, strict=False)):
        if one != other:
            return n
    return min(len(own), len(wanted))
