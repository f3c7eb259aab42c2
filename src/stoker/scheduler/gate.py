"""What may wait for a step to be filled."""

from stoker.core.batching import BatchingPolicy


class BatchGate:
    """Holds back who arrives until a step can be filled or the first of them has waited enough."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since: float | None = None

    def arrived(self, now: float) -> None:
        """Note that a request was submitted."""
        if self._since is None:
            self._since = now

    def open(self) -> None:
        """Hold back nobody who is here by now."""
        self._since = None

    def opens_at(self, policy: BatchingPolicy) -> float | None:
        """Return when it opens by itself; None while it holds nobody back."""
        if self._since is None or policy.mode != "time":
            return None
        return self._since + policy.batch_wait_s
