"""`LocalEmbedder`: bounded, in order, and leaving nothing behind."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from stoker.core.abilities import Ability
from stoker.core.errors import (
    ContextLengthError,
    InvalidRequestError,
    NotReadyError,
    QueueFullError,
    UnsupportedFieldError,
)
from stoker.core.pooling import Pooling
from stoker.core.text import EmbeddingRequest, Prompt, TextPrompt, TokensPrompt
from stoker.core.tokens import TokenEvent, TokenRequest
from stoker.testing.local_generator import CONTEXT, generator
from stoker.testing.token_engine import AbsentEngine, FakeTokenEngine, fake_embedding, lacking
from stoker.testing.waiting import until


def request_for(*inputs: Prompt, timeout_s: float | None = None) -> EmbeddingRequest:
    paths = tuple(f"input.{index}" for index in range(len(inputs)))
    return EmbeddingRequest(request_id="r", inputs=inputs, paths=paths, priority=3, timeout_s=timeout_s)


def tokens(*ids: int) -> TokensPrompt:
    return TokensPrompt(ids)


class CountingEngine(FakeTokenEngine):
    """Notes how many sequences ran at a time."""

    most = 0

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenEvent]:
        async with aclosing(super().stream(request)) as events:
            async for event in events:
                self.most = max(self.most, len(self.running))
                yield event


@pytest.mark.parametrize("places", [1, 3, 50])
async def test_no_more_places_than_given_and_answers_in_order(places: int) -> None:
    engine = CountingEngine()
    inputs = [tokens(index, 1) for index in range(20)]
    embeddings = await generator(engine).embedder.embed(request_for(*inputs), places=places)
    assert engine.most == min(places, 20)
    assert [each.values for each in embeddings] == [fake_embedding(each) for each in engine.requests]
    assert {each.prompt[0] for each in engine.requests} == set(range(20))
    assert all(each.max_tokens == 0 and each.pooling is Pooling.MEAN for each in engine.requests)
    assert all(each.priority == 3 for each in engine.requests)
    assert len({each.request_id for each in engine.requests}) == 20


async def test_nothing_is_computed_if_an_input_is_refused() -> None:
    engine = FakeTokenEngine()
    embedder = generator(engine).embedder
    with pytest.raises(InvalidRequestError) as refused:
        await embedder.embed(request_for(TextPrompt("a"), tokens(5_000)), places=2)
    assert refused.value.param == "input.1"
    with pytest.raises(InvalidRequestError):
        await embedder.check(request_for(TextPrompt("a"), tokens(5_000)))
    await embedder.check(request_for(TextPrompt("a")))
    for too_long in (TextPrompt("a" * CONTEXT), TokensPrompt((1,) * CONTEXT)):
        with pytest.raises(ContextLengthError) as long:
            await embedder.embed(request_for(tokens(1), too_long), places=2)
        assert long.value.param == "input.1"
    await embedder.embed(request_for(TokensPrompt((1,) * (CONTEXT - 1))), places=2)
    assert len(engine.requests) == 1


async def test_a_failure_ends_the_others() -> None:
    engine = FakeTokenEngine(refuse={None: QueueFullError("full", retry_after_s=1.0)})
    with pytest.raises(QueueFullError):
        await generator(engine).embedder.embed(request_for(*[tokens(1)] * 9), places=3)
    assert not engine.running
    assert len(engine.requests) <= 3


async def test_between_two_engines_a_request_that_has_begun_waits_for_the_next() -> None:
    engine = AbsentEngine(2, 3, 5)
    inputs = [tokens(index, 1) for index in range(5)]
    embeddings = await generator(engine, patience_s=30.0).embedder.embed(request_for(*inputs), places=1)
    assert [each.prompt[0] for each in engine.requests] == [0, 1, 2, 2, 2, 3, 3, 4]
    assert [each.values for each in embeddings] == [
        fake_embedding(engine.requests[at]) for at in (0, 1, 2, 5, 7)
    ]


async def test_a_request_that_has_not_begun_and_one_that_waited_long_enough_are_refused() -> None:
    for engine in (AbsentEngine(0), AbsentEngine(*range(1, 99))):
        with pytest.raises(NotReadyError):
            await generator(engine, patience_s=0.05).embedder.embed(request_for(*[tokens(1)] * 3), places=1)
        assert len(engine.requests) in {1, 3}
        assert not engine.running


async def test_giving_up_aborts_what_runs() -> None:
    engine = FakeTokenEngine(admit_when=asyncio.Event())
    embedding = asyncio.create_task(generator(engine).embedder.embed(request_for(*[tokens(1)] * 9), places=3))
    await until(lambda: len(engine.running) == 3)
    embedding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await embedding
    assert len(engine.aborted) == 3
    assert not engine.running


async def test_each_input_has_what_is_left_of_the_time() -> None:
    engine = FakeTokenEngine()
    await generator(engine).embedder.embed(request_for(tokens(1), tokens(2), timeout_s=50.0), places=1)
    first, second = [each.timeout_s or 0.0 for each in engine.requests]
    assert 49 < second <= first <= 50


async def test_an_engine_without_embeddings_is_named() -> None:
    engine = FakeTokenEngine(info=lacking(Ability.POOLING))
    with pytest.raises(UnsupportedFieldError, match=r"llama\.cpp.*make embeddings") as refused:
        await generator(engine).embedder.embed(request_for(tokens(1)), places=1)
    assert refused.value.param == "input"
    assert not engine.requests
