"""Models fall asleep and wake on the event loop, in every order of what can happen meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from stoker.app.sleepers import Bed, Sleepers
from stoker.core.errors import ConflictError, EngineDiedError, NotReadyError, OutOfMemoryError
from stoker.observe.metrics import Metrics
from stoker.observe.record import CURRENT_RECORD, RequestRecord
from stoker.policy.sleep_book import Rest
from stoker.testing.model_host import ScriptedHost


class Yard:
    """Sleepers over scripted hosts.

    Attributes:
        rests: What each model was told to be doing, in order.
    """

    def __init__(self, budget: int | None = None, wake_timeout_s: float = 10.0) -> None:
        self.metrics = Metrics(version="1")
        self.sleepers = Sleepers(self.metrics, wake_timeout_s=wake_timeout_s, memory_budget_bytes=budget)
        self.hosts: dict[str, ScriptedHost] = {}
        self.rests: dict[str, list[Rest]] = {}

    def add(self, name: str, need_bytes: int = 0, sleep_after_s: float = 0.0) -> ScriptedHost:
        host = self.hosts[name] = ScriptedHost()
        rests = self.rests[name] = []
        bed = Bed(
            need_bytes=need_bytes,
            sleep_after_s=sleep_after_s,
            wake=host.wake,
            sleep=host.sleep,
            changed=rests.append,
        )
        self.sleepers.add(name, bed)
        return host

    async def started(self, name: str, need_bytes: int = 0, sleep_after_s: float = 0.0) -> ScriptedHost:
        host = self.add(name, need_bytes, sleep_after_s)
        await self.sleepers.start(name)
        return host

    def rest(self, name: str) -> Rest:
        return self.rests[name][-1]

    def value(self, sample: str) -> float:
        lines = [
            line for line in self.metrics.render().decode().splitlines() if line.startswith(sample + " ")
        ]
        return float(lines[0].split()[-1]) if lines else 0.0


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


@asynccontextmanager
async def using(yard: Yard, name: str) -> AsyncGenerator[None]:
    async with yard.sleepers.door(name).awake():
        yield


async def use(yard: Yard, name: str) -> None:
    async with using(yard, name):
        await asyncio.sleep(0)


async def test_an_idle_model_sleeps_after_its_time_and_a_request_wakes_it() -> None:
    yard = Yard()
    host = await yard.started("a", sleep_after_s=0.03)
    async with using(yard, "a"):
        await asyncio.sleep(0.06)
        assert host.n_sleeps == 0, "a model that is used does not sleep"
    await until(lambda: yard.rest("a") is Rest.ASLEEP)
    await use(yard, "a")
    assert (host.n_sleeps, host.n_wakes) == (1, 2)
    assert yard.rests["a"][:5] == [Rest.WAKING, Rest.AWAKE, Rest.FALLING, Rest.ASLEEP, Rest.WAKING]
    assert yard.value('stoker_model_sleeps_total{model="a",reason="idle"}') == 1
    assert yard.value('stoker_model_wakes_total{model="a",outcome="awake"}') == 1, "the start is no wake"
    assert yard.value('stoker_model_wake_seconds_count{model="a"}') == 1
    await yard.sleepers.close()


async def test_how_long_a_request_waited_is_noted_however_that_ends() -> None:
    yard = Yard(wake_timeout_s=0.05)
    host = await yard.started("a")
    record = RequestRecord(request_id="r", method="POST", started_s=0.0)
    CURRENT_RECORD.set(record)
    waits = partial(getattr, record, "wake_s")
    await use(yard, "a")
    assert waits() is None, "it did not wait"
    assert yard.value('stoker_model_wake_wait_seconds_count{model="a"}') == 0, "nor did the start"
    await yard.sleepers.sleep("a")
    await use(yard, "a")
    assert 0 <= waits() < 0.05
    await yard.sleepers.sleep("a")
    host.may_wake.clear()
    with pytest.raises(NotReadyError):
        await asyncio.gather(use(yard, "a"), use(yard, "a"))
    assert 0.05 <= waits() < 10
    assert yard.value('stoker_model_wake_wait_seconds_count{model="a"}') == 3
    await yard.sleepers.close()


async def test_many_wake_a_model_once_and_go_in_as_they_came() -> None:
    yard = Yard()
    host = await yard.started("a")
    await yard.sleepers.sleep("a")
    host.may_wake.clear()
    order: list[int] = []

    async def come(number: int) -> None:
        async with using(yard, "a"):
            order.append(number)

    tasks = [asyncio.create_task(come(number)) for number in range(20)]
    await until(lambda: yard.rest("a") is Rest.WAKING)
    host.may_wake.set()
    await asyncio.gather(*tasks)
    assert order == list(range(20))
    assert host.n_wakes == 2
    await yard.sleepers.close()


async def test_a_failed_wake_tells_all_who_wait_and_the_next_request_tries_again() -> None:
    yard = Yard()
    host = await yard.started("a")
    await yard.sleepers.sleep("a")
    host.wake_failure = EngineDiedError("the engine process ended before it was ready (killed by SIGKILL)")
    outcomes = await asyncio.gather(*(use(yard, "a") for _ in range(3)), return_exceptions=True)
    assert all(isinstance(each, NotReadyError) and "killed by SIGKILL" in str(each) for each in outcomes)
    assert yard.rest("a") is Rest.ASLEEP
    assert yard.value('stoker_model_wakes_total{model="a",outcome="failed"}') == 1
    host.wake_failure = RuntimeError("a secret")
    with pytest.raises(NotReadyError) as caught:
        await use(yard, "a")
    assert "secret" not in str(caught.value)
    host.wake_failure = None
    await use(yard, "a")
    assert yard.rest("a") is Rest.AWAKE
    await yard.sleepers.close()


async def test_the_start_of_a_model_fails_with_its_own_error() -> None:
    yard = Yard()
    yard.add("a").wake_failure = OutOfMemoryError("too large")
    with pytest.raises(OutOfMemoryError, match="too large"):
        await yard.sleepers.start("a")
    assert "stoker_model_wakes_total{" not in yard.metrics.render().decode()
    await yard.sleepers.close()


async def test_a_client_that_leaves_during_a_wake_leaves_nothing_behind() -> None:
    yard = Yard()
    host = await yard.started("a", sleep_after_s=0.05)
    await yard.sleepers.sleep("a")
    host.may_wake.clear()
    gone, stays = (asyncio.create_task(use(yard, "a")) for _ in range(2))
    await until(lambda: yard.rest("a") is Rest.WAKING)
    gone.cancel()
    host.may_wake.set()
    await stays
    assert (await asyncio.gather(gone, return_exceptions=True))[0].__class__ is asyncio.CancelledError
    await until(lambda: yard.rest("a") is Rest.ASLEEP)
    host.may_wake.clear()
    alone = asyncio.create_task(use(yard, "a"))
    await until(lambda: yard.rest("a") is Rest.WAKING)
    alone.cancel()
    host.may_wake.set()
    await until(lambda: yard.rest("a") is Rest.AWAKE)
    await until(lambda: yard.rest("a") is Rest.ASLEEP)
    await yard.sleepers.close()


async def test_one_who_leaves_in_the_moment_of_waking_is_counted_out() -> None:
    yard = Yard()
    host = await yard.started("a")
    for n_turns in range(8):
        await yard.sleepers.sleep("a")
        host.may_wake.clear()
        task = asyncio.create_task(use(yard, "a"))
        await until(lambda: yard.rest("a") is Rest.WAKING)
        host.may_wake.set()
        for _ in range(n_turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: yard.rest("a") is Rest.AWAKE)
    await yard.sleepers.sleep("a")  # it would refuse if somebody were inside
    await yard.sleepers.close()


async def test_the_least_recently_used_idle_model_makes_room() -> None:
    yard = Yard(budget=20)
    for name in "ab":
        await yard.started(name, need_bytes=10)
    await use(yard, "a")
    await yard.started("c", need_bytes=10)
    assert [yard.rest(name) for name in "abc"] == [Rest.AWAKE, Rest.ASLEEP, Rest.AWAKE]
    assert yard.value('stoker_model_sleeps_total{model="b",reason="memory"}') == 1
    await yard.sleepers.close()


async def test_who_finds_no_room_waits_for_those_that_run_and_not_for_ever() -> None:
    yard = Yard(budget=10)
    await yard.started("b", need_bytes=10)
    await yard.started("a", need_bytes=10)
    async with using(yard, "a"):
        waits = asyncio.create_task(use(yard, "b"))
        await asyncio.sleep(0.02)
        assert yard.rest("a") is Rest.AWAKE
        assert not waits.done()
    await waits
    assert (yard.rest("a"), yard.rest("b")) == (Rest.ASLEEP, Rest.AWAKE)
    yard.sleepers.wake_timeout_s = 0.02
    async with using(yard, "b"):
        with pytest.raises(NotReadyError, match=r"wake_timeout_s.*memory_budget"):
            await use(yard, "a")
    await asyncio.sleep(0.02)
    assert yard.rest("b") is Rest.AWAKE, "nobody waits any more"
    await yard.sleepers.close()


async def test_a_first_start_is_timed_only_until_there_is_room() -> None:
    yard = Yard(budget=10, wake_timeout_s=0.05)
    host = yard.add("a", need_bytes=10)
    host.may_wake.clear()
    starting = asyncio.create_task(yard.sleepers.start("a"))
    await asyncio.sleep(0.1)
    assert not starting.done()
    host.may_wake.set()
    await starting
    async with using(yard, "a"):
        yard.add("b", need_bytes=10)
        with pytest.raises(NotReadyError, match="wake_timeout_s"):
            await yard.sleepers.start("b")
    await yard.sleepers.close()


async def test_sleep_is_refused_while_a_model_is_used_or_wakes() -> None:
    yard = Yard()
    host = await yard.started("a")
    async with using(yard, "a"):
        with pytest.raises(ConflictError, match="answers requests"):
            await yard.sleepers.sleep("a")
    await yard.sleepers.sleep("a")
    await yard.sleepers.sleep("a")
    assert host.n_sleeps == 1
    host.may_wake.clear()
    waking = asyncio.create_task(yard.sleepers.wake("a"))
    await until(lambda: yard.rest("a") is Rest.WAKING)
    with pytest.raises(ConflictError, match="waking up"):
        await yard.sleepers.sleep("a")
    host.may_wake.set()
    await waking
    await yard.sleepers.close()


async def test_a_model_that_is_unloaded_during_a_wake() -> None:
    yard = Yard()
    host = await yard.started("a")
    await yard.sleepers.sleep("a")
    host.may_wake.clear()
    waits = asyncio.create_task(use(yard, "a"))
    await until(lambda: yard.rest("a") is Rest.WAKING)
    await yard.sleepers.remove("a")
    with pytest.raises(NotReadyError, match="unloaded"):
        await waits
    with pytest.raises(NotReadyError, match="unloaded"):
        await use(yard, "a")
    await yard.sleepers.close()


async def test_users_of_a_model_that_was_replaced_do_not_count_for_the_next() -> None:
    yard = Yard()
    await yard.started("a")
    async with using(yard, "a"):
        await yard.sleepers.remove("a")
        await yard.started("a")
        next_user = using(yard, "a")
        await next_user.__aenter__()
    with pytest.raises(ConflictError):
        await yard.sleepers.sleep("a")
    await next_user.__aexit__(None, None, None)
    await yard.sleepers.sleep("a")
    await yard.sleepers.close()


async def test_a_time_of_sleep_that_changes() -> None:
    yard = Yard()
    await yard.started("a")
    yard.sleepers.tune("a", 0.01)
    await until(lambda: yard.rest("a") is Rest.ASLEEP)
    yard.sleepers.tune("unknown", 1)
    await yard.sleepers.close()
