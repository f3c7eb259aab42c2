"""A constraint that allows everything, and often leaves no choice about what follows."""

from collections.abc import Sequence

from stoker.core.grammar import Constraint, Grammar, GrammarKind
from stoker.core.tokens import TokenRequest

FORCING = Grammar(GrammarKind.REGEX, "", "guided_regex", fast_forward=True)
"""Requests with this are held to `Forcing` where nothing is compiled."""

LENGTHS = (0, 0, 1, 0, 3, 17, 0, 40)
"""How many tokens follow a token, by its remainder."""

FIRST_FORCED = 16
"""No token below this is forced."""


class Forcing:
    """A `Constraint` without a mask, whose forced tokens depend on the token before them."""

    def __init__(self) -> None:
        self._latest = 0

    @property
    def allowed(self) -> memoryview:
        """No words: any token."""
        return memoryview(b"")

    @property
    def complete(self) -> bool:
        """Never: requests end by their length, or by an end token."""
        return False

    def advance(self, token_ids: Sequence[int]) -> bool:
        """Note the latest token."""
        self._latest = token_ids[-1]
        return False

    def force(self, most: int) -> Sequence[int]:
        """Return as many tokens as `LENGTHS` says, and `most` at most."""
        n_tokens = min(most, LENGTHS[self._latest % len(LENGTHS)])
        return [FIRST_FORCED + (self._latest * 7 + index) % 200 for index in range(n_tokens)]


def constraint_of(request: TokenRequest) -> Constraint | None:
    """Return what holds a request to its grammar, if it has one."""
    return None if request.grammar is None else Forcing()
