"""Running sequences in the order in which they are served."""

from bisect import bisect_left, insort
from operator import attrgetter

from stoker.scheduler.sequence import SequenceState

_order = attrgetter("order")


class SequenceQueue:
    """A list of sequences sorted by their order: priority, then who is due first.

    Short, and walked in every step; the long queue of those that wait is a
    `stoker.scheduler.waiting.WaitingQueue`.
    """

    __slots__ = ("items",)

    def __init__(self) -> None:
        self.items: list[SequenceState] = []

    def __len__(self) -> int:
        return len(self.items)

    def add(self, sequence: SequenceState) -> None:
        """Put a sequence in its place."""
        insort(self.items, sequence, key=_order)

    def remove(self, sequence: SequenceState) -> None:
        """Take out a sequence that is in the queue."""
        del self.items[bisect_left(self.items, sequence.order, key=_order)]
