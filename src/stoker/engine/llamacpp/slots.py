"""Which of llama.cpp's slots holds which sequence (pure).

llama.cpp keeps the keys and values of one token sequence in each slot, and computes of a prompt only what
comes after the beginning that it shares with its slot's. All slots take their cells from one pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

_NOTHING: Tokens = np.empty(0, np.int32)


@dataclass(slots=True, eq=False)
class Slot:
    """One slot of llama.cpp.

    Attributes:
        index: Its number.
        tokens: Those whose keys and values it holds.
        request_id: Whose they are, or were.
        used_at: When it was used last, in steps.
    """

    index: int
    tokens: Tokens = field(default_factory=lambda: _NOTHING)
    request_id: str | None = None
    used_at: int = 0


class SlotBook:
    """Gives sequences their slots, and says which ones have to be cleared for room.

    A sequence keeps its slot as long as nobody else has taken it. A new one takes over a slot that begins as
    it does, if that is the greater part of what the slot holds, or all that is known of the sequence; else
    the one not used for the longest.

    Args:
        n_slots: How many there are; no step has more sequences.
        n_cells: Tokens that all of them together may hold.
        n_idle: Those that slots which are not in use may hold: attention passes over them in every step.
    """

    def __init__(self, n_slots: int, n_cells: int, n_idle: int) -> None:
        self._slots = [Slot(index) for index in range(n_slots)]
        self._of: dict[str, Slot] = {}
        self._n_cells = n_cells
        self._n_idle = n_idle
        self._n_steps = 0

    def assign(
        self, request_ids: Sequence[str], histories: Sequence[Tokens], samples: Sequence[bool]
    ) -> list[Slot]:
        """Return a slot for each sequence of a step.

        Args:
            request_ids: The sequences.
            histories: Their tokens so far.
            samples: Whether that is all of their prompts; what follows may be alike, too.
        """
        self._n_steps += 1
        kept = [self._of.get(request_id) for request_id in request_ids]
        free = set(self._slots).difference(slot for slot in kept if slot is not None)
        assigned = []
        for request_id, history, whole, own in zip(request_ids, histories, samples, kept, strict=True):
            slot = (
                own if own is not None else max(free, key=lambda each: _fitness(each, history, whole=whole))
            )
            free.discard(slot)
            if own is None:
                self._of.pop(slot.request_id or "", None)
                self._of[request_id] = slot
                slot.request_id = request_id
            slot.used_at = self._n_steps
            assigned.append(slot)
        return assigned

    def room_for(self, computed: Sequence[tuple[Slot, Tokens]]) -> list[Slot]:
        """Return the slots to be emptied before these histories are computed into theirs.

        They are noted as empty.
        """
        coming = {slot: len(history) for slot, history in computed}
        idle = [slot for slot in self._slots if slot not in coming and len(slot.tokens)]
        n_idle = sum(len(slot.tokens) for slot in idle)
        room = min(self._n_idle, self._n_cells - sum(coming.values()))
        cleared = []
        for slot in sorted(idle, key=lambda each: each.used_at):
            if n_idle <= room:
                break
            n_idle -= len(slot.tokens)
            slot.tokens = _NOTHING
            cleared.append(slot)
        return cleared


def shared(one: Tokens, other: Tokens) -> int:
    """Return how many tokens two sequences begin with alike."""
    n = min(len(one), len(other))
    different = np.flatnonzero(one[:n] != other[:n])
    return int(different[0]) if len(different) else n


def _fitness(slot: Slot, history: Tokens, *, whole: bool) -> tuple[int, int]:
    n_shared = shared(slot.tokens, history)
    worth_it = 2 * n_shared > len(slot.tokens) or (not whole and n_shared == len(history))
    return (n_shared if worth_it else 0, -slot.used_at)
