"""A high quantile of the latest values."""

from bisect import bisect_left, insort
from collections import deque
from math import ceil


class LatestQuantile:
    """The exact quantile of the latest values; a new one costs O(log n) comparisons.

    Args:
        share: Which quantile, in (0, 1].
        size: How many values are kept.
        at_first: What it is before there are `least` values.
        least: As many are needed.
    """

    __slots__ = ("_at_first", "_latest", "_least", "_share", "_sorted")

    def __init__(self, share: float, *, size: int, at_first: float, least: int) -> None:
        self._share = share
        self._at_first = at_first
        self._least = least
        self._latest: deque[float] = deque(maxlen=size)
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """Take a value in; the oldest goes when there are too many."""
        if len(self._latest) == self._latest.maxlen:
            del self._sorted[bisect_left(self._sorted, self._latest[0])]
        self._latest.append(value)
        insort(self._sorted, value)

    @property
    def value(self) -> float:
        """The least value that this share of all does not exceed."""
        values = self._sorted
        if len(values) < self._least:
            return self._at_first
        return values[ceil(self._share * len(values)) - 1]
