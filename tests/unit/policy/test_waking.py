"""Requests of a model that sleeps: their time limits go on while they wait, and the door is always left."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace

import pytest

from stoker.core.errors import ContextLengthError, DeadlineError, NotReadyError, QueueTimeoutError
from stoker.core.text import (
    ChoiceScores,
    Embedding,
    EmbeddingRequest,
    Event,
    ScoringRequest,
    TextPrompt,
    TextRequest,
)
from stoker.policy.waking import WakingEmbedder, WakingGenerator, WakingPins, WakingScorer
from stoker.testing.fixed_pins import FixedPins
from stoker.testing.generator import ScriptedGenerator, reply

REQUEST = TextRequest(request_id="r", model="m", prompt=TextPrompt("hi"), max_tokens=8)


class SlowDoor:
    """Opens after a time, or not at all.

    Attributes:
        open: Whether it says that who comes enters at once.
        inside: How many are inside.
        entered: How many were.
    """

    def __init__(self, after_s: float = 0.0, error: NotReadyError | None = None) -> None:
        self._after_s = after_s
        self._error = error
        self.open = not after_s and error is None
        self.inside = self.entered = 0

    def awake(self) -> AbstractAsyncContextManager[None]:
        return self._awake()

    @asynccontextmanager
    async def _awake(self) -> AsyncGenerator[None]:
        await asyncio.sleep(self._after_s)
        if self._error is not None:
            raise self._error
        self.inside += 1
        self.entered += 1
        try:
            yield
        finally:
            self.inside -= 1


class Remembering:
    """A generator that remembers its request, and when it was asked whether it refuses one."""

    def __init__(self, refusal: ContextLengthError | None = None) -> None:
        self.request: TextRequest | None = None
        self.checked: list[TextRequest] = []
        self._refusal = refusal

    async def check(self, request: TextRequest) -> None:
        self.checked.append(request)
        if self._refusal is not None:
            raise self._refusal

    async def generate(self, request: TextRequest) -> AsyncGenerator[Event]:
        self.request = request
        async with aclosing(ScriptedGenerator(reply("Hi")).generate(request)) as events:
            async for event in events:
                yield event


async def test_the_door_is_held_while_events_come() -> None:
    door = SlowDoor()
    async with aclosing(WakingGenerator(ScriptedGenerator(reply("Hi")), door).generate(REQUEST)) as events:
        await anext(events)
        assert door.inside == 1
    assert (door.inside, door.entered) == (0, 1), "a client that leaves leaves the door too"
    events_to_the_end = [each async for each in WakingGenerator(Remembering(), door).generate(REQUEST)]
    assert len(events_to_the_end) > 1
    assert door.inside == 0


async def test_what_is_left_of_the_time_limits_goes_on() -> None:
    inner = Remembering()
    request = replace(REQUEST, queue_timeout_s=5.0, timeout_s=7.0)
    assert [each async for each in WakingGenerator(inner, SlowDoor(0.05)).generate(request)]
    assert inner.request is not None
    assert inner.request.queue_timeout_s is not None
    assert inner.request.timeout_s is not None
    assert 4 < inner.request.queue_timeout_s < 4.96
    assert 6 < inner.request.timeout_s < 6.96


@pytest.mark.parametrize(
    ("queue_timeout_s", "timeout_s", "error"),
    [(0.01, None, QueueTimeoutError), (0.01, 5.0, QueueTimeoutError), (5.0, 0.01, DeadlineError)],
)
async def test_a_time_limit_ends_the_wait(
    queue_timeout_s: float | None, timeout_s: float | None, error: type[Exception]
) -> None:
    door = SlowDoor(10)
    request = replace(REQUEST, queue_timeout_s=queue_timeout_s, timeout_s=timeout_s)
    with pytest.raises(error, match="wake up"):
        _ = [each async for each in WakingGenerator(Remembering(), door).generate(request)]
    assert door.entered == 0


async def test_what_would_be_refused_wakes_nobody() -> None:
    too_long = ContextLengthError("too long", param="prompt")
    generator, door = Remembering(too_long), SlowDoor(0.01)
    with pytest.raises(ContextLengthError):
        _ = [each async for each in WakingGenerator(generator, door).generate(REQUEST)]
    with pytest.raises(ContextLengthError):
        await WakingEmbedder(FixedEmbedder(too_long), door).embed(INPUTS, places=1)
    assert (generator.request, door.entered) == (None, 0)


async def test_a_request_is_checked_before_it_waits_and_only_then() -> None:
    waiting, entering = Remembering(), Remembering()
    assert [each async for each in WakingGenerator(waiting, SlowDoor(0.01)).generate(REQUEST)]
    assert [each async for each in WakingGenerator(entering, SlowDoor()).generate(REQUEST)]
    assert (waiting.checked, entering.checked) == ([REQUEST], [])
    assert waiting.request == entering.request == REQUEST


async def test_a_door_that_does_not_open() -> None:
    door = SlowDoor(error=NotReadyError("no"))
    with pytest.raises(NotReadyError):
        _ = [each async for each in WakingGenerator(Remembering(), door).generate(REQUEST)]


async def test_pinning_wakes_and_looking_does_not() -> None:
    door = SlowDoor()
    pins = WakingPins(FixedPins(), door)
    pin = await pins.pin(list(range(32)))
    assert (door.entered, door.inside) == (1, 0)
    assert pins.all() == [pin]
    assert not (await pins.unpin(pin.id)).held
    assert door.entered == 1


class FixedEmbedder:
    """An embedder that remembers its request."""

    width: int | None = 2

    def __init__(self, refusal: ContextLengthError | None = None) -> None:
        self.request: EmbeddingRequest | None = None
        self.places = 0
        self._refusal = refusal

    async def check(self, request: EmbeddingRequest) -> None:
        assert request is INPUTS or request.timeout_s is not None
        if self._refusal is not None:
            raise self._refusal

    async def embed(self, request: EmbeddingRequest, *, places: int) -> list[Embedding]:
        self.request, self.places = request, places
        return []


INPUTS = EmbeddingRequest(request_id="r", inputs=(TextPrompt("hi"),), paths=("input",))


async def test_inputs_are_embedded_while_the_model_is_awake_and_waiting_counts() -> None:
    embedder, door = FixedEmbedder(), SlowDoor(0.05)
    waking = WakingEmbedder(embedder, door)
    assert waking.width == 2
    assert await waking.embed(replace(INPUTS, timeout_s=10.0), places=1) == []
    assert embedder.places == 1
    assert embedder.request is not None
    assert embedder.request.timeout_s is not None
    assert 0 < embedder.request.timeout_s < 9.96
    assert (door.entered, door.inside) == (1, 0)


async def test_inputs_for_a_model_that_does_not_wake_in_time_are_refused() -> None:
    embedder = FixedEmbedder()
    with pytest.raises(DeadlineError):
        await WakingEmbedder(embedder, SlowDoor(5.0)).embed(replace(INPUTS, timeout_s=0.02), places=1)
    assert embedder.request is None


class RememberingScorer:
    """A scorer that remembers its request, and how many were inside."""

    def __init__(self, door: SlowDoor) -> None:
        self._door = door
        self.seen: tuple[ScoringRequest, int, int] | None = None

    async def check(self, request: ScoringRequest) -> None:
        assert request.choices

    async def score(self, request: ScoringRequest, *, places: int) -> list[ChoiceScores]:
        self.seen = (request, places, self._door.inside)
        return []


async def test_a_model_is_woken_to_score() -> None:
    door = SlowDoor(after_s=0.05)
    within = RememberingScorer(door)
    request = ScoringRequest(
        request_id="r",
        prompts=(TextPrompt("a"),),
        paths=("input",),
        choices=("x", "y"),
        choices_path="labels",
        timeout_s=5.0,
    )
    assert await WakingScorer(within, door).score(request, places=3) == []
    assert within.seen is not None
    seen, places, inside = within.seen
    assert (places, inside, door.inside) == (3, 1, 0)
    assert 4 < (seen.timeout_s or 0) < 4.96
    with pytest.raises(DeadlineError):
        await WakingScorer(within, SlowDoor(after_s=5)).score(replace(request, timeout_s=0.01), places=1)
