"""How steps are filled reaches the engine process: at its start, while it runs, and after it died."""

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from stoker.core.batching import BatchingPolicy
from stoker.core.step import MAX_CALL_STEPS, StepPlan
from stoker.testing.engine_process import Behaviour, engine_command
from stoker.testing.engine_thread import INCARNATION, EngineThread
from stoker.testing.step_engine import FakeStepEngine, reference_tokens
from stoker.testing.token_streams import tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker import conversion, frames
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig
from stoker.worker.restarts import RestartPolicy
from stoker.worker.supervisor import EngineSupervisor

N_TOKENS = 20
LEAST_LATE = -(-(N_TOKENS - 1) // MAX_CALL_STEPS)
"""Calls that a stream of so many tokens has after that of its prompt."""

CONFIG = EngineConfig(model_path=Path("fake"), model="fake")
TOGETHER = BatchingPolicy(mode="time", batch_wait_s=1.0)


async def test_requests_that_wait_for_others_begin_with_them_or_when_their_wait_is_over(
    socket_path: Path,
) -> None:
    plans: list[StepPlan] = []
    engine = FakeStepEngine(512, before_forward=plans.append)
    config = msgspec.structs.replace(CONFIG, max_running=2, batching=TOGETHER)
    with EngineThread(socket_path, engine, config=config):
        client = await EngineClient.connect(socket_path)
        plans.clear()
        requests = [make_request(name) for name in ("a", "b", "c")]
        received = await asyncio.gather(*(tokens_of(client, request) for request in requests))
        assert received == [reference_tokens(request) for request in requests]
        assert len(plans[0].request_ids) == 2
        assert all(len(plan.request_ids) == 1 for plan in plans[8:])
        await client.close()


async def test_a_running_engine_is_tuned(socket_path: Path) -> None:
    config = msgspec.structs.replace(CONFIG, batching=TOGETHER)
    with EngineThread(socket_path, FakeStepEngine(512), config=config):
        client = await EngineClient.connect(socket_path)
        task = asyncio.create_task(tokens_of(client, make_request("held")))
        await until(lambda: client.stats.waiting == 1)
        client.tune(BatchingPolicy())
        assert await task == reference_tokens(make_request("held"))
        assert client.stats.late_steps_total == 0
        client.tune(BatchingPolicy(itl_target_s=1e-9))
        await tokens_of(client, make_request("late", max_tokens=N_TOKENS))
        await until(lambda: client.stats.late_steps_total >= LEAST_LATE)
        await client.close()


async def test_a_policy_that_makes_no_sense_changes_nothing(
    socket_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EngineThread(socket_path, FakeStepEngine(512)):
        client = await EngineClient.connect(socket_path)
        wrong = frames.Tune(INCARNATION, "latency", -1.0, 0.25, 0.0, 0.0)
        client._connection.send(frames.encode(wrong))
        assert await tokens_of(client, make_request("served")) == reference_tokens(make_request("served"))
        assert "itl_target_s is -1.0" in caplog.text
        await client.close()


async def test_a_policy_outlives_the_engine() -> None:
    policy = RestartPolicy(first_delay_s=0.01, max_delay_s=0.5)
    supervisor = EngineSupervisor(CONFIG, command=engine_command(Behaviour.SERVE), policy=policy)
    await supervisor.start()
    try:
        supervisor.tune(BatchingPolicy(itl_target_s=1e-9))
        os.kill(supervisor.pid, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 1 and supervisor.ready, timeout_s=30)
        await tokens_of(supervisor, make_request("late", max_tokens=N_TOKENS))
        await until(lambda: supervisor.stats.late_steps_total >= LEAST_LATE)
    finally:
        await supervisor.stop()


async def test_a_policy_that_came_while_the_engine_started_reaches_it() -> None:
    supervisor = EngineSupervisor(CONFIG, command=engine_command(Behaviour.SERVE))
    starting = asyncio.create_task(supervisor.start())
    await asyncio.sleep(0)
    supervisor.tune(BatchingPolicy(itl_target_s=1e-9))
    await starting
    try:
        await tokens_of(supervisor, make_request("late", max_tokens=N_TOKENS))
        await until(lambda: supervisor.stats.late_steps_total >= LEAST_LATE)
    finally:
        await supervisor.stop()


def test_the_settings_of_a_policy_are_those_of_its_frame() -> None:
    fields = set(frames.Tune.__struct_fields__) - {"incarnation"}
    assert fields == set(BatchingPolicy.__dataclass_fields__)
    assert conversion.batching_policy(conversion.tune_frame(TOGETHER, incarnation=1)) == TOGETHER
