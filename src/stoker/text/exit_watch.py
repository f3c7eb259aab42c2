"""Whether a choice goes on, by how sure the model is of its last tokens."""

from collections import deque
from math import exp, fsum

from stoker.core.early_exit import EarlyExit, ExitReason, ExitRule


class ExitWatch:
    """Applies an `ExitRule` to one choice, token by token: events may hold them in any groups.

    Args:
        rule: The rule.
    """

    def __init__(self, rule: ExitRule) -> None:
        self._rule = rule
        self._last: deque[float] = deque(maxlen=rule.window)
        self._stopped = False

    def take(self, logprob: float) -> bool:
        """Take the log-probability of the next token; return whether the choice ends with it."""
        self._last.append(logprob)
        self._stopped = len(self._last) == self._rule.window and self._mean() < self._rule.stop_below
        return self._stopped

    @property
    def told(self) -> EarlyExit:
        """What is told at the end."""
        reason = ExitReason.CONFIDENCE if self._stopped else ExitReason.NONE
        return EarlyExit(reason, self._mean() if self._last else None)

    def _mean(self) -> float:
        return exp(fsum(self._last) / len(self._last))
