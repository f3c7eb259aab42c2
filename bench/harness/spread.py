"""Medians with their spread, and ratios of what was measured side by side."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

N_RESAMPLES = 4000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Spread:
    """A median between two bounds: quartiles of samples, or a confidence interval."""

    median: float
    low: float
    high: float

    def to_json(self) -> list[float]:
        """Return [median, low, high], to seven digits."""
        return [float(f"{value:.7g}") for value in (self.median, self.low, self.high)]


def quartiles(samples: Sequence[float]) -> Spread:
    """Return the median and the quartiles of one sample or more."""
    if len(samples) == 1:
        return Spread(samples[0], samples[0], samples[0])
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(median, low, high)


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Return the median of ratios of what was measured in the same round, with the least and the greatest."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return Spread(statistics.median(ratios), min(ratios), max(ratios))


def bootstrap_median(samples: Sequence[float], seed: int = 1) -> Spread:
    """Return the median and its 95 % confidence interval, by the percentile bootstrap."""
    numbers = random.Random(seed)  # noqa: S311 - resampling is no secret
    medians = sorted(statistics.median(numbers.choices(samples, k=len(samples))) for _ in range(N_RESAMPLES))
    tail = round((1 - CONFIDENCE) / 2 * N_RESAMPLES)
    return Spread(statistics.median(samples), medians[tail], medians[-tail - 1])
