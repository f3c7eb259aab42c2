"""Pinned prefixes over real engine processes that compute with a fake engine."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from stoker.core.abilities import Ability
from stoker.core.errors import (
    ConflictError,
    EngineDiedError,
    InvalidRequestError,
    NotReadyError,
    PinNotFoundError,
    UnsupportedFieldError,
)
from stoker.testing.engine_process import POISON, Behaviour, engine_command
from stoker.testing.waiting import until
from stoker.testing.workloads import make_tokens
from stoker.worker import pins as pins_module
from stoker.worker.config import EngineConfig
from stoker.worker.pins import PinnedPrefixes
from stoker.worker.restarts import RestartPolicy
from stoker.worker.supervisor import EngineSupervisor

CONFIG = EngineConfig(model_path=Path("fake"), model="fake", context_length=256, max_pinned_tokens=64)
FAST = RestartPolicy(first_delay_s=0.01, max_delay_s=0.5, crash_loop_deaths=9)
PREFIX = make_tokens("pinned", 40)


@asynccontextmanager
async def running(
    behaviour: Behaviour = Behaviour.SERVE, config: EngineConfig = CONFIG
) -> AsyncGenerator[tuple[EngineSupervisor, PinnedPrefixes]]:
    supervisor = EngineSupervisor(config, command=engine_command(behaviour), policy=FAST)
    await supervisor.start()
    pins = PinnedPrefixes(supervisor)
    try:
        yield supervisor, pins
    finally:
        await pins.close()
        await supervisor.stop()


async def test_a_prefix_is_held_until_it_is_unpinned() -> None:
    async with running() as (supervisor, pins):
        pin = await pins.pin(PREFIX)
        assert (pin.n_tokens, pin.n_pinned_tokens, pin.held) == (40, 32, True)
        assert supervisor.stats.kv_blocks_pinned == 2
        assert await pins.pin(PREFIX) == pin
        assert pins.all() == [pin]
        assert await pins.unpin(pin.id) == replace(pin, held=False)
        await until(lambda: supervisor.stats.kv_blocks_pinned == 0)
        assert pins.all() == []
        with pytest.raises(PinNotFoundError):
            await pins.unpin(pin.id)


async def test_an_engine_that_only_holds_prefixes_owes_no_answer() -> None:
    async with running() as (supervisor, pins):
        await pins.pin(PREFIX)
        child = supervisor._child
        assert child is not None
        await until(lambda: child.client.silence_s == 0)
        await asyncio.sleep(0.05)
        assert child.client.silence_s == 0


async def test_a_next_engine_holds_it_too() -> None:
    async with running() as (supervisor, pins):
        pin = await pins.pin(PREFIX)
        os.kill(supervisor.pid, signal.SIGKILL)
        await until(lambda: not pins.all()[0].held)
        await until(lambda: pins.all()[0].held)
        assert supervisor.restarts == 1
        assert supervisor.stats.kv_blocks_pinned == 2
        await pins.unpin(pin.id)


async def test_what_is_too_much_is_refused_and_forgotten() -> None:
    async with running() as (_, pins):
        await pins.pin(PREFIX)
        with pytest.raises(InvalidRequestError, match="2 of at most 4 are pinned"):
            await pins.pin(make_tokens("another", 48))
        with pytest.raises(InvalidRequestError, match="pin 16 or more"):
            await pins.pin(PREFIX[:15])
        assert [pin.n_tokens for pin in pins.all()] == [40]
        await pins.pin(make_tokens("another", 47))


async def test_there_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins_module, "MAX_PINS", 1)
    async with running() as (_, pins):
        await pins.pin(PREFIX)
        with pytest.raises(ConflictError, match="1 prefixes are pinned"):
            await pins.pin(PREFIX[:20])


async def test_a_prefix_that_engines_die_of_is_given_up() -> None:
    async with running(Behaviour.DIE) as (supervisor, pins):
        with pytest.raises(EngineDiedError):
            await pins.pin([POISON] * 20)
        assert pins.all() == []
        await until(lambda: supervisor.ready)


async def test_without_an_engine_it_is_refused_at_once() -> None:
    async with running() as (supervisor, pins):
        os.kill(supervisor.pid, signal.SIGKILL)
        await until(lambda: not supervisor.ready)
        with pytest.raises(NotReadyError):
            await pins.pin(PREFIX)


async def test_an_engine_that_shares_no_blocks_is_not_asked() -> None:
    async with running() as (supervisor, pins):
        child = supervisor._child
        assert child is not None
        child.client._info = replace(child.client.info, lacks=frozenset({Ability.SHARED_BLOCKS}))
        with pytest.raises(UnsupportedFieldError, match="pinned prefixes"):
            await pins.pin(PREFIX)


async def test_with_no_tokens_to_pin_nothing_is_pinned() -> None:
    async with running(config=msgspec.structs.replace(CONFIG, max_pinned_tokens=0)) as (_, pins):
        with pytest.raises(InvalidRequestError, match="of at most 0"):
            await pins.pin(PREFIX)
