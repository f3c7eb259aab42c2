"""Stop strings in a stream of text.

The match that *ends* first wins, and of several that end at the same character the longest. That is
decided the moment its last character arrives, and it depends on the text alone, never on how it is
cut into tokens. (With "begins first", the answer to ``abc`` under the stop strings ``abcd`` and
``bc`` would have to wait for more text.)
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from stoker.core.errors import InvalidRequestError

MAX_STOP_CHARS = 2**14
"""Most characters of one request's stop strings together."""


@dataclass(slots=True)
class _State:
    """A prefix of a stop string, in the automaton of Aho and Corasick (1975).

    Attributes:
        depth: Length of the prefix.
        next: The longer prefixes, by their last character.
        fallback: The longest proper suffix of this prefix that is a prefix of some stop string.
        match: The longest stop string that ends here, or None.
    """

    depth: int
    next: "dict[str, _State]"
    fallback: "_State | None" = None
    match: str | None = None


class StopMatcher:
    """Finds the stop string that ends first; holds back text that may be the beginning of one.

    Args:
        stops: The stop strings.

    Raises:
        InvalidRequestError: One is empty, or together they exceed `MAX_STOP_CHARS`.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        check_stops(stops)
        self._root = _build(stops)
        self._state = self._root
        self._held = ""
        self._first = re.compile("[" + "".join(map(re.escape, self._root.next)) + "]")
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Return the text that no stop string can reach any more.

        After a match, `matched` is the stop string, what was returned in all is the text before it,
        and nothing more comes out.
        """
        if self.matched is not None:
            return ""
        position = 0
        state = self._state
        while position < len(text):
            if state is self._root:
                found = self._first.search(text, position)
                if found is None:
                    break
                position = found.start()
            state = self._step(state, text[position])
            position += 1
            if state.match is not None:
                return self._stop(state.match, text[:position])
        self._state = state
        whole = self._held + text
        cut = len(whole) - state.depth
        self._held = whole[cut:]
        return whole[:cut]

    def flush(self) -> str:
        """Return what is held, at the end of the stream."""
        held, self._held, self._state = self._held, "", self._root
        return held

    def _step(self, state: _State, char: str) -> _State:
        while char not in state.next:
            if state.fallback is None:
                return state
            state = state.fallback
        return state.next[char]

    def _stop(self, match: str, text: str) -> str:
        self.matched = match
        before = (self._held + text)[: -len(match)]
        self._held = ""
        return before


def check_stops(stops: Sequence[str]) -> None:
    """Check that stop strings can be looked for.

    Raises:
        InvalidRequestError: One is empty, or together they exceed `MAX_STOP_CHARS`.
    """
    if not all(stops):
        raise InvalidRequestError(
            "A stop string is empty, expected at least one character. Remove it.", param="stop"
        )
    n_chars = sum(map(len, stops))
    if not 0 < n_chars <= MAX_STOP_CHARS:
        raise InvalidRequestError(
            f"The stop strings have {n_chars} characters together, expected 1 to {MAX_STOP_CHARS}.",
            param="stop",
        )


def _build(stops: Sequence[str]) -> _State:
    root = _State(depth=0, next={})
    for stop in stops:
        state = root
        for char in stop:
            state = state.next.setdefault(char, _State(depth=state.depth + 1, next={}))
        state.match = stop
    queue = deque([root])
    while queue:
        parent = queue.popleft()
        for char, state in parent.next.items():
            suffix = parent.fallback
            while suffix is not None and char not in suffix.next:
                suffix = suffix.fallback
            state.fallback = root if suffix is None else suffix.next[char]
            # Its own match is the longest that ends here; a suffix's is the next longest.
            state.match = state.match or state.fallback.match
            queue.append(state)
    return root
