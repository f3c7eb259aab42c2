"""Admission: a bounded number of choices and bytes of prompts in flight, refused at once when full."""

from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from time import monotonic

from stoker.core.errors import InvalidRequestError, QueueFullError
from stoker.core.protocols import Clock, Generator
from stoker.core.text import Event, Prompt, TextRequest
from stoker.policy.prompt_memory import prompt_bytes

_WINDOW_S = 60.0
_MAX_RELEASES = 256
_MIN_RETRY_S = 1.0
_MAX_RETRY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionLimits:
    """Bounds of what one model has in flight at the gateway.

    Attributes:
        max_choices: Permits in all; the engine's running and waiting places together.
        max_prompt_bytes: Most bytes of prompts (`stoker.policy.prompt_memory`); one that is alone may
            have more.
        context_length: Most tokens of one sequence.
    """

    max_choices: int
    max_prompt_bytes: int = 512 * 2**20
    context_length: int = 2**24


@dataclass(slots=True)
class _Share:
    n_choices: int
    n_bytes: int
    held: bool = False


class Admission:
    """A `Generator` that lets a bounded number of choices, and of bytes, through at a time.

    The permits, one per choice, are taken before the wrapped generator does any work: for a job of
    several requests by `reserve`, all or none, else when the first event is asked for. They are given
    back exactly once, when a request's events end, fail or are closed. Nobody waits here: waiting places
    are the engine's queue, and the number of permits is its size.

    Args:
        generator: What answers the requests.
        limits: How much is let through.
        clock: Seconds, for the estimate of when to try again.
    """

    def __init__(self, generator: Generator, limits: AdmissionLimits, *, clock: Clock = monotonic) -> None:
        self._generator = generator
        self._limits = limits
        self._clock = clock
        self._reserved: dict[str, _Share] = {}  # of requests that have not begun, by id
        self._in_flight = 0
        self._prompt_bytes = 0
        self._busy_since_s = 0.0
        self._releases: deque[tuple[float, int]] = deque(maxlen=_MAX_RELEASES)

    @property
    def in_flight(self) -> int:
        """Permits taken now."""
        return self._in_flight

    def resize(self, limits: AdmissionLimits) -> None:
        """Change the limits; what is taken stays taken, even if it is more."""
        self._limits = limits

    @property
    def prompt_bytes(self) -> int:
        """Bytes that the prompts in flight are taken to need."""
        return self._prompt_bytes

    @contextmanager
    def reserve(self, requests: Sequence[TextRequest]) -> Iterator[None]:
        """Hold the permits of a whole job while the context lasts; a request that ends gives back its own.

        Raises:
            QueueFullError: Too few permits or bytes are free; none has been taken.
            InvalidRequestError: More choices than there will ever be permits.
        """
        shares = self._take(requests)
        self._reserved.update(
            (request.request_id, share) for request, share in zip(requests, shares, strict=True)
        )
        try:
            yield
        finally:
            for request, share in zip(requests, shares, strict=True):
                self._reserved.pop(request.request_id, None)
                self._give_back(share)

    @contextmanager
    def hold(self, prompts: Sequence[Prompt], most: int) -> Iterator[int]:
        """Hold up to `most` permits for prompts that nothing is generated for, while the context lasts.

        Yields:
            How many permits there are, one at least: so many of the prompts may be computed at a time.

        Raises:
            QueueFullError: No permit is free, or too few bytes are.
        """
        limits = self._limits
        n_free = limits.max_choices - self._in_flight
        n_bytes = sum(prompt_bytes(prompt, context_length=limits.context_length) for prompt in prompts)
        share = _Share(max(1, min(most, len(prompts), n_free)), n_bytes)
        self._take_shares([share])
        try:
            yield share.n_choices
        finally:
            self._give_back(share)

    async def generate(self, request: TextRequest) -> AsyncGenerator[Event]:
        """Yield the wrapped generator's events while holding one permit per choice that is generated.

        Raises:
            QueueFullError: Too few permits or bytes are free, and none was reserved.
            InvalidRequestError: More choices than there will ever be permits.
        """
        share = self._reserved.pop(request.request_id, None) or self._take([request])[0]
        try:
            async with aclosing(self._generator.generate(request)) as events:
                async for event in events:
                    yield event
        finally:
            self._give_back(share)

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
        n_missing = max(1, self._in_flight + n - self._limits.max_choices)
        estimate_s = (now_s - since_s) * n_missing / n_released
        return float(round(min(_MAX_RETRY_S, max(_MIN_RETRY_S, estimate_s))))

    def _take(self, requests: Sequence[TextRequest]) -> list[_Share]:
        limits = self._limits
        n = sum(request.n_sequences for request in requests)
        if n > limits.max_choices:
            raise InvalidRequestError(
                f"{n} choices are asked for, but this server takes at most {limits.max_choices} choices at "
                "a time.",
                param="n",
                code="integer_above_max_value",
            )
        shares = [
            _Share(request.n_sequences, prompt_bytes(request.prompt, context_length=limits.context_length))
            for request in requests
        ]
        self._take_shares(shares)
        return shares

    def _take_shares(self, shares: Sequence[_Share]) -> None:
        limits = self._limits
        n = sum(share.n_choices for share in shares)
        n_bytes = sum(share.n_bytes for share in shares)
        n_free = limits.max_choices - self._in_flight
        if n > n_free:
            raise self._full(
                n,
                f"{n} places are needed, {n_free} of {limits.max_choices} are free"
                if n_free
                else f"All {limits.max_choices} places are taken",
            )
        if self._prompt_bytes and self._prompt_bytes + n_bytes > limits.max_prompt_bytes:
            raise self._full(
                n,
                f"The prompts in flight may take {limits.max_prompt_bytes} bytes of memory, "
                f"{self._prompt_bytes} are taken and {n_bytes} are needed",
            )
        if self._in_flight == 0:
            self._busy_since_s = self._clock()
        self._in_flight += n
        self._prompt_bytes += n_bytes
        for share in shares:
            share.held = True

    def _full(self, n: int, why: str) -> QueueFullError:
        retry_after_s = self.retry_after_s(n)
        return QueueFullError(f"{why}. Try again in {retry_after_s:.0f} s.", retry_after_s=retry_after_s)

    def _give_back(self, share: _Share) -> None:
        if share.held:
            share.held = False
            self._in_flight -= share.n_choices
            self._prompt_bytes -= share.n_bytes
            self._releases.append((self._clock(), share.n_choices))
