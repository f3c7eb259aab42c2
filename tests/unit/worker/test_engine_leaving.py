"""Readers, gateways and engines that leave: what is freed, who hears of it."""

import asyncio
import time
from contextlib import aclosing
from pathlib import Path
from threading import Event

import pytest

from stoker.core.errors import (
    EngineDiedError,
    NotReadyError,
)
from stoker.core.step import StepPlan
from stoker.core.tokens import TokensEvent
from stoker.testing.engine_thread import EngineThread, Gate
from stoker.testing.step_engine import FakeStepEngine, reference_tokens
from stoker.testing.token_streams import tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker.client import EngineClient

ENDLESS = 4000


def slowly(_plan: StepPlan) -> None:
    """Take so long for a step that an endless stream outlasts any test."""
    time.sleep(0.003)


async def test_closing_a_stream_frees_its_blocks_at_the_next_step(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(512, before_forward=slowly)):
        engine = await EngineClient.connect(socket_path)
        async with aclosing(engine.stream(make_request("left", max_tokens=ENDLESS))) as stream:
            async for event in stream:
                if isinstance(event, TokensEvent):
                    break
            assert engine.stats.running == 1
        await until(lambda: engine.stats.running == 0 and engine.stats.kv_blocks_used == 0)
        await engine.close()


async def test_cancelling_the_reader_aborts(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(512, before_forward=slowly)):
        engine = await EngineClient.connect(socket_path)
        reader = asyncio.create_task(tokens_of(engine, make_request("cancelled", max_tokens=ENDLESS)))
        await until(lambda: engine.stats.running == 1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await until(lambda: engine.stats.running == 0 and engine.stats.kv_blocks_used == 0)
        await engine.close()


async def test_an_abort_takes_effect_at_the_next_engine_call(socket_path: Path) -> None:
    plans: list[list[str]] = []
    gate = Gate()

    def record(plan: StepPlan) -> None:
        plans.append(list(plan.request_ids))
        if len(plan.request_ids) == 2:
            gate(plan)

    with EngineThread(socket_path, FakeStepEngine(512, before_forward=record)) as thread:
        engine = await EngineClient.connect(socket_path)
        stays = asyncio.create_task(tokens_of(engine, make_request("stays", max_tokens=ENDLESS)))
        leaves = asyncio.create_task(tokens_of(engine, make_request("leaves", max_tokens=ENDLESS)))
        await until(gate.reached.is_set)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        await until(lambda: thread.n_letters == 1)  # the abort arrives during the step
        n_before = len(plans)
        gate.open()
        assert len(await stays) == ENDLESS
        assert {request_id for plan in plans[n_before:] for request_id in plan} == {"1.0"}
        await engine.close()


async def test_a_stream_that_is_never_read_sends_nothing(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine()):
        engine = await EngineClient.connect(socket_path)
        await engine.stream(make_request("unread")).aclose()
        assert len(await tokens_of(engine, make_request("read"))) == 8
        assert engine.stats.prompt_tokens_total == 20
        await engine.close()


async def test_the_end_of_file_aborts_one_gateways_requests_and_no_others(socket_path: Path) -> None:
    all_run, gateway_left = Event(), Event()

    def hold(plan: StepPlan) -> None:
        if len(plan.request_ids) == 4:
            all_run.set()
            gateway_left.wait(20)

    with EngineThread(socket_path, FakeStepEngine(512, before_forward=hold)):
        leaves, stays = [await EngineClient.connect(socket_path) for _ in range(2)]
        abandoned = [
            asyncio.create_task(tokens_of(leaves, make_request(f"left-{number}", max_tokens=ENDLESS)))
            for number in range(3)
        ]
        request = make_request("stays", max_tokens=300)
        kept = asyncio.create_task(tokens_of(stays, request))
        await until(all_run.is_set)
        await leaves.close()
        for task in abandoned:
            with pytest.raises(EngineDiedError):
                await task
        gateway_left.set()
        assert await kept == reference_tokens(request)
        await until(lambda: stays.stats.running == 0 and stays.stats.kv_blocks_used == 0)
        await stays.close()


async def test_a_gone_engine_fails_running_streams_and_takes_no_new_ones(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine(512, before_forward=slowly)):
        engine = await EngineClient.connect(socket_path)
        stream = engine.stream(make_request("running", max_tokens=ENDLESS))
        await anext(stream)
    with pytest.raises(EngineDiedError):
        async for _ in stream:
            pass
    assert isinstance(await engine.wait_closed(), EngineDiedError)
    assert not engine.connected
    with pytest.raises(NotReadyError):
        await anext(engine.stream(make_request("new")))
