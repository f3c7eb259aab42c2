"""Where the end of a sequence has occurred before."""

from array import array
from typing import NamedTuple

GRAM = 3
"""Shortest end that is looked for, in tokens."""

LONGEST = 32
"""Ends are compared so far back; of those equal beyond, the latest is taken."""

MAX_CANDIDATES = 32
"""Most earlier places that are compared with the end."""

MAX_ADDED = 4096
"""Most tokens that are taken in at a time: a long prompt takes several steps."""

_NONE = -1


class Match(NamedTuple):
    """An earlier occurrence of a sequence's end.

    Attributes:
        end: Index of its last token.
        length: So many tokens are equal, from `GRAM` to `LONGEST`.
    """

    end: int
    length: int


class SuffixIndex:
    """Finds the longest earlier occurrence of a sequence's last tokens, as a suffix tree would.

    Every place is chained to the latest one before it with the same `GRAM` tokens (the hash chains of
    Lempel-Ziv compressors). Adding a token is O(1), in a few dozen bytes; a search looks at a bounded number
    of places. So among a great many occurrences it finds the longest of the latest `MAX_CANDIDATES`.

    Args:
        tokens: The sequence's own list, which grows.
    """

    __slots__ = ("_heads", "_previous", "_tokens")

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self._heads: dict[tuple[int, ...], int] = {}  # the latest place of a gram, by its last token's index
        self._previous = array("i", [_NONE] * (GRAM - 1))  # the place before, of each

    def catch_up(self) -> bool:
        """Take in tokens that are new, at most `MAX_ADDED`; return whether all are in."""
        tokens, previous, heads = self._tokens, self._previous, self._heads
        first = len(previous)
        last = min(len(tokens), first + MAX_ADDED)
        added = tokens[first - GRAM + 1 : last]
        for end, gram in enumerate(zip(added, added[1:], added[2:], strict=False), first):
            previous.append(heads.get(gram, _NONE))
            heads[gram] = end
        return last == len(tokens)

    def match(self) -> Match | None:
        """Return the longest earlier occurrence of the end, the latest of equal ones, or None.

        All tokens must be in.
        """
        tokens, previous = self._tokens, self._previous
        last = len(previous) - 1
        if last < GRAM:
            return None
        best, length = _NONE, GRAM - 1
        place = previous[last]
        for _ in range(MAX_CANDIDATES):
            if place == _NONE:
                break
            if length <= place and tokens[place - length] == tokens[last - length]:
                n_equal = self._n_equal(place, last)
                if n_equal > length:
                    best, length = place, n_equal
                    if length == LONGEST:
                        break
            place = previous[place]
        return None if best == _NONE else Match(best, length)

    def _n_equal(self, place: int, last: int) -> int:
        """Count equal tokens backwards from two places, `LONGEST` at most."""
        tokens = self._tokens
        n = GRAM
        most = min(LONGEST, place + 1)
        while n < most and tokens[place - n] == tokens[last - n]:
            n += 1
        return n


def continuation(tokens: list[int], end: int, n: int) -> list[int]:
    """Return `n` tokens that follow the one at `end`; beyond the sequence's end they repeat themselves."""
    copied = tokens[end + 1 : end + 1 + n]
    period = len(tokens) - 1 - end
    while len(copied) < n:
        copied.append(copied[len(copied) - period])
    return copied
