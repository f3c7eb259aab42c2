"""What one rendering of a chat template may use: steps, output, and the size of the values it makes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import local
from typing import Any

from jinja2 import TemplateError
from jinja2.utils import Namespace

ELEMENT_CHARS = 32
"""What an element of a list or a dict counts, in characters: about its memory."""

_NUMBER_CHARS = 8
_UNPRINTABLE_CHARS = 10
"""What an unprintable character can become where a list's representation or JSON escapes it."""

_CONTAINERS: Any = (list, tuple, dict, type({}.keys()), type({}.values()), type({}.items()))


class TemplateBoundError(TemplateError):
    """A rendering exceeded its bounds."""


@dataclass(slots=True)
class Budget:
    """What is left for one rendering.

    Attributes:
        steps: Turns of loops; calls and filters count as some.
        chars: Characters of output.
        made: Characters of all values made on the way, whether kept or not; see `ELEMENT_CHARS`.
    """

    steps: int
    chars: int
    made: int

    def take(self, steps: int) -> None:
        """Count turns of a loop, a call or a filter.

        Raises:
            TemplateBoundError: It was one too many.
        """
        self.steps -= steps
        if self.steps < 0:
            raise TemplateBoundError("the chat template loops too often over these messages")

    def take_output(self, text: str) -> None:
        """Count a piece of output.

        Raises:
            TemplateBoundError: It was too much.
        """
        self.chars -= len(text)
        if self.chars < 0:
            raise TemplateBoundError("the chat template makes too much text of these messages")

    def make(self, chars: int) -> None:
        """Count a value that is about to be made, or was made of others of about its size.

        Raises:
            TemplateBoundError: It was too much.
        """
        self.made -= chars
        if self.made < 0:
            raise TemplateBoundError("the chat template makes too large values of these messages")

    def make_like(self, value: object) -> None:
        """Count a value by its own size, not that of what it holds."""
        if isinstance(value, str):
            self.make(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.make(ELEMENT_CHARS * len(value))

    def measure(self, value: Any) -> int:
        """Return how long the value's representation is at most, everything in it counted where it stands.

        A list that holds another one twice, and that one a third one twice, is small and has an
        endless representation: so whatever walks through a value is preceded by this walk, which
        is counted and ends.

        Raises:
            TemplateBoundError: It is longer than what may be made.
        """
        size = 0
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                size += len(item) if item.isprintable() else _UNPRINTABLE_CHARS * len(item)
            elif isinstance(item, _CONTAINERS):
                size += ELEMENT_CHARS * len(item)
                stack.extend(item)
                if isinstance(item, dict):
                    stack.extend(item.values())
            elif isinstance(item, Namespace):
                raise TemplateBoundError("the chat template uses a namespace as a value")
            elif isinstance(item, int):
                size += item.bit_length() // 3
            size += _NUMBER_CHARS
            if size > self.made:
                raise TemplateBoundError("the chat template makes too large values of these messages")
        self.make(size)
        return size


class _Current(local):
    budget: Budget | None = None


_current = _Current()


def budget() -> Budget:
    """Return the budget of the rendering that this thread is in."""
    if _current.budget is None:
        raise TemplateBoundError("the chat template computes something outside of a rendering")
    return _current.budget


@contextmanager
def spending(limits: Budget) -> Iterator[Budget]:
    """Make a budget that of this thread's rendering."""
    _current.budget = limits
    try:
        yield limits
    finally:
        _current.budget = None


def depth(value: object) -> int:
    """Return how deeply lists and dicts are nested; `Budget.measure` must have passed the value."""
    level = 0
    row = [value]
    while row := [item for each in row for item in _items(each)]:
        level += 1
    return level


def _items(value: Any) -> list[Any]:
    if not isinstance(value, _CONTAINERS):
        return []
    return [*value.values()] if isinstance(value, dict) else [*iter(value)]
