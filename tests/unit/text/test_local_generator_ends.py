"""Whatever ends a request early, `LocalGenerator` aborts every choice of it."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from stoker.core.errors import (
    EngineDiedError,
    QueueFullError,
)
from stoker.core.text import (
    Event,
    Started,
    Usage,
)
from stoker.core.tokens import TokenRequest
from stoker.testing.local_generator import REQUEST, generator, play, saying, text_of
from stoker.testing.token_engine import Fail, FakeTokenEngine, Hold, Step


@pytest.mark.parametrize("n", [1, 3])
async def test_a_refusal_comes_before_started_and_frees_the_other_choices(n: int) -> None:
    engine = FakeTokenEngine(refuse={n - 1: QueueFullError("full", retry_after_s=1.5)})
    with pytest.raises(QueueFullError, match="full"):
        await play(engine, replace(REQUEST, n=n))
    assert engine.running == set()
    assert len(engine.aborted) == n - 1


@pytest.mark.parametrize("n", [1, 3])
async def test_a_failure_of_one_choice_ends_the_request(n: int) -> None:
    def script(request: TokenRequest) -> list[Step]:
        failing = request.sampling.choice == n - 1
        return saying("ab", Fail(EngineDiedError("it died")) if failing else "cd", "ef", *["g"] * 50)

    engine = FakeTokenEngine(script)
    seen: list[Event] = []

    async def read() -> None:
        async for event in generator(engine).generate(replace(REQUEST, n=n, max_tokens=60)):
            seen[len(seen) :] = [event]  # one by one: the error must not lose what came before it

    with pytest.raises(EngineDiedError, match="it died"):
        await read()
    assert text_of(seen, n - 1) == "ab"
    assert not any(isinstance(each, Usage) for each in seen)
    assert engine.running == set()
    assert len(engine.aborted) == n - 1


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("n_events", [1, 2, 5])
async def test_closing_the_generator_aborts_every_choice(n: int, n_events: int) -> None:
    engine = FakeTokenEngine()
    async with aclosing(generator(engine).generate(replace(REQUEST, n=n, max_tokens=50))) as stream:
        for _ in range(n_events):
            await anext(stream)
        assert len(engine.running) == n
    assert engine.running == set()
    assert sorted(engine.aborted) == sorted(each.request_id for each in engine.requests)


@pytest.mark.parametrize("n", [1, 3])
async def test_cancelling_a_reader_aborts_every_choice(n: int) -> None:
    engine = FakeTokenEngine(saying("a", Hold(asyncio.Event())))
    task = asyncio.create_task(play(engine, replace(REQUEST, n=n)))
    await asyncio.sleep(0.05)
    assert len(engine.running) == n
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.running == set()
    assert len(engine.aborted) == n


async def test_started_in_one_task_and_closed_in_another() -> None:
    engine = FakeTokenEngine(saying("a", Hold(asyncio.Event())))
    stream = generator(engine).generate(replace(REQUEST, n=2))
    assert await asyncio.create_task(anext(stream, None)) == Started(3)
    await asyncio.create_task(stream.aclose())
    assert engine.running == set()
