"""Streams that go on where they stopped, over engines that die in this process."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.abilities import Ability
from stoker.core.errors import (
    EngineDiedError,
    NotReadyError,
    QueueFullError,
    RequestQuarantinedError,
)
from stoker.core.sampling import SamplingParams
from stoker.core.step import MAX_CALL_TOKENS
from stoker.core.tokens import Admitted, FinishReason, TokenEvent, TokenRequest, TokensEvent
from stoker.testing.mortal_engine import MortalEngine
from stoker.testing.step_engine import DEFAULT_VOCAB_SIZE, reference_tokens
from stoker.testing.token_streams import collect, tokens_of
from stoker.testing.workloads import make_harmless, make_request
from stoker.worker.resume import ResumingEngine

POISON = 13


def resuming(engine: MortalEngine, timeout_s: float = 5.0) -> ResumingEngine:
    return ResumingEngine(engine, timeout_s=timeout_s)


def innocent(name: str, *, max_tokens: int = 12, sampled: bool = True) -> TokenRequest:
    return make_harmless(name, POISON, max_tokens=max_tokens, sampled=sampled)


async def turns_until(happened: Callable[[], object]) -> None:
    """Return with the first turn of the event loop after which `happened()` is true."""
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110 - every turn of the loop counts
            await asyncio.sleep(0)


async def after(
    n_tokens: int, engine: ResumingEngine, request: TokenRequest, act: Callable[[], None]
) -> None:
    """Read a stream to its end, act once on the way, and check that nothing is lost or doubled."""
    received: list[int] = []
    stream = engine.stream(request)
    await anext(stream)
    async for event in stream:
        received += getattr(event, "token_ids", ())
        if len(received) == n_tokens:
            act()
    assert tuple(received) == reference_tokens(request)


@pytest.mark.parametrize("n_tokens", [1, 5, 11])
@pytest.mark.parametrize("sampled", [False, True])
async def test_a_stream_goes_on_where_it_stopped(n_tokens: int, *, sampled: bool) -> None:
    mortal = MortalEngine()
    engine = resuming(mortal)
    await after(n_tokens, engine, innocent("a", sampled=sampled), mortal.die)
    assert mortal.restarts == 1
    assert engine.n_resumed == 1


@pytest.mark.parametrize("n_tokens", [1, 5, 11])
async def test_what_was_generated_before_still_counts_as_output(n_tokens: int) -> None:
    sampling = SamplingParams(seed=3, presence_penalty=1.5, frequency_penalty=0.5)
    ends = frozenset(range(0, DEFAULT_VOCAB_SIZE, 2))
    request = make_request("a", max_tokens=12, min_tokens=12, stop_token_ids=ends, sampling=sampling)
    output = reference_tokens(request)
    cut = replace(request, prompt=(*request.prompt, *output[:n_tokens]), max_tokens=12 - n_tokens)
    rest = replace(cut, n_generated=n_tokens)
    assert reference_tokens(rest) == output[n_tokens:]
    assert reference_tokens(replace(cut, min_tokens=12 - n_tokens)) != output[n_tokens:]
    mortal = MortalEngine()
    await after(n_tokens, resuming(mortal), request, mortal.die)
    assert mortal.restarts == 1


async def test_what_is_told_beside_the_tokens_is_as_of_the_first_engine() -> None:
    mortal = MortalEngine()
    request = innocent("a")
    stop = reference_tokens(request)[6]
    request = make_request(
        "a",
        prompt=request.prompt,
        max_tokens=12,
        stop_token_ids=frozenset({stop}),
        sampling=SamplingParams(seed=request.sampling.seed, logprobs=0),
    )
    undisturbed = await collect(resuming(mortal).stream(request))
    asyncio.get_running_loop().call_soon(mortal.die)
    disturbed = []
    async for event in resuming(mortal).stream(request):
        disturbed.append(event)
        if len(disturbed) == 4:
            mortal.die()
    assert disturbed[1:] == undisturbed
    assert undisturbed[-1].finish_reason is FinishReason.STOP
    assert {event.cached_tokens for event in undisturbed} == {7}
    assert len(mortal.deaths) == 2


async def test_a_request_that_was_not_admitted_is_submitted_again() -> None:
    mortal = MortalEngine()
    engine = resuming(mortal)
    request = innocent("a")
    reading = asyncio.create_task(tokens_of(engine, request))
    await turns_until(lambda: mortal.running)
    mortal.die()
    assert await reading == reference_tokens(request)


async def test_a_new_request_is_refused_while_no_engine_is_ready() -> None:
    mortal = MortalEngine(revive_s=None)
    mortal.die()
    with pytest.raises(NotReadyError, match="being restarted"):
        await tokens_of(resuming(mortal), innocent("a"))


async def test_a_new_request_is_refused_by_a_full_engine_and_a_resumed_one_asks_again() -> None:
    mortal = MortalEngine()
    engine = resuming(mortal)

    def fill_the_next() -> None:
        mortal.die()
        mortal.n_places = 0
        asyncio.get_running_loop().call_later(0.15, setattr, mortal, "n_places", 64)

    await after(5, engine, innocent("a"), fill_the_next)
    mortal.n_places = 0
    with pytest.raises(QueueFullError):
        await tokens_of(engine, innocent("b"))


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda _: None, r"the engine died; no other one was ready within 0\.2 s"),
        (lambda mortal: mortal.stop(), "the engine died; the engine is stopped"),
        (lambda mortal: _next(mortal, n_places=0), "the engine died; the next one had no place for it"),
        (lambda mortal: _next(mortal, fingerprint="other"), "not continue .* it is other, not fake"),
    ],
)
async def test_a_stream_that_cannot_go_on_says_why(
    prepare: Callable[[MortalEngine], None], message: str
) -> None:
    mortal = MortalEngine(revive_s=None)

    def act() -> None:
        mortal.die()
        prepare(mortal)

    with pytest.raises(EngineDiedError, match=message):
        await after(3, resuming(mortal, timeout_s=0.2), innocent("a"), act)


def _next(mortal: MortalEngine, *, n_places: int = 64, fingerprint: str = "fake") -> None:
    mortal.n_places, mortal.fingerprint = n_places, fingerprint
    mortal.revive()


async def test_a_request_that_waits_for_an_engine_can_be_aborted() -> None:
    mortal = MortalEngine(revive_s=None)
    engine = resuming(mortal)
    reading = asyncio.create_task(tokens_of(engine, innocent("a")))
    await turns_until(lambda: mortal.running)
    mortal.die()
    await asyncio.sleep(0.01)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert reading.cancelled()
    mortal.revive()
    assert await tokens_of(engine, innocent("b"))
    assert engine.n_resumed == 0


async def test_a_poisoned_request_is_found_and_refused_and_the_others_end_well() -> None:
    mortal = MortalEngine(poison=POISON)
    engine = resuming(mortal)
    requests = [innocent(f"r{number}", max_tokens=40) for number in range(6)]
    poisoned = make_request("poisoned", prompt=(1, POISON, 2))
    reading = [asyncio.create_task(tokens_of(engine, request)) for request in [*requests, poisoned]]
    with pytest.raises(RequestQuarantinedError, match=r"engines die of this request.*the engine died"):
        await reading.pop()
    assert await asyncio.gather(*reading) == [reference_tokens(request) for request in requests]
    assert len(mortal.deaths) <= 4
    assert mortal.deaths[-1] == {"poisoned"}
    assert engine.n_quarantined == 1
    with pytest.raises(RequestQuarantinedError, match="not long ago"):
        await tokens_of(engine, make_request("again", prompt=(1, POISON, 2)))
    assert len(mortal.deaths) <= 4, "it was refused at once"
    mortal.stop()
    with pytest.raises(RequestQuarantinedError, match="not long ago"):
        await tokens_of(engine, make_request("still", prompt=(1, POISON, 2)))


async def test_requests_that_come_during_a_probation_wait_and_are_served() -> None:
    mortal = MortalEngine()
    engine = resuming(mortal)
    suspects = [innocent(f"r{number}") for number in range(3)]
    reading = [asyncio.create_task(tokens_of(engine, request)) for request in suspects]
    for restarts in range(2):
        await turns_until(lambda: len(mortal.running) == 3)
        assert mortal.restarts == restarts
        mortal.die()
    await turns_until(lambda: mortal.restarts == 2)
    late = innocent("late")
    assert await tokens_of(engine, late) == reference_tokens(late)
    assert await asyncio.gather(*reading) == [reference_tokens(request) for request in suspects]


async def test_a_line_moves_on_when_its_first_is_not_read_until_the_next_is_admitted() -> None:
    mortal = MortalEngine()
    engine = resuming(mortal)
    requests = [innocent(f"r{number}") for number in range(3)]
    streams = [engine.stream(request) for request in requests]
    admissions = [asyncio.create_task(_next_event(stream)) for stream in streams]
    for _ in range(2):
        await turns_until(lambda: len(mortal.running) == 3)
        mortal.die()
    async with asyncio.timeout(5):
        admitted = await asyncio.gather(*admissions)
    assert admitted == [Admitted(request.request_id) for request in requests]
    for request, stream in zip(requests, streams, strict=True):
        assert tuple([token async for event in stream for token in tokens_in(event)]) == reference_tokens(
            request
        )


async def _next_event(stream: AsyncGenerator[TokenEvent]) -> TokenEvent:
    return await anext(stream)


def tokens_in(event: TokenEvent) -> tuple[int, ...]:
    assert isinstance(event, TokensEvent)
    return event.token_ids


@given(seed=st.integers(0, 2**32), n_requests=st.integers(1, 12), n_poisoned=st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_any_schedule_of_deaths_leaves_every_stream_whole(
    seed: int, n_requests: int, n_poisoned: int
) -> None:
    asyncio.run(_survive(random.Random(seed), n_requests, n_poisoned))


async def _survive(chance: random.Random, n_requests: int, n_poisoned: int) -> None:
    """Let engines die at random turns, once all have got as far as a call can bring them."""
    mortal = MortalEngine(poison=POISON, revive_s=0.0)
    engine = resuming(mortal)
    told: dict[str, int] = {}  # tokens of those that have begun and not ended, since the last death

    async def read(request: TokenRequest) -> tuple[int, ...]:
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        received: list[int] = []
        while True:
            try:
                async for event in engine.stream(request):
                    told.setdefault(request.request_id, 0)
                    news = getattr(event, "token_ids", ())
                    told[request.request_id] += len(news)
                    received += news
            except NotReadyError:
                assert not received
                await asyncio.sleep(0)
            else:
                told.pop(request.request_id, None)
                return tuple(received)

    requests = [innocent(f"r{number}", max_tokens=chance.randrange(1, 80)) for number in range(n_requests)]
    poisoned = [make_request(f"p{number}", prompt=(POISON, number)) for number in range(n_poisoned)]
    reading = [asyncio.create_task(read(request)) for request in requests]
    failing = [asyncio.create_task(read(request)) for request in poisoned]
    n_deaths = 0
    while not all(task.done() for task in (*reading, *failing)):
        n_begun = len(told) + sum(task.done() for task in reading)
        far = n_begun == n_requests and all(n >= MAX_CALL_TOKENS for n in told.values())
        if chance.random() < 0.05 and (far or not n_deaths) and not poisoned:
            n_deaths += 1
            told.update(dict.fromkeys(told, 0))
            mortal.die()
        await asyncio.sleep(0)
    assert await asyncio.gather(*reading) == [reference_tokens(request) for request in requests]
    for error in await asyncio.gather(*failing, return_exceptions=True):
        assert isinstance(error, RequestQuarantinedError)
    assert engine.n_quarantined == n_poisoned


@pytest.mark.parametrize("n_tokens", [0, 1, 5])
async def test_an_engine_that_cannot_continue_begins_anew_or_not_at_all(n_tokens: int) -> None:
    mortal = MortalEngine()
    mortal.lacks = frozenset({Ability.RESUMPTION})
    engine = resuming(mortal)
    stream = engine.stream(innocent("a"))
    await anext(stream)
    for _ in range(n_tokens):
        await anext(stream)
    mortal.die()
    if n_tokens:
        with pytest.raises(EngineDiedError, match=r"does not continue another one's stream.*sent again"):
            await collect(stream)
    else:
        rest = [token async for event in stream for token in getattr(event, "token_ids", ())]
        assert tuple(rest) == reference_tokens(innocent("a"))
    assert mortal.restarts == 1
