"""Distributions of lengths in tokens; pure."""

import math
import random
import re
from dataclasses import dataclass
from typing import Self

from stoker.core.errors import SettingsError

MAX_TOKENS = 1_000_000
"""Most tokens of a prompt or an answer that can be asked for."""

_SPELLING = re.compile(r"(?:(mixed):)?(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths from `low` to `high`, both included.

    Attributes:
        low: At least 1.
        high: At least `low`; equal to it for lengths that are all the same.
        mixed: Whether each doubling of the length is equally likely (many short ones, few long ones, as
            people send them), instead of each length.
    """

    low: int
    high: int
    mixed: bool = False

    @classmethod
    def parse(cls, text: str, flag: str) -> Self:
        """Read ``512``, ``64-2048`` or ``mixed:64-2048``.

        Raises:
            SettingsError: It is spelled otherwise, or out of range; `flag` names what was wrong.
        """
        found = _SPELLING.fullmatch(text.strip())
        if found is None:
            raise SettingsError(f"{flag}: {text!r} is no length: write 512, 64-2048 or mixed:64-2048")
        low = int(found[2])
        high = low if found[3] is None else int(found[3])
        if not 1 <= low <= high <= MAX_TOKENS:
            raise SettingsError(
                f"{flag}: {text!r} is out of range: 1 to {MAX_TOKENS:,} tokens, the lesser first"
            )
        return cls(low, high, found[1] is not None)

    def __str__(self) -> str:
        if self.low == self.high:
            return str(self.low)
        return f"{'mixed:' if self.mixed else ''}{self.low}-{self.high}"

    def draw(self, numbers: random.Random) -> int:
        """Draw a length; takes one number."""
        number = numbers.random()
        if self.mixed:
            low, high = math.log(self.low), math.log(self.high + 1)
            return min(self.high, int(math.exp(low + number * (high - low))))
        return self.low + int(number * (self.high - self.low + 1))
