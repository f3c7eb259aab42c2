"""Time limits of streams whose engine is gone."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from stoker.core.errors import DeadlineError, QueueTimeoutError
from stoker.core.tokens import TokenEvent, TokenRequest
from stoker.testing.mortal_engine import MortalEngine
from stoker.testing.step_engine import reference_tokens
from stoker.testing.token_streams import tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker.resume import ResumingEngine


def waiting(mortal: MortalEngine, request: TokenRequest) -> asyncio.Task[tuple[int, ...]]:
    return asyncio.create_task(tokens_of(ResumingEngine(mortal, timeout_s=5.0), request))


async def test_a_request_that_has_not_begun_waits_for_the_next_engine_no_longer_than_it_may() -> None:
    mortal = MortalEngine(revive_s=None)
    mortal.hangs = True
    reading = waiting(mortal, make_request("a", queue_timeout_s=0.1, timeout_s=3.0))
    await until(lambda: mortal.running)
    mortal.die()
    with pytest.raises(QueueTimeoutError, match="the engine died; the request waited as long as its queue"):
        await reading


async def test_a_stream_waits_for_the_next_engine_until_its_deadline() -> None:
    mortal = MortalEngine(revive_s=None)
    engine = ResumingEngine(mortal, timeout_s=5.0)
    stream = engine.stream(make_request("a", queue_timeout_s=0.01, timeout_s=0.1))
    await anext(stream)
    await anext(stream)
    mortal.die()
    with pytest.raises(DeadlineError, match="the engine died; the request waited until its time limit"):
        await anext(stream)


async def test_a_next_engine_is_given_what_is_left_of_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    mortal = MortalEngine(revive_s=0.05)
    given: list[TokenRequest] = []
    ask = mortal.stream

    def noting(request: TokenRequest) -> AsyncGenerator[TokenEvent]:
        given.append(request)
        return ask(request)

    monkeypatch.setattr(mortal, "stream", noting)
    request = make_request("a", queue_timeout_s=5.0, timeout_s=10.0)
    engine = ResumingEngine(mortal, timeout_s=5.0)
    received: list[int] = []
    async for event in engine.stream(request):
        received += getattr(event, "token_ids", ())
        if len(received) == 3:
            mortal.die()
    assert tuple(received) == reference_tokens(request)
    first, second = given
    assert first.queue_timeout_s is not None
    assert 4.5 < first.queue_timeout_s <= 5.0
    assert second.queue_timeout_s is None, "it has begun"
    assert first.timeout_s is not None
    assert second.timeout_s is not None
    assert second.timeout_s <= first.timeout_s - 0.04
