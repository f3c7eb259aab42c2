"""Streams that go on where they stopped, over engine processes that really die."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest

from stoker.core.errors import EngineDiedError, NotReadyError, RequestQuarantinedError
from stoker.core.tokens import TokenEvent, TokenRequest
from stoker.testing.engine_process import POISON, Behaviour, engine_command
from stoker.testing.step_engine import reference_tokens
from stoker.testing.token_streams import tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_harmless, make_request
from stoker.worker.config import EngineConfig
from stoker.worker.restarts import RestartPolicy
from stoker.worker.resume import ResumingEngine
from stoker.worker.supervisor import EngineSupervisor

FAST = RestartPolicy(first_delay_s=0.01, max_delay_s=0.1, crash_loop_deaths=100)
POISONED = make_request("poisoned", prompt=(1, POISON, 2))


async def read_into(received: list[int], stream: AsyncGenerator[TokenEvent]) -> None:
    async for event in stream:
        received += getattr(event, "token_ids", ())


@asynccontextmanager
async def running(
    behaviour: Behaviour = Behaviour.SERVE, *, timeout_s: float = 60.0, max_running: int = 64
) -> AsyncGenerator[tuple[EngineSupervisor, ResumingEngine]]:
    supervisor = EngineSupervisor(
        EngineConfig(model_path=Path("fake"), model="fake", max_running=max_running),
        command=engine_command(behaviour),
        policy=FAST,
        timeout_s=timeout_s,
    )
    await supervisor.start()
    try:
        yield supervisor, ResumingEngine(supervisor, timeout_s=30.0)
    finally:
        await supervisor.stop()


async def kill(supervisor: EngineSupervisor) -> None:
    """Kill the engine and wait for the next one."""
    killed = supervisor.pid
    os.kill(killed, signal.SIGKILL)
    await until(lambda: supervisor.ready and supervisor.pid != killed)


async def generated(supervisor: EngineSupervisor, n_tokens: int) -> None:
    """Wait until engines have made so many more tokens, but not for ever."""
    before = supervisor.stats.generated_tokens_total
    with suppress(TimeoutError):
        await until(lambda: supervisor.stats.generated_tokens_total > before + n_tokens, timeout_s=2.0)


async def test_kill_9_is_a_pause() -> None:
    requests = [make_request(f"r{number}", n_prompt=1 + 40 * number, max_tokens=1500) for number in range(6)]
    async with running() as (supervisor, engine):
        reading = [asyncio.create_task(tokens_of(engine, request)) for request in requests]
        await generated(supervisor, 200)
        await kill(supervisor)
        assert await asyncio.gather(*reading) == [reference_tokens(request) for request in requests]
        assert supervisor.restarts == 1
        assert engine.n_resumed == 6
        assert engine.n_quarantined == 0


@pytest.mark.parametrize(("behaviour", "timeout_s"), [(Behaviour.DIE, 60.0), (Behaviour.STALL, 1.0)])
async def test_a_request_that_kills_or_hangs_engines_takes_no_other_with_it(
    behaviour: Behaviour, timeout_s: float
) -> None:
    requests = [make_harmless(f"r{number}", POISON, n_prompt=90, max_tokens=200) for number in range(5)]
    async with running(behaviour, timeout_s=timeout_s) as (supervisor, engine):
        reading = [asyncio.create_task(tokens_of(engine, request)) for request in requests]
        await generated(supervisor, 20)
        with pytest.raises(RequestQuarantinedError):
            await tokens_of(engine, POISONED)
        assert await asyncio.gather(*reading) == [reference_tokens(request) for request in requests]
        await until(lambda: supervisor.ready)
        assert supervisor.restarts <= 4
        n_restarts = supervisor.restarts
        with pytest.raises(RequestQuarantinedError, match="not long ago"):
            await tokens_of(engine, POISONED)
        assert supervisor.restarts == n_restarts
        assert engine.n_quarantined == 1


async def test_a_request_that_its_own_output_kills_is_found_with_what_it_has_said_delivered() -> None:
    request = make_request("fatal", max_tokens=4000)
    before_the_end = reference_tokens(request)
    before_the_end = before_the_end[: before_the_end.index(POISON) + 1]
    received: list[int] = []
    async with running(Behaviour.DIE) as (supervisor, engine):
        with pytest.raises(RequestQuarantinedError):
            await read_into(received, engine.stream(request))
        assert tuple(received) == before_the_end
        assert supervisor.restarts <= 2


async def test_a_reader_that_lags_behind_an_engines_death_misses_nothing() -> None:
    slow, fast = (make_request(name, max_tokens=3000) for name in ("slow", "fast"))
    received: list[int] = []
    async with running() as (supervisor, engine), aclosing(engine.stream(slow)) as stream:
        await anext(stream)
        reading = asyncio.create_task(tokens_of(engine, fast))
        for _ in range(2):
            await generated(supervisor, 100)
            await kill(supervisor)
        assert await reading == reference_tokens(fast)
        await read_into(received, stream)
    assert tuple(received) == reference_tokens(slow)


async def test_under_load_engines_that_are_killed_at_random_lose_no_token() -> None:
    chance = random.Random(1)
    requests = [
        make_request(f"r{number}", n_prompt=1 + 30 * number, max_tokens=chance.randrange(50, 300))
        for number in range(24)
    ]
    async with running(max_running=8) as (supervisor, engine):

        async def read(request: TokenRequest) -> tuple[int, ...]:
            await asyncio.sleep(chance.random())
            while True:
                try:
                    return await tokens_of(engine, request)
                except NotReadyError:  # it came between two engines
                    await asyncio.sleep(0.02)

        done = asyncio.gather(*[read(request) for request in requests])
        while not done.done() and supervisor.restarts < 6:
            await generated(supervisor, 100)
            await asyncio.sleep(chance.random() / 20)
            await kill(supervisor)
        assert await done == [reference_tokens(request) for request in requests]
        assert engine.n_quarantined == 0


async def test_a_stopped_server_ends_its_streams() -> None:
    async with running() as (supervisor, engine):
        reading = asyncio.create_task(tokens_of(engine, make_request("endless", max_tokens=4000)))
        await until(lambda: supervisor.stats.running)
        await supervisor.stop()
        with pytest.raises(EngineDiedError, match="the engine is stopped"):
            await reading
