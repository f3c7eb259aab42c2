"""Admission: a bounded number of choices in flight, refused at once when full."""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import monotonic

from stoker.core.errors import InvalidRequestError, QueueFullError
from stoker.core.protocols import Clock, Generator
from stoker.core.text import Event, TextRequest

_WINDOW_S = 60.0
_MAX_RELEASES = 256
_MIN_RETRY_S = 1.0
_MAX_RETRY_S = 60.0


class Admission:
    """A `Generator` that lets at most `max_in_flight` choices through at a time.

    The permits, one per choice, are taken when the first event is asked for, before the wrapped
    generator does any work, and given back exactly once when the events end, fail or are closed.
    Nobody waits here: waiting places are the engine's queue, and this bound is its size.

    Args:
        generator: What answers the requests.
        max_in_flight: Permits in all; the engine's running and waiting places together.
        clock: Seconds, for the estimate of when to try again.
    """

    def __init__(self, generator: Generator, max_in_flight: int, *, clock: Clock = monotonic) -> None:
        self._generator = generator
        self._max_in_flight = max_in_flight
        self._clock = clock
        self._in_flight = 0
        self._busy_since_s = 0.0
        self._releases: deque[tuple[float, int]] = deque(maxlen=_MAX_RELEASES)

    @property
    def in_flight(self) -> int:
        """Permits taken now."""
        return self._in_flight

    def resize(self, max_in_flight: int) -> None:
        """Change the number of permits; those that are taken stay taken, even if they are more."""
        self._max_in_flight = max_in_flight

    def check(self, n: int) -> None:
        """Refuse `n` choices for which there are no permits now; takes none.

        For a job of several requests, so that all are refused before the first begins.

        Raises:
            QueueFullError: Too few permits are free.
            InvalidRequestError: More choices than there will ever be permits.
        """
        if n > self._max_in_flight:
            raise InvalidRequestError(
                f"{n} choices are asked for, but this server takes at most {self._max_in_flight} choices at "
                "a time.",
                param="n",
                code="integer_above_max_value",
            )
        n_free = max(0, self._max_in_flight - self._in_flight)
        if n > n_free:
            retry_after_s = self.retry_after_s(n)
            state = (
                f"{n} places are needed, {n_free} of {self._max_in_flight} are free"
                if n_free
                else f"All {self._max_in_flight} places are taken"
            )
            raise QueueFullError(
                f"{state}. Try again in {retry_after_s:.0f} s.",
                retry_after_s=retry_after_s,
            )

    async def generate(self, request: TextRequest) -> AsyncGenerator[Event]:
        """Yield the wrapped generator's events while holding one permit per choice.

        Raises:
            QueueFullError: Too few permits are free.
            InvalidRequestError: More choices than there will ever be permits.
        """
        n = request.n
        self.check(n)
        if self._in_flight == 0:
            self._busy_since_s = self._clock()
        self._in_flight += n
        try:
            async with aclosing(self._generator.generate(request)) as events:
                async for event in events:
                    yield event
        finally:
            self._in_flight -= n
            self._releases.append((self._clock(), n))

    def retry_after_s(self, n: int) -> float:
        """Estimate when `n` permits will be free, in whole seconds within 1..60.

        The rate is that of the last minute's releases, counted from when the server was last idle
        if that is more recent; before the first release, one is taken to be due.
        """
        now_s = self._clock()
        since_s = max(now_s - _WINDOW_S, self._busy_since_s)
        recent = [(time_s, count) for time_s, count in self._releases if time_s >= since_s]
        if len(recent) == _MAX_RELEASES:
            since_s = recent[0][0]
        n_released = max(1, sum(count for _, count in recent))
        n_missing = max(1, self._in_flight + n - self._max_in_flight)
        estimate_s = (now_s - since_s) * n_missing / n_released
        return float(round(min(_MAX_RETRY_S, max(_MIN_RETRY_S, estimate_s))))
