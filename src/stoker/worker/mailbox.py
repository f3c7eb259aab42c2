"""From the thread that owns the sockets to the thread that owns the engine."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from threading import Condition

from stoker.worker.frames import Submit, ToEngine
from stoker.worker.peer import Peer

MAX_LETTERS = 4096
"""No more frames are read from any socket while this many wait for the engine."""

MAX_LETTER_TOKENS = 2**20
"""Nor while their prompts, biases, stop tokens and characters of grammars are this many together."""


class PeerChange(Enum):
    """A gateway came or went."""

    CONNECTED = auto()
    DISCONNECTED = auto()


@dataclass(frozen=True, slots=True)
class Letter:
    """What a gateway sent, or that it came or went."""

    peer: Peer
    content: ToEngine | PeerChange


class Mailbox:
    """A bounded queue that one thread fills and another empties in one go.

    The filling thread looks at `full` before it reads a frame, so the bounds are exceeded by one
    frame at most. Gateways that come and go are few and always get in.

    Args:
        made_room: Called by the taker when a full mailbox has been emptied.

    Attributes:
        flag: One byte that is 1 while there is something to take, for those who look without a lock.
    """

    def __init__(self, made_room: Callable[[], None]) -> None:
        self._made_room = made_room
        self._changed = Condition()
        self._letters: deque[Letter] = deque()
        self._n_tokens = 0
        self._nudged = False
        self._closed = False
        self.flag = bytearray(1)

    def __len__(self) -> int:
        """Return how many letters have not been taken."""
        return len(self._letters)

    @property
    def full(self) -> bool:
        """Whether frames must wait in their sockets."""
        return len(self._letters) >= MAX_LETTERS or self._n_tokens >= MAX_LETTER_TOKENS

    def put(self, letter: Letter) -> None:
        """Add a letter and wake the taker; never blocks."""
        with self._changed:
            self._letters.append(letter)
            if isinstance(letter.content, Submit):
                self._n_tokens += _n_tokens(letter.content)
            self.flag[0] = 1
            self._changed.notify()

    def nudge(self) -> None:
        """Let a `take` that waits return though there may be no letter; for any thread."""
        with self._changed:
            self._nudged = True
            self._changed.notify()

    def take(self, *, wait: bool, timeout_s: float | None = None) -> list[Letter] | None:
        """Return every letter, oldest first, or None once the mailbox is closed.

        Args:
            wait: Sleep until there is a letter or a nudge, without using the processor; otherwise the
                list may be empty.
            timeout_s: Longest sleep; None for no limit.
        """
        if not (wait or self._letters or self._closed):  # the common case, several 100 times a second
            return []
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._letters or self._nudged or self._closed, timeout_s)
            self._nudged = False
            if self._closed:
                return None
            was_full = self.full
            letters = list(self._letters)
            self._letters.clear()
            self._n_tokens = 0
            self.flag[0] = 0
        if was_full:
            self._made_room()
        return letters

    def close(self) -> None:
        """Make every `take` return None."""
        with self._changed:
            self._closed = True
            self.flag[0] = 1
            self._changed.notify()


def _n_tokens(submit: Submit) -> int:
    n_listed = len(submit.sampling.logit_bias) + len(submit.stop_token_ids)
    n_grammar = 0 if submit.grammar is None else len(submit.grammar.source)
    return len(submit.prompt) + n_listed + n_grammar
