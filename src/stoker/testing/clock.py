"""A clock that stands still until told otherwise."""


class FakeClock:
    """A `Clock` for tests.

    Args:
        start: The first reading, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def __call__(self) -> float:
        """Return the present reading, in seconds."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Move on by `seconds` and return the new reading.

        Raises:
            ValueError: `seconds` is negative; a monotonic clock never goes back.
        """
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back by {-seconds} s")
        self._now += seconds
        return self._now
