"""Sequences that wait: the first in order, and those whose time is up, without looking at the others."""

import heapq

from stoker.scheduler.sequence import SequenceState

_SLACK = 64  # entries of sequences that have left which are not worth clearing out

Key = tuple[float, ...]
"""Unique: its last part is a sequence's number of arrival."""


class SequenceHeap:
    """Sequences by key, the smallest first; whoever is in it may leave it at any time.

    Every operation costs O(log n) or less, spread over time: leaving only forgets the sequence, and its
    key is dropped when it comes to the front, or with all others of its kind when they are the most.
    """

    __slots__ = ("_keys", "_sequences")

    def __init__(self) -> None:
        self._keys: list[Key] = []  # a heap; holds keys that are in `_sequences` no more, too
        self._sequences: dict[Key, SequenceState] = {}

    def __len__(self) -> int:
        return len(self._sequences)

    def add(self, key: Key, sequence: SequenceState) -> None:
        """Put a sequence in its place."""
        self._sequences[key] = sequence
        heapq.heappush(self._keys, key)

    def discard(self, key: Key) -> None:
        """Take out the sequence of this key, if it is there."""
        self._sequences.pop(key, None)
        if len(self._keys) > 2 * len(self._sequences) + _SLACK:
            self._keys = list(self._sequences)
            heapq.heapify(self._keys)

    def first(self) -> tuple[Key, SequenceState] | None:
        """Return the smallest key and its sequence, or None if there is none."""
        keys = self._keys
        while keys:
            sequence = self._sequences.get(keys[0])
            if sequence is not None:
                return keys[0], sequence
            heapq.heappop(keys)
        return None

    def in_order(self) -> list[SequenceState]:
        """Return every sequence, for checks: this alone looks at all of them."""
        return [self._sequences[key] for key in sorted(self._sequences)]


class WaitingQueue:
    """The sequences that hold no blocks, in the order in which they are served.

    A preempted sequence keeps its order and so comes back to the place it had.

    Attributes:
        n_tokens: Tokens of all of them together.
    """

    __slots__ = ("_heap", "n_tokens")

    def __init__(self) -> None:
        self._heap = SequenceHeap()
        self.n_tokens = 0

    def __len__(self) -> int:
        return len(self._heap)

    def first(self) -> SequenceState | None:
        """Return the sequence that is next, or None if none waits."""
        first = self._heap.first()
        return None if first is None else first[1]

    def add(self, sequence: SequenceState) -> None:
        """Put a sequence in its place."""
        self._heap.add(sequence.order, sequence)
        self.n_tokens += len(sequence.tokens)

    def remove(self, sequence: SequenceState) -> None:
        """Take out a sequence that is in the queue."""
        self._heap.discard(sequence.order)
        self.n_tokens -= len(sequence.tokens)

    def in_order(self) -> list[SequenceState]:
        """Return every sequence in order, for checks."""
        return self._heap.in_order()


class TimeLimits:
    """Finds the sequences that did not begin, or did not end, in their time."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts = SequenceHeap()
        self._ends = SequenceHeap()

    def watch(self, sequence: SequenceState) -> None:
        """Keep an eye on a sequence that was submitted."""
        if sequence.start_by is not None:
            self._starts.add((sequence.start_by, sequence.arrival), sequence)
        if sequence.end_by is not None:
            self._ends.add((sequence.end_by, sequence.arrival), sequence)

    def begun(self, sequence: SequenceState) -> None:
        """Note that a sequence takes part in a step: its queue time limit is kept."""
        if sequence.start_by is not None:
            self._starts.discard((sequence.start_by, sequence.arrival))

    def forget(self, sequence: SequenceState) -> None:
        """Note that a sequence has ended or was aborted."""
        self.begun(sequence)
        if sequence.end_by is not None:
            self._ends.discard((sequence.end_by, sequence.arrival))

    def unbegun(self, now: float) -> SequenceState | None:
        """Return a sequence that should have begun by now and did not, or None."""
        return _due(self._starts, now)

    def unfinished(self, now: float) -> SequenceState | None:
        """Return a sequence that should have ended by now and did not, or None."""
        return _due(self._ends, now)

    def watched(self) -> tuple[list[SequenceState], list[SequenceState]]:
        """Return those that have to begin and those that have to end, for checks."""
        return self._starts.in_order(), self._ends.in_order()


def _due(heap: SequenceHeap, now: float) -> SequenceState | None:
    first = heap.first()
    return first[1] if first is not None and first[0][0] <= now else None
