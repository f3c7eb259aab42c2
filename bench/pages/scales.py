"""Axes with round numbers."""

import math
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values from 0 to `top` onto pixels from `start` to `end`."""

    top: float
    step: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return where a value is."""
        return self.start + (self.end - self.start) * value / self.top

    def ticks(self) -> list[float]:
        """Return the round values on it."""
        return [i * self.step for i in range(round(self.top / self.step) + 1)]


def round_scale(most: float, start: float, end: float, *, about: int = 6) -> Scale:
    """Return a scale up to at least `most`, whose ticks are about so many and round."""
    rough = most / about
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * each for each in _STEPS if size * each >= rough * (1 - 1e-9))
    return Scale(step * math.ceil(most / step - 1e-9), step, start, end)


def label(value: float) -> str:
    """Write a tick's value."""
    return f"{value:g}"
