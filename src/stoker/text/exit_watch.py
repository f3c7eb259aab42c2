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
        self._reason = ExitReason.NONE

    def take(self, logprob: float) -> bool:
        """Take the log-probability of the next token; return whether the choice ends with it."""
        self._last.append(logprob)
        if len(self._last) < self._rule.window or self._mean() >= self._rule.stop_below:
            return False
        self._reason = ExitReason.CONFIDENCE
        return True

    def complete(self) -> None:
        """Note that the choice has ended because it is of its grammar."""
        self._reason = ExitReason.FORMAT

    @property
    def told(self) -> EarlyExit:
        """What is told at the end."""
        return EarlyExit(self._reason, self._mean() if self._last else None)

    def _mean(self) -> float:
        return exp(fsum(self._last) / len(self._last))
