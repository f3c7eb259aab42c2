"""Finds the highest rate that a server bears, by doubling, then bisection; pure."""


class RateSearch:
    """Tells which rate to try next.

    Args:
        start: The first rate to try, above 0.
        tolerance: The search ends when the lowest rate that was too high is at most this share above the
            highest one that was borne.
        max_trials: It also ends after so many trials.

    Attributes:
        borne: The highest rate that was borne below all that were not; None if none was.
        refused: The lowest rate that was not borne; None if all were.
    """

    def __init__(self, start: float, *, tolerance: float, max_trials: int) -> None:
        self._next = start
        self._tolerance = tolerance
        self._n_left = max_trials
        self.borne: float | None = None
        self.refused: float | None = None

    def next_rate(self) -> float | None:
        """Return the rate to try; None when the search has ended."""
        if self._n_left == 0 or self.settled:
            return None
        return self._next

    @property
    def settled(self) -> bool:
        """Whether the answer is known to within the tolerance."""
        if self.borne is None or self.refused is None:
            return False
        return self.refused <= self.borne * (1 + self._tolerance)

    def record(self, rate: float, *, borne: bool) -> None:
        """Say what came of a trial."""
        self._n_left -= 1
        if borne:
            self.borne = rate if self.borne is None else max(rate, self.borne)
        else:
            self.refused = rate if self.refused is None else min(rate, self.refused)
        if self.borne is None:
            self._next = rate / 2
        elif self.refused is None:
            self._next = rate * 2
        else:
            self._next = (self.borne * self.refused) ** 0.5
