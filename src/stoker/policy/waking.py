"""Requests for a model that sleeps wake it, and keep it awake while they last."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Protocol, TypeVar

from stoker.core.errors import DeadlineError, QueueTimeoutError
from stoker.core.protocols import Embedder, Generator, PinnedPrefix, Pins, Scorer
from stoker.core.text import ChoiceScores, Embedding, EmbeddingRequest, Event, ScoringRequest, TextRequest


class Door(Protocol):
    """Where a model is entered."""

    @property
    def open(self) -> bool:
        """Whether who comes now enters at once."""

    def awake(self) -> AbstractAsyncContextManager[None]:
        """Wait until the model is awake, waking it if need be; it stays awake while the context lasts.

        Raises:
            NotReadyError: It could not be woken, or there was no room for it in time.
        """


class CheckedGenerator(Generator, Protocol):
    """A `Generator` that says without an engine whether it refuses a request."""

    async def check(self, request: TextRequest) -> None:
        """Raise what `generate` would before it needs an engine."""


class CheckedEmbedder(Embedder, Protocol):
    """An `Embedder` that says without an engine whether it refuses a request."""

    async def check(self, request: EmbeddingRequest) -> None:
        """Raise what `embed` would before it needs an engine."""


class CheckedScorer(Scorer, Protocol):
    """A `Scorer` that says without an engine whether it refuses a request."""

    async def check(self, request: ScoringRequest) -> None:
        """Raise what `score` would before it needs an engine."""


class WakingGenerator:
    """A `Generator` that works while its model is awake. Who waits is answered in the order of arrival.

    A request that is refused without an engine, as when its prompt is too long, wakes no model. One that
    waits is tokenized twice, before and after: tokens are not held meanwhile.

    Args:
        generator: What answers the requests of a model that is awake.
        door: Where the model is entered.
    """

    def __init__(self, generator: CheckedGenerator, door: Door) -> None:
        self._generator = generator
        self._door = door

    async def generate(self, request: TextRequest) -> AsyncGenerator[Event]:
        """Yield the wrapped generator's events; the time of waking counts in the request's time limits.

        Raises:
            NotReadyError: The model could not be woken, or there was no room for it in time.
            QueueTimeoutError: It was not awake within the request's `queue_timeout_s`.
            DeadlineError: It was not awake within the request's `timeout_s`.
        """
        inner = self._generator
        async with (
            _entered(self._door, request, inner.check) as rest,
            aclosing(inner.generate(rest)) as events,
        ):
            async for event in events:
                yield event


class WakingEmbedder:
    """An `Embedder` that works while its model is awake; it refuses as `WakingGenerator` does.

    Args:
        embedder: What answers the requests of a model that is awake.
        door: Where the model is entered.
    """

    def __init__(self, embedder: CheckedEmbedder, door: Door) -> None:
        self._embedder = embedder
        self._door = door

    @property
    def width(self) -> int | None:
        """Elements of an embedding; None if it is not known."""
        return self._embedder.width

    async def embed(self, request: EmbeddingRequest, *, places: int) -> list[Embedding]:
        """Return the wrapped embedder's embeddings; the time of waking counts in the request's time limits.

        Raises:
            NotReadyError: The model could not be woken, or there was no room for it in time.
            QueueTimeoutError: It was not awake within the request's `queue_timeout_s`.
            DeadlineError: It was not awake within the request's `timeout_s`.
        """
        async with _entered(self._door, request, self._embedder.check) as rest:
            return await self._embedder.embed(rest, places=places)


class WakingScorer:
    """A `Scorer` that works while its model is awake; it refuses as `WakingGenerator` does.

    Args:
        scorer: What answers the requests of a model that is awake.
        door: Where the model is entered.
    """

    def __init__(self, scorer: CheckedScorer, door: Door) -> None:
        self._scorer = scorer
        self._door = door

    async def score(self, request: ScoringRequest, *, places: int) -> list[ChoiceScores]:
        """Return the wrapped scorer's scores; raises as `WakingEmbedder.embed`."""
        async with _entered(self._door, request, self._scorer.check) as rest:
            return await self._scorer.score(rest, places=places)


class WakingPins:
    """`Pins` of a model that is woken to compute a new one; those that it has are held again when it wakes.

    Args:
        pins: The pins of the model's engines.
        door: Where the model is entered.
    """

    def __init__(self, pins: Pins, door: Door) -> None:
        self._pins = pins
        self._door = door

    async def pin(self, token_ids: Sequence[int]) -> PinnedPrefix:
        """Wake the model and pin a prefix; see `Pins.pin`."""
        async with self._door.awake():
            return await self._pins.pin(token_ids)

    def all(self) -> list[PinnedPrefix]:
        """Return every pinned prefix, the oldest first."""
        return self._pins.all()

    async def unpin(self, pin_id: str) -> PinnedPrefix:
        """Let a prefix be evicted like any other; see `Pins.unpin`."""
        return await self._pins.unpin(pin_id)


_Request = TypeVar("_Request", TextRequest, EmbeddingRequest, ScoringRequest)


@asynccontextmanager
async def _entered(
    door: Door, request: _Request, check: Callable[[_Request], Awaitable[None]]
) -> AsyncGenerator[_Request]:
    """Keep the model awake, once it is; give the request with what waking has left of its time limits."""
    now = asyncio.get_running_loop().time
    began_s = now()
    limits = (request.queue_timeout_s, request.timeout_s)
    limit_s = min((each for each in limits if each is not None), default=None)
    awake = door.awake()
    try:
        async with asyncio.timeout(limit_s):
            if not door.open:
                await check(request)
            await awake.__aenter__()
    except TimeoutError as error:
        raise _expiry(request) from error
    try:
        spent_s = now() - began_s
        yield replace(
            request,
            queue_timeout_s=_left(request.queue_timeout_s, spent_s),
            timeout_s=_left(request.timeout_s, spent_s),
        )
    finally:
        await awake.__aexit__(None, None, None)


def _expiry(request: TextRequest | EmbeddingRequest | ScoringRequest) -> QueueTimeoutError | DeadlineError:
    queue_s, whole_s = request.queue_timeout_s, request.timeout_s
    if queue_s is not None and (whole_s is None or queue_s < whole_s):
        return QueueTimeoutError(
            "the request waited for its model to wake up as long as its queue time limit allows; try again",
            retry_after_s=1.0,
        )
    return DeadlineError("the request waited for its model to wake up until its time limit was over")


def _left(limit_s: float | None, spent_s: float) -> float | None:
    return None if limit_s is None else max(0.0, limit_s - spent_s)
