"""What computing in fewer bits costs, over windows of text, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stoker.engine.native.divergence import Divergence

N_RESAMPLES = 2_000
_TAIL = 0.025

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What the windows of a text say of one path against its reference.

    Attributes:
        n_tokens: Positions compared.
        mean_kl: Mean Kullback-Leibler divergence from the reference, in nats.
        p99_kl: What one position in a hundred exceeds.
        top_1_agreement: Share of positions whose most likely token is the reference's.
        perplexity: Of the text.
        perplexity_ratio: Over the reference's.
    """

    n_tokens: int
    mean_kl: Estimate
    p99_kl: Estimate
    top_1_agreement: Estimate
    perplexity: Estimate
    perplexity_ratio: Estimate


def _draws(n_windows: int) -> NDArray[np.int64]:
    """Windows drawn with replacement, ``[N_RESAMPLES, n_windows]``; the same ones each time."""
    return np.random.default_rng(0).integers(0, n_windows, (N_RESAMPLES, n_windows))


def _estimate(value: float, resampled: Floats) -> Estimate:
    low, high = np.quantile(resampled, [_TAIL, 1 - _TAIL])
    return Estimate(float(value), float(low), float(high))


def _mean(sums: Floats, counts: Floats, draws: NDArray[np.int64]) -> tuple[float, Floats]:
    """Return the mean over all positions, and over those of each resample."""
    return float(sums.sum() / counts.sum()), sums[draws].sum(axis=1) / counts[draws].sum(axis=1)


def summarize(windows: Sequence[Divergence]) -> Quality:
    """Sum up the windows of a text.

    Intervals are bootstrap percentiles over whole windows, since positions of one window depend on
    each other.

    Raises:
        ValueError: There are no windows.
    """
    if not windows:
        raise ValueError("there is no window to sum up")
    draws = _draws(len(windows))
    counts = np.array([len(window.kl) for window in windows], np.float64)
    predicted = np.array([len(window.nll) for window in windows], np.float64)

    def mean(values: list[NDArray[np.float64]], of: Floats) -> tuple[float, Floats]:
        return _mean(np.array([each.sum() for each in values]), of, draws)

    nll, nlls = mean([window.nll for window in windows], predicted)
    reference, references = mean([window.reference_nll for window in windows], predicted)
    kls = [window.kl for window in windows]
    p99 = float(np.quantile(np.concatenate(kls), 0.99))
    # A quantile of every resample of all positions: few of them are enough for an interval.
    p99s = np.array([np.quantile(np.concatenate([kls[i] for i in drawn]), 0.99) for drawn in draws[:200]])
    return Quality(
        n_tokens=int(counts.sum()),
        mean_kl=_estimate(*mean(kls, counts)),
        p99_kl=_estimate(p99, p99s),
        top_1_agreement=_estimate(*mean([window.same_top.astype(np.float64) for window in windows], counts)),
        perplexity=_estimate(float(np.exp(nll)), np.exp(nlls)),
        perplexity_ratio=_estimate(float(np.exp(nll - reference)), np.exp(nlls - references)),
    )


def mean_kl_ratio(ours: Sequence[Divergence], theirs: Sequence[Divergence]) -> Estimate:
    """Return our mean divergence over theirs, on the same windows in the same order.

    Raises:
        ValueError: There are not as many windows of both, or none.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} windows cannot be compared with {len(theirs)}")
    draws = _draws(len(ours))
    our_sums, their_sums = (np.array([w.kl.sum() for w in side]) for side in (ours, theirs))
    return _estimate(
        float(our_sums.sum() / their_sums.sum()), our_sums[draws].sum(axis=1) / their_sums[draws].sum(axis=1)
    )
