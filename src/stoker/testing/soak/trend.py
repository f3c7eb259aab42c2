"""Whether a series grows: the slope of Theil and Sen with Sen's interval.

Sen, "Estimates of the regression coefficient based on Kendall's tau" (1968). The slope is the median of the
slopes between all pairs of points, so that a few outliers do not move it; the interval comes from the normal
approximation of Kendall's statistic. Neighbouring samples of memory depend on each other, so a series is
first reduced to medians over stretches of time.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_Z = statistics.NormalDist().inv_cdf(0.975)
_LEAST_POINTS = 8


@dataclass(frozen=True, slots=True)
class Trend:
    """How a series changes, in its unit per minute.

    Attributes:
        slope: The slope.
        low: Lower end of its 95 % interval.
        high: Upper end.
        n_points: How many points it was taken from.
    """

    slope: float
    low: float
    high: float
    n_points: int


Point = tuple[float, float]
"""Seconds and value."""


def medians(points: Sequence[Point], stretch_s: float) -> list[Point]:
    """Return one point for each stretch of time that has any: medians of times and values."""
    stretches: dict[int, list[Point]] = {}
    for point in points:
        stretches.setdefault(int(point[0] // stretch_s), []).append(point)
    return [
        (statistics.median(at for at, _ in each), statistics.median(value for _, value in each))
        for _, each in sorted(stretches.items())
    ]


def trend(points: Sequence[Point]) -> Trend | None:
    """Return how a series changes; None if it has too few points to tell."""
    n = len(points)
    if n < _LEAST_POINTS:
        return None
    slopes = sorted(
        60 * (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(points)
        for later in points[index + 1 :]
        if later[0] > earlier[0]
    )
    spread = _Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(0, math.floor((len(slopes) - spread) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + spread) / 2))
    return Trend(statistics.median(slopes), slopes[low], slopes[high], n)
