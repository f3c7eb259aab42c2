"""Client, server and loop over a real socket, with an engine that checks every plan."""

import asyncio
import time
from pathlib import Path

import pytest

from stoker.core.errors import (
    ContextLengthError,
    DeadlineError,
    InvalidRequestError,
    QueueFullError,
    QueueTimeoutError,
    SlowReaderError,
)
from stoker.core.sampling import SamplingParams
from stoker.core.tokens import Admitted, FinishReason, TokensEvent
from stoker.testing.engine_thread import INCARNATION, KV_BLOCK_BYTES, EngineThread, gated_engine
from stoker.testing.step_engine import FakeStepEngine, reference_tokens
from stoker.testing.token_streams import collect, tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request, mixed_lengths, shared_prefix
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig


async def test_64_concurrent_streams_get_exactly_their_tokens(socket_path: Path) -> None:
    config = EngineConfig(model_path=Path("fake"), model="fake", max_running=16, step_tokens=64)
    sampled = [
        make_request(f"sampled-{seed}", sampling=SamplingParams(seed=seed, logprobs=2), max_tokens=20)
        for seed in range(16)
    ]
    requests = mixed_lengths(32) + shared_prefix(16) + sampled
    with EngineThread(socket_path, FakeStepEngine(128), config=config):
        engine = await EngineClient.connect(socket_path)
        assert engine.stats.kv_bytes_total == 128 * KV_BLOCK_BYTES
        received = await asyncio.gather(*(tokens_of(engine, request) for request in requests))
        assert received == [reference_tokens(request) for request in requests]
        await until(lambda: engine.stats.kv_blocks_used == 0)
        assert engine.stats.running == engine.stats.waiting == 0
        assert engine.stats.kv_bytes_total == 128 * KV_BLOCK_BYTES
        assert engine.stats.generated_tokens_total == sum(map(len, received))
        await engine.close()


async def test_events_carry_ids_logprobs_and_the_reason_of_the_end(socket_path: Path) -> None:
    request = make_request("mine", max_tokens=30, sampling=SamplingParams(seed=5, logprobs=3))
    stop = reference_tokens(request)[10]
    n_expected = reference_tokens(request).index(stop) + 1
    with EngineThread(socket_path, FakeStepEngine()):
        engine = await EngineClient.connect(socket_path)
        events = await collect(engine.stream(request))
        assert events[-1].finish_reason is FinishReason.LENGTH
        assert {event.request_id for event in events} == {"mine"}
        for event in events:
            assert [len(entry.top) for entry in event.logprobs] == [3] * len(event.token_ids)
        stopping = make_request(
            "mine", max_tokens=30, sampling=request.sampling, stop_token_ids=frozenset((stop,))
        )
        events = await collect(engine.stream(stopping))
        assert events[-1].finish_reason is FinishReason.STOP
        assert sum(len(event.token_ids) for event in events) == n_expected
        assert events[-1].cached_tokens == 16  # the first block of the prompt, from the run before
        await engine.close()


async def test_info_says_what_the_engine_is(socket_path: Path) -> None:
    config = EngineConfig(
        model_path=Path("fake"), model="served", max_running=3, max_waiting=5, context_length=512
    )
    with EngineThread(socket_path, FakeStepEngine(64), config=config):
        engine = await EngineClient.connect(socket_path)
        info = engine.info
        assert (info.model, info.fingerprint, info.vocab_size) == ("served", "fake-256", 256)
        assert (info.context_length, info.kv_blocks, info.max_running, info.max_waiting) == (512, 64, 3, 5)
        assert engine.incarnation == INCARNATION
        await engine.close()


async def test_the_context_is_never_longer_than_the_kv_cache(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(8)):
        engine = await EngineClient.connect(socket_path)
        assert engine.info.context_length == 128
        assert len(await tokens_of(engine, make_request("whole", n_prompt=100, max_tokens=28))) == 28
        await engine.close()


def test_the_socket_is_for_this_user_alone(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine()):
        assert socket_path.stat().st_mode & 0o777 == 0o600


async def test_a_full_queue_is_refused_while_a_step_is_waited_for(socket_path: Path) -> None:
    config = EngineConfig(model_path=Path("fake"), model="fake", max_running=1, max_waiting=1)
    with gated_engine(socket_path, config) as gate:
        engine = await EngineClient.connect(socket_path)
        running = asyncio.create_task(tokens_of(engine, make_request("running")))
        await until(gate.reached.is_set)
        waiting = asyncio.create_task(tokens_of(engine, make_request("waiting")))
        await asyncio.sleep(0)
        third = asyncio.create_task(tokens_of(engine, make_request("refused")))
        await until(lambda: gate.n_letters() == 2)
        gate.open()
        with pytest.raises(QueueFullError, match="all 2 places") as refused:
            await third
        assert refused.value.retry_after_s >= 1
        assert len(await running) == len(await waiting) == 8
        assert len(await tokens_of(engine, make_request("later"))) == 8
        await engine.close()


async def test_what_the_engine_cannot_take_is_refused_by_its_own_error(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(512)):
        engine = await EngineClient.connect(socket_path)
        with pytest.raises(ContextLengthError, match="by 20"):
            await tokens_of(engine, make_request("long", n_prompt=20, max_tokens=4096))
        with pytest.raises(InvalidRequestError, match=r"token id 256; this model's are 0 to 255"):
            await tokens_of(engine, make_request("foreign", prompt=(1, 256)))
        with pytest.raises(InvalidRequestError, match="token id -1"):
            await tokens_of(engine, make_request("negative", prompt=(1, -1)))
        with pytest.raises(InvalidRequestError, match="at least one"):
            await tokens_of(engine, make_request("empty", prompt=()))
        with pytest.raises(InvalidRequestError, match="cannot be sent"):
            await tokens_of(engine, make_request("huge", prompt=(2**64,)))
        with pytest.raises(InvalidRequestError, match="cannot be sent"):
            await tokens_of(engine, make_request("surrogate", cache_salt="\ud800"))
        assert len(await tokens_of(engine, make_request("fine"))) == 8
        await engine.close()


async def test_a_reader_that_falls_behind_gets_everything_in_few_events(socket_path: Path) -> None:
    request = make_request("slow", max_tokens=200)
    with EngineThread(socket_path, FakeStepEngine()):
        engine = await EngineClient.connect(socket_path)
        stream = engine.stream(request)
        assert isinstance(await anext(stream), Admitted)
        await until(lambda: engine.stats.generated_tokens_total == 200)
        events = [event async for event in stream if isinstance(event, TokensEvent)]
        assert len(events) == 1
        assert events[0].token_ids == reference_tokens(request)
        assert events[0].finish_reason is FinishReason.LENGTH
        await engine.close()


async def test_an_idle_engine_uses_no_processor(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine()):
        engine = await EngineClient.connect(socket_path)
        await tokens_of(engine, make_request("before"))
        await asyncio.sleep(0.2)
        before = time.process_time()
        await asyncio.sleep(1.0)
        assert time.process_time() - before < 0.02
        await engine.close()


def slow_engine() -> FakeStepEngine:
    """Return an engine that takes a millisecond for each step, and holds long sequences."""
    return FakeStepEngine(512, before_forward=lambda _: time.sleep(0.001))


async def test_a_reader_that_falls_behind_too_far_is_cancelled_and_its_blocks_are_freed(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.worker.client.MAX_UNREAD", 100)
    request = make_request("slow", max_tokens=3000, sampling=SamplingParams(logprobs=3))
    with EngineThread(socket_path, slow_engine()):
        engine = await EngineClient.connect(socket_path)
        stream = engine.stream(request)
        await anext(stream)
        beside = asyncio.create_task(tokens_of(engine, make_request("quick", max_tokens=100)))
        await until(lambda: engine.stats.running == 0 and engine.stats.generated_tokens_total > 100)
        assert engine.unread == 0
        assert engine.stats.generated_tokens_total < 3000
        assert engine.stats.kv_blocks_used == 0
        with pytest.raises(SlowReaderError, match="fell behind by more than 100"):
            await anext(stream)
        assert await beside == reference_tokens(make_request("quick", max_tokens=100))
        await engine.close()


async def test_what_is_unread_is_told(socket_path: Path) -> None:
    with EngineThread(socket_path, slow_engine()):
        engine = await EngineClient.connect(socket_path)
        stream = engine.stream(make_request("slow", max_tokens=4000))
        await anext(stream)
        await until(lambda: engine.unread > 10)
        await stream.aclose()
        assert engine.unread == 0
        await engine.close()


async def test_time_limits_end_sequences_with_their_errors_after_the_tokens_in_time(
    socket_path: Path,
) -> None:
    config = EngineConfig(model_path=Path("fake"), model="fake", max_running=1)
    with EngineThread(socket_path, slow_engine(), config=config):
        engine = await EngineClient.connect(socket_path)
        request = make_request("long", max_tokens=4000, timeout_s=0.3)
        stream = engine.stream(request)
        await anext(stream)
        late = asyncio.create_task(tokens_of(engine, make_request("late", queue_timeout_s=0.05)))
        received: list[int] = []

        async def read() -> None:
            async for event in stream:
                received.extend(event.token_ids if isinstance(event, TokensEvent) else ())

        with pytest.raises(DeadlineError):
            await read()
        assert received
        assert tuple(received) == reference_tokens(request)[: len(received)]
        with pytest.raises(QueueTimeoutError, match="turn did not come") as refused:
            await late
        assert refused.value.retry_after_s >= 1
        assert len(await tokens_of(engine, make_request("after", queue_timeout_s=5, timeout_s=5))) == 8
        assert engine.stats.expired_total == 2
        await engine.close()
