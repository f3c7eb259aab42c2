"""How long a step will take: operations and bytes, corrected by what steps took.

The time of a step is taken for a sum: a fixed part, and one for each count of `StepWork`. What a count
costs begins with the model's operations and bytes at nominal rates and follows what is measured, by a
Kalman filter whose state are the five costs (recursive least squares with a random walk; Ljung, *System
Identification*, 1999, chapter 11). Errors are relative, so that a step of 2 ms counts as much as one of
200 ms. Beyond least squares:

* What has not been seen for a while keeps its cost and only becomes less certain: hours of decoding do
  not forget what prompts cost, as exponential forgetting would.
* An error far beyond the usual ones is cut (Huber): one step during which the machine did something else
  moves nothing much, while a machine that has become slower is followed within some tens of steps.
* Costs stay positive.

Everything is a function of what was observed: no clock, no random numbers.
"""

from collections.abc import Sequence

from stoker.core.work import ModelWork, StepWork

N_COSTS = 5

NOMINAL_MATRIX_OPS = 2e11
"""Operations of matrix products in a second: where the estimate begins, soon overruled."""

NOMINAL_ATTENTION_OPS = 2e10
NOMINAL_BYTES = 2e10
MIN_FIXED_S = 1e-4
"""Least that the fixed part begins with: what a step costs whatever is in it."""

_NOISE = 0.01  # variance of a measurement's relative error
_DRIFT = 2e-5  # by which each cost's relative variance grows with a step
_COMMON = 4.0  # relative variance of the machine's speed before anything was measured
_EACH = 0.25  # and of one cost against the others
_CUT = 3.0  # errors are cut at so many times their usual size
_SPREAD_RATE = 0.1
_LEAST_SPREAD = 0.02
_FLOOR = 0.01  # a cost is at least this share of what the largest correction makes of it


class CostModel:
    """Predicts the time of a step.

    Args:
        model: Operations and bytes of the model.
    """

    __slots__ = ("_costs", "_covariance", "_nominal", "_spread")

    def __init__(self, model: ModelWork) -> None:
        self._nominal = (
            MIN_FIXED_S + model.weight_bytes / NOMINAL_BYTES,
            model.row_ops / NOMINAL_MATRIX_OPS,
            model.pair_ops / NOMINAL_ATTENTION_OPS,
            model.kv_bytes / NOMINAL_BYTES,
            model.output_ops / NOMINAL_MATRIX_OPS,
        )
        self._costs = [1.0] * N_COSTS  # times nominal
        self._covariance = [
            [_COMMON + _EACH * (row == column) for column in range(N_COSTS)] for row in range(N_COSTS)
        ]
        self._spread = 1.0  # of relative errors

    @property
    def costs_s(self) -> tuple[float, ...]:
        """Seconds of the fixed part, a row, a pair, a token read and a row of logits."""
        return tuple(cost * nominal for cost, nominal in zip(self._costs, self._nominal, strict=True))

    def predict(self, work: StepWork) -> float:
        """Return the seconds that a step of this work will take; more than 0."""
        fixed, row, pair, read, output = self._nominal
        costs = self._costs
        return (
            costs[0] * fixed
            + costs[1] * row * work.rows
            + costs[2] * pair * work.pairs
            + costs[3] * read * work.reads
            + costs[4] * output * work.outputs
        )

    def observe(self, work: StepWork, seconds: float) -> float:
        """Learn from a step that took `seconds`, more than 0.

        Returns:
            What `predict` said of it.
        """
        fixed, row, pair, read, output = self._nominal
        predicted = self.predict(work)
        error = seconds / predicted - 1.0
        cut = _CUT * self._spread
        size = abs(error)
        self._spread = max(_LEAST_SPREAD, self._spread + _SPREAD_RATE * ((min(1.0, size)) - self._spread))
        self._update(
            (
                fixed / predicted,
                row * work.rows / predicted,
                pair * work.pairs / predicted,
                read * work.reads / predicted,
                output * work.outputs / predicted,
            ),
            max(-cut, min(cut, error)),
        )
        return predicted

    def _update(self, shares: Sequence[float], error: float) -> None:
        """Correct the costs for a relative error of a step in which each had this share per unit."""
        h0, h1, h2, h3, h4 = shares
        covariance = self._covariance
        toward = [r[0] * h0 + r[1] * h1 + r[2] * h2 + r[3] * h3 + r[4] * h4 for r in covariance]
        t0, t1, t2, t3, t4 = toward
        weight = 1.0 / (t0 * h0 + t1 * h1 + t2 * h2 + t3 * h3 + t4 * h4 + _NOISE)
        step = weight * error
        costs = [cost + step * t for cost, t in zip(self._costs, toward, strict=True)]
        least = _FLOOR * max(costs)
        self._costs = costs = [max(least, cost) for cost in costs]
        for index, (own, t, cost) in enumerate(zip(covariance, toward, costs, strict=True)):
            gain = weight * t
            own[0] -= gain * t0
            own[1] -= gain * t1
            own[2] -= gain * t2
            own[3] -= gain * t3
            own[4] -= gain * t4
            own[index] += _DRIFT * cost * cost
        self._bound()

    def _bound(self) -> None:
        """Keep every cost's variance within what it was at first, relative to the cost."""
        covariance = self._covariance
        for index, cost in enumerate(self._costs):
            most = (_COMMON + _EACH) * cost * cost
            if covariance[index][index] > most:
                factor = (most / covariance[index][index]) ** 0.5
                for other in range(N_COSTS):
                    covariance[index][other] *= factor
                    covariance[other][index] *= factor
