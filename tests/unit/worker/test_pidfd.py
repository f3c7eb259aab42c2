"""The end of a child process is seen by itself, not by what it leaves open."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from stoker.core.errors import EngineDiedError
from stoker.testing.engine_process import FORK_S, POISON, Behaviour, engine_command
from stoker.testing.step_engine import reference_tokens
from stoker.testing.token_streams import tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker.config import EngineConfig
from stoker.worker.pidfd import ProcessWatch
from stoker.worker.restarts import RestartPolicy
from stoker.worker.supervisor import EngineSupervisor


@pytest.fixture(params=[True, False], ids=["pidfd", "without"])
def with_pidfd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Let the kernel have pidfds, or not."""
    if request.param and not hasattr(os, "pidfd_open"):
        pytest.skip("this system has no pidfds")
    if not request.param:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    return bool(request.param)


async def sleeper() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec("sleep", "60")


@pytest.mark.usefixtures("with_pidfd")
async def test_a_process_that_is_killed_is_seen_to_end_and_may_be_killed_again() -> None:
    process = await sleeper()
    watch = ProcessWatch(process)
    waiting = asyncio.create_task(watch.wait())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    watch.kill()
    await asyncio.wait_for(waiting, 5)
    await process.wait()
    await watch.wait()
    watch.kill()
    watch.close()
    watch.close()


async def test_a_process_that_is_reaped_already_has_ended(with_pidfd: bool) -> None:
    process = await asyncio.create_subprocess_exec("true")
    watch = ProcessWatch(process) if with_pidfd else None
    await process.wait()
    watch = watch or ProcessWatch(process)
    await asyncio.wait_for(watch.wait(), 5)
    watch.kill()
    watch.close()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no pidfds")
async def test_an_engine_whose_fork_keeps_its_sockets_is_seen_to_die_and_is_replaced() -> None:
    config = EngineConfig(model_path=Path("fake"), model="fake")
    supervisor = EngineSupervisor(
        config, command=engine_command(Behaviour.FORK), policy=RestartPolicy(first_delay_s=0.01)
    )
    await supervisor.start()
    try:
        started = time.monotonic()
        with pytest.raises(EngineDiedError, match="the engine process ended"):
            await tokens_of(supervisor, make_request("poisoned", prompt=(POISON,)))
        await until(lambda: supervisor.ready and supervisor.restarts == 1)
        assert time.monotonic() - started < FORK_S
        request = make_request("after")
        assert await tokens_of(supervisor, request) == reference_tokens(request)
    finally:
        await supervisor.stop()
