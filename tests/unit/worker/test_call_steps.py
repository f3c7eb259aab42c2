"""Calls of several steps in the engine process: mail ends them, and the tokens stay the same."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from stoker.core.step import StepPlan
from stoker.core.tokens import Admitted, TokensEvent
from stoker.testing.engine_thread import EngineThread
from stoker.testing.step_engine import FakeStepEngine, reference_tokens
from stoker.testing.token_streams import collect, tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig

FIRST = make_request("first", max_tokens=60)
SECOND = make_request("second", max_tokens=20)


class Recorder:
    """An engine that records its plans and stands still before the second step of the first long call."""

    def __init__(self) -> None:
        self.plans: list[StepPlan] = []
        self.n_steps: list[int] = []
        self.reached = Event()
        self.go_on = Event()
        self.engine = FakeStepEngine(64, before_forward=self._forward, before_step=self._step)

    def _forward(self, plan: StepPlan) -> None:
        self.plans.append(plan)
        self.n_steps.append(1)

    def _step(self, _: list[int]) -> None:
        if not self.reached.is_set():
            self.reached.set()
            self.go_on.wait(20)
        self.n_steps[-1] += 1

    @property
    def long_call(self) -> int:
        """Index of the first call of several steps."""
        return next(index for index, plan in enumerate(self.plans) if plan.n_steps > 1)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


async def test_a_new_request_ends_the_call_and_takes_part_in_the_next(
    socket_path: Path, recorder: Recorder
) -> None:
    with EngineThread(socket_path, recorder.engine) as server:
        engine = await EngineClient.connect(socket_path)
        first = asyncio.create_task(tokens_of(engine, FIRST))
        await until(recorder.reached.is_set)
        second = asyncio.create_task(tokens_of(engine, SECOND))
        await until(lambda: server.n_letters == 1)
        recorder.go_on.set()
        assert await first == reference_tokens(FIRST)
        assert await second == reference_tokens(SECOND)
        await engine.close()
    long = recorder.long_call
    assert recorder.plans[long].n_steps == 4
    assert recorder.n_steps[long] == 2  # the step during which the request came was the last
    assert len(recorder.plans[long + 1].request_ids) == 2


async def test_an_abort_ends_the_call(socket_path: Path, recorder: Recorder) -> None:
    with EngineThread(socket_path, recorder.engine) as server:
        engine = await EngineClient.connect(socket_path)
        async with aclosing(engine.stream(FIRST)) as stream:
            assert isinstance(await anext(stream), Admitted)
            await until(recorder.reached.is_set)
        await until(lambda: server.n_letters == 1)
        recorder.go_on.set()
        assert await tokens_of(engine, SECOND) == reference_tokens(SECOND)
        await until(lambda: engine.stats.kv_blocks_used == 0)
        await engine.close()
    assert recorder.n_steps[recorder.long_call] == 2
    assert all(len(plan.request_ids) == 1 for plan in recorder.plans)


async def test_tokens_come_in_groups_or_each_on_its_own(socket_path: Path) -> None:
    sizes = {}
    for call_steps in (1, 4):
        config = EngineConfig(model_path=Path("fake"), model="fake", call_steps=call_steps)
        plans: list[StepPlan] = []
        with EngineThread(socket_path, FakeStepEngine(64, before_forward=plans.append), config=config):
            engine = await EngineClient.connect(socket_path)
            events = await collect(engine.stream(FIRST))
            tokens = [
                token for event in events if isinstance(event, TokensEvent) for token in event.token_ids
            ]
            assert tuple(tokens) == reference_tokens(FIRST)
            await engine.close()
        socket_path.unlink()
        sizes[call_steps] = {plan.n_steps for plan in plans}
    assert sizes[1] == {1}
    assert 4 in sizes[4]


async def test_one_that_goes_on_after_a_death_begins_with_single_steps(socket_path: Path) -> None:
    whole = reference_tokens(FIRST)
    plans: list[StepPlan] = []
    rest = replace(FIRST, prompt=(*FIRST.prompt, *whole[:10]), n_generated=10, max_tokens=50)
    with EngineThread(socket_path, FakeStepEngine(64, before_forward=plans.append)):
        engine = await EngineClient.connect(socket_path)
        assert await tokens_of(engine, rest) == whole[10:]
        await engine.close()
    n_steps = [plan.n_steps for plan in plans if plan.request_ids != ["warm-up"]]
    assert n_steps[:4] == [1] * 4
    assert 4 in n_steps
