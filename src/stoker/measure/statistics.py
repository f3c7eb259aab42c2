"""Percentiles of samples; pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

MEDIAN, HIGH, HIGHER = 0.50, 0.95, 0.99


def percentile(ascending: Sequence[float], share: float) -> float:
    """Return the value below which a share of the samples lies, between two samples linearly.

    Args:
        ascending: At least one sample, in ascending order.
        share: From 0 to 1.

    Raises:
        ValueError: There is no sample, or `share` is out of range.
    """
    if not ascending or not 0 <= share <= 1:
        raise ValueError(f"no percentile {share} of {len(ascending)} samples")
    place = share * (len(ascending) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (place - below) * (ascending[above] - ascending[below])


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How samples are spread, in their own unit."""

    n: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self | None:
        """Return the spread of these samples; None if there are none."""
        if not samples:
            return None
        ascending = sorted(samples)
        return cls(
            n=len(ascending),
            mean=math.fsum(ascending) / len(ascending),
            p50=percentile(ascending, MEDIAN),
            p95=percentile(ascending, HIGH),
            p99=percentile(ascending, HIGHER),
            max=ascending[-1],
        )
