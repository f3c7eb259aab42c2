"""When a model is asked for one token though drafts are not expected to pay: that may have changed."""

LEAST_TRY, FIRST_TRY, MOST_TRY = 8, 64, 1024
"""After so many steps without drafts one token is guessed: half as many if that was right, else twice."""


class Tries:
    """Counts steps and tries.

    Attributes:
        latest: Whoever the latest guess was tried for; None if guesses were expected to pay.
    """

    __slots__ = ("_after", "_n_without", "latest")

    def __init__(self) -> None:
        self._after = FIRST_TRY
        self._n_without = 0
        self.latest: object | None = None

    def due(self) -> bool:
        """Count a step without drafts, and say whether it is time."""
        self._n_without += 1
        return self._n_without >= self._after

    def begin(self, of: object | None) -> None:
        """Note that guesses are made: as a try for somebody, or with None since they are expected to pay."""
        self._n_without = 0
        self.latest = of
        if of is None:
            self._after = FIRST_TRY

    def note(self, *, right: bool) -> None:
        """Note how a try turned out."""
        after = self._after // 2 if right else self._after * 2
        self._after = max(LEAST_TRY, min(MOST_TRY, after))
