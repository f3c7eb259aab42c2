"""What a scheduler counts, and how fast it drains."""

from collections import deque
from dataclasses import dataclass, field

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
_WINDOW = 64  # sequences over whose ends the drain rate is measured


@dataclass(slots=True)
class Counters:
    """Totals since the start; they mean what `stoker.core.stats.EngineStats` says."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    expired: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    interval_seconds: float = 0.0
    predicted_seconds: float = 0.0
    streaming_steps: int = 0
    late_steps: int = 0


@dataclass(slots=True)
class DrainRate:
    """Estimates when a full queue will have drained, from the latest ends of sequences.

    Time is the time spent in steps: a server that idled for an hour has not become slow.
    """

    _ends: deque[float] = field(default_factory=lambda: deque([0.0], maxlen=_WINDOW + 1))

    def record(self, step_seconds: float) -> None:
        """Note that a sequence ended when `step_seconds` had been spent in steps."""
        self._ends.append(step_seconds)

    def retry_after_s(self, n_waiting: int, step_seconds: float) -> float:
        """Return how long `n_waiting` sequences take to leave at the measured rate, in 1..60 s."""
        n_ended = max(1, len(self._ends) - 1)
        estimate = n_waiting * (step_seconds - self._ends[0]) / n_ended
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, estimate))
