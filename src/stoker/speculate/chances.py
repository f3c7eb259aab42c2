"""How likely it is that a guessed token is right: what has been seen of guesses like it.

Guesses are looked at whether they were computed or not: the token that came shows what a draft would have
been worth. So speculation that was switched off comes back when it would pay, without trying.
"""

from bisect import bisect_right

_BOUNDS = (4, 6, 9, 14, 22, 32)  # lengths of matches that begin another class
_FIRST_WEIGHT = 4.0  # of what is taken for a class of which nothing is known
_KEPT = 0.995  # of a class's counts, with each further guess
_OWN_KEPT = 0.9
_CLASS_WEIGHT = 3.0
_MOST = 0.98


class Record:
    """How the guesses for one sequence have turned out; older ones count less."""

    __slots__ = ("n_guesses", "n_right")

    def __init__(self) -> None:
        self.n_guesses = 0.0
        self.n_right = 0.0

    def add(self, kept: float, *, right: bool) -> None:
        """Note a guess."""
        self.n_guesses = self.n_guesses * kept + 1.0
        self.n_right = self.n_right * kept + right


class Chances:
    """The chance of a guess, by the length of the match that it comes from and by its sequence.

    Args:
        first: Taken where nothing is known.
    """

    __slots__ = ("_classes", "_first")

    def __init__(self, first: float = 0.5) -> None:
        self._first = first
        self._classes = [Record() for _ in range(len(_BOUNDS) + 1)]

    def of(self, length: int, own: Record) -> float:
        """Return the chance that a guess is right, given that those before it are.

        Args:
            length: Of the match that it comes from; 0 for guesses of a model.
            own: Record of the sequence.
        """
        alike = self._classes[bisect_right(_BOUNDS, length)]
        common = (alike.n_right + self._first * _FIRST_WEIGHT) / (alike.n_guesses + _FIRST_WEIGHT)
        chance = (own.n_right + common * _CLASS_WEIGHT) / (own.n_guesses + _CLASS_WEIGHT)
        return min(_MOST, chance)

    def note(self, length: int, own: Record, *, right: bool) -> None:
        """Note how a guess turned out."""
        self._classes[bisect_right(_BOUNDS, length)].add(_KEPT, right=right)
        own.add(_OWN_KEPT, right=right)
