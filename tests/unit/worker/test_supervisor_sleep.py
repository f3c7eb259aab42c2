"""Engine processes end for a sleep and start again, over real processes that compute with a fake engine."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from stoker.core.errors import EngineDiedError, NotReadyError
from stoker.testing.engine_process import Behaviour, engine_command
from stoker.testing.step_engine import reference_tokens
from stoker.testing.token_streams import tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker.config import EngineConfig
from stoker.worker.pins import PinnedPrefixes
from stoker.worker.restarts import RestartPolicy
from stoker.worker.supervisor import EngineStatus, EngineSupervisor

CONFIG = EngineConfig(model_path=Path("fake"), model="fake", max_pinned_tokens=1024)
REQUEST = make_request("r", prompt=(1, 2, 3))


pytestmark = pytest.mark.usefixtures("temporary_folder")


@asynccontextmanager
async def running() -> AsyncGenerator[EngineSupervisor]:
    supervisor = EngineSupervisor(
        CONFIG, command=engine_command(Behaviour.SERVE), policy=RestartPolicy(first_delay_s=0.01)
    )
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def test_a_sleeping_engine_is_gone_and_the_next_goes_on(temporary_folder: Path) -> None:
    async with running() as supervisor:
        tokens = await tokens_of(supervisor, REQUEST)
        pid, fingerprint = supervisor.pid, supervisor.fingerprint
        n_generated = supervisor.stats.generated_tokens_total
        await supervisor.sleep()
        assert supervisor.status is EngineStatus.ASLEEP
        assert not Path(f"/proc/{pid}").exists()
        assert supervisor.fingerprint == fingerprint
        assert supervisor.stats.generated_tokens_total == n_generated
        assert supervisor.stats.kv_blocks_total == 0
        with pytest.raises(NotReadyError, match="asleep"):
            supervisor.stream(REQUEST)
        await supervisor.wake()
        assert supervisor.ready
        assert supervisor.pid != pid
        assert supervisor.restarts == 0, "a wake is no restart"
        assert await tokens_of(supervisor, REQUEST) == tokens == tuple(reference_tokens(REQUEST))
        assert supervisor.stats.generated_tokens_total == 2 * n_generated
        os.kill(supervisor.pid, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 1 and supervisor.ready)
        await supervisor.sleep()
    assert list(temporary_folder.iterdir()) == []


async def test_an_engine_that_is_killed_while_it_wakes() -> None:
    async with running() as supervisor:
        await supervisor.sleep()
        supervisor._command = engine_command(Behaviour.HANG)
        waking = asyncio.create_task(supervisor.wake())
        await until(lambda: bool(children()))
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineDiedError, match="SIGKILL"):
            await waking
        assert supervisor.status is EngineStatus.ASLEEP
        assert children() == []
        supervisor._command = engine_command(Behaviour.SERVE)
        await supervisor.wake()
        assert await tokens_of(supervisor, REQUEST)
        assert supervisor.restarts == 0


async def test_a_wake_that_is_given_up_leaves_no_process() -> None:
    async with running() as supervisor:
        await supervisor.sleep()
        supervisor._command = engine_command(Behaviour.HANG)
        waking = asyncio.create_task(supervisor.wake())
        await until(lambda: bool(children()))
        waking.cancel()
        await asyncio.gather(waking, return_exceptions=True)
        assert children() == []
        assert supervisor.status is EngineStatus.ASLEEP


async def test_a_sleep_ends_a_restart() -> None:
    async with running() as supervisor:
        os.kill(supervisor.pid, signal.SIGKILL)
        await until(lambda: not supervisor.ready)
        await supervisor.sleep()
        assert children() == []
        await supervisor.wake()
        assert supervisor.ready


async def test_pinned_prefixes_are_held_again_after_a_wake() -> None:
    async with running() as supervisor:
        pins = PinnedPrefixes(supervisor)
        pin = await pins.pin(list(range(20, 60)))
        assert pin.held
        await supervisor.sleep()
        await until(lambda: not pins.all()[0].held)
        await supervisor.wake()
        await until(lambda: pins.all()[0].held)
        await pins.close()


async def test_what_never_started_is_not_woken() -> None:
    supervisor = EngineSupervisor(CONFIG)
    with pytest.raises(NotReadyError):
        await supervisor.wake()


def children() -> list[int]:
    """Processes that this one has started and that run."""
    found: list[int] = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            found += [
                int(pid)
                for pid in (task / "children").read_text().split()
                if b"engine_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
    return found
