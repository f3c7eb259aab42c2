"""Bounds on one rendering of a chat template: how long it may run, and how large what it makes may be.

A few characters of a template double a string forty times, pad one to a gigabyte, or nest a list
whose spelling is longer than any memory. So every value that a template makes is measured when it
is made, as long as it would print; what multiplies its operands is checked before it runs.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from jinja2 import TemplateError
from jinja2.utils import Namespace

_STEP_CHARS = 4096
"""Characters that an operation looks at in about the time of a turn of a loop."""

_STEP_THINGS = 32
"""Elements that are measured in that time."""

_WRITES = 4
_MAX_BASE = 2**64
_MAX_POWER = 64
_MAX_INTEGER_BITS = 8192
_MAX_REPEAT_CHARS = 2**16
_MAX_PAD = 1024
_NUMBERS = re.compile(r"\d+")
_NESTED_FIELD = re.compile(r"\{[^{}]*\{")

Value = TypeVar("Value")


class TemplateBoundError(TemplateError):
    """A rendering exceeded its bounds."""


@dataclass(slots=True)
class Budget:
    """What is left for one rendering.

    Attributes:
        steps: Turns of loops; a call counts as some, and so does work on a long text.
        chars: Characters of output.
        size: Largest value that an expression may make, in characters as it would print.
        writes: Characters written anywhere, by macros and blocks whose output is kept as well.
    """

    steps: int
    chars: int
    size: int
    writes: int

    def __init__(self, *, steps: int, chars: int) -> None:
        self.steps = steps
        self.chars = chars
        self.size = 4 * chars
        self.writes = _WRITES * self.size

    def take(self, steps: int) -> None:
        """Count a loop iteration or a call.

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

    def write(self, value: Any) -> None:
        """Count what is written, even if it is kept and not output yet."""
        if isinstance(value, Namespace):
            raise TemplateBoundError("the chat template prints a namespace")
        self.writes -= self.measure(value)
        if self.writes < 0:
            raise TemplateBoundError("the chat template makes too much text of these messages")

    def allow(self, size: int) -> None:
        """Refuse a value before it is made.

        Raises:
            TemplateBoundError: It would be larger than a value may be.
        """
        if size > self.size:
            raise TemplateBoundError("the chat template makes too large a value of these messages")

    def made(self, value: Value) -> Value:
        """Pass on a value that an expression has made.

        Raises:
            TemplateBoundError: It is too large, or holds what cannot be measured.
        """
        if isinstance(value, str | int | list | tuple | dict):
            self.measure(value)
        return value

    def measure(self, value: Any, per_level: int = 0) -> int:
        """Return how long a value would print: each thing that stands in two places counts twice.

        Args:
            value: Strings, numbers, lists, tuples and dicts of such; anything else counts as 1.
            per_level: Characters that each thing takes for every level that it is nested.

        Raises:
            TemplateBoundError: Longer than a value may be, or the measuring takes too long.
        """
        total = n_things = 1
        level: list[Any] = [value]
        depth = 0
        while level:
            depth += 1
            below: list[Any] = []
            for item in level:
                if isinstance(item, str):
                    total += len(item)
                elif isinstance(item, int):
                    total += item.bit_length() // 3
                elif isinstance(item, list | tuple | dict):
                    n_parts = len(item) * (2 if isinstance(item, dict) else 1)
                    n_things += n_parts
                    total += n_parts * (1 + per_level * depth)
                    self.allow(total)
                    below.extend(item)
                    if isinstance(item, dict):
                        below.extend(item.values())
                elif depth > 1 and isinstance(item, Namespace):  # it can change after it was measured
                    raise TemplateBoundError("the chat template puts a namespace into another value")
            level = below
        self.allow(total)
        self.take(n_things // _STEP_THINGS + total // _STEP_CHARS)
        return total


def check_operator(budget: Budget, operator: str, left: Any, right: Any) -> None:
    """Refuse the operators by which a few characters become gigabytes.

    Raises:
        TemplateBoundError: The result would be too large.
    """
    if operator == "**" and not (
        isinstance(left, (int, float))
        and isinstance(right, (int, float))
        and abs(left) <= _MAX_BASE
        and abs(right) <= _MAX_POWER
    ):
        raise TemplateBoundError(f"the chat template raises a number to a power above {_MAX_POWER}")
    if operator == "*":
        for many, times in ((left, right), (right, left)):
            if isinstance(many, (str, list, tuple)) and isinstance(times, int):
                repeated = len(many) * times
                if repeated > _MAX_REPEAT_CHARS:
                    raise TemplateBoundError(
                        f"the chat template repeats something to more than {_MAX_REPEAT_CHARS}"
                    )
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() + right.bit_length()
            if bits > _MAX_INTEGER_BITS:
                raise TemplateBoundError(f"the chat template makes an integer of {bits} bits")
    if operator == "%" and isinstance(left, str):
        check_format(budget, left, right)


def check_format(budget: Budget, form: str, *values: Any) -> None:
    """Refuse a format string that pads, or that takes its padding from the values."""
    nested = _NESTED_FIELD.search(form.replace("{{", "")) is not None
    if nested or "*" in form or any(int(found[:6]) > _MAX_PAD for found in _NUMBERS.findall(form)):
        raise TemplateBoundError(f"the chat template pads a text to more than {_MAX_PAD}")
    size = sum(map(budget.measure, values))
    budget.allow(len(form) + (form.count("%") + form.count("{")) * (size + _MAX_PAD))


def check_replace(budget: Budget, text: str, arguments: tuple[Any, ...]) -> None:
    """Refuse a replacement that makes too much of a text."""
    if len(arguments) >= 2 and isinstance(arguments[0], str) and isinstance(arguments[1], str):  # noqa: PLR2004
        budget.allow(len(text) + text.count(arguments[0]) * len(arguments[1]))


def check_join(budget: Budget, separator: object, items: Iterable[Any]) -> list[Any]:
    """Return the items, refusing those that make too long a text."""
    size = 0
    kept = []
    length = len(separator) if isinstance(separator, str) else 0
    for item in items:
        size += length + budget.measure(item)
        budget.allow(size)
        kept.append(item)
    return kept


def check_padding(arguments: Iterable[Any], keywords: Mapping[str, Any]) -> None:
    """Refuse widths and precisions that are out of proportion, given as numbers or as the padding itself."""
    for value in (*arguments, *keywords.values()):
        too_wide = isinstance(value, int) and abs(value) > _MAX_PAD
        if too_wide or (isinstance(value, str) and len(value) > _MAX_PAD):
            raise TemplateBoundError(f"the chat template pads a text to more than {_MAX_PAD}")
