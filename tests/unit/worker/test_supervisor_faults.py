"""What goes wrong on this machine, not in the engine."""

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import uvloop

from stoker.core.errors import EngineDiedError, EngineError, SettingsError
from stoker.testing.engine_process import POISON, Behaviour, engine_command
from stoker.testing.token_streams import tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker.child import EngineChild, _end
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig
from stoker.worker.pidfd import ProcessWatch
from stoker.worker.restarts import RestartPolicy
from stoker.worker.supervisor import EngineSupervisor

CONFIG = EngineConfig(model_path=Path("fake"), model="fake")
COMMAND = engine_command(Behaviour.SERVE)
FAST = RestartPolicy(first_delay_s=0.01)


async def test_a_missing_folder_for_temporary_files_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(SettingsError, match="set TMPDIR"):
        await EngineSupervisor(CONFIG, command=COMMAND).start()


async def test_a_socket_that_cannot_be_connected_to_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def connect(_: Path) -> EngineClient:
        await asyncio.sleep(0)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(EngineClient, "connect", connect)
    with pytest.raises(EngineError, match=r"cannot be connected to: .*Permission denied"):
        await EngineSupervisor(CONFIG, command=COMMAND).start()


async def test_whatever_fails_a_restart_the_next_one_is_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = EngineChild.start
    supervisor = EngineSupervisor(CONFIG, command=COMMAND, policy=FAST)
    await supervisor.start()
    try:

        async def fail(*_: object, **__: object) -> EngineChild:
            await asyncio.sleep(0)
            monkeypatch.setattr(EngineChild, "start", start)
            raise ValueError("nobody thought of this")

        monkeypatch.setattr(EngineChild, "start", fail)
        os.kill(supervisor.pid, signal.SIGKILL)
        await until(lambda: supervisor.restarts == 2 and supervisor.ready)
        assert "nobody thought of this" in caplog.text
        assert "Traceback" in caplog.text
        assert len(await tokens_of(supervisor, make_request("after"))) == 8
    finally:
        await supervisor.stop()


def test_an_engine_that_is_killed_before_it_has_its_settings_is_a_failed_start_like_any_other() -> None:
    """On the loop of the server, which refuses writes to a pipe that it knows to be closed."""
    create = asyncio.create_subprocess_exec

    async def killed(*arguments: str, **options: Any) -> asyncio.subprocess.Process:
        process = await create(*arguments, **options)
        process.kill()
        await process.wait()
        assert process.stdin is not None
        await until(process.stdin.is_closing)
        return process

    async def start() -> None:
        with (
            patch.object(asyncio, "create_subprocess_exec", killed),
            pytest.raises(EngineDiedError, match=r"ended before it was ready \(killed by SIGKILL\)"),
        ):
            await EngineSupervisor(CONFIG, command=COMMAND).start()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(start())


async def test_what_an_engine_prints_is_kept_out_of_our_own_output(capfd: pytest.CaptureFixture[str]) -> None:
    command = (sys.executable, "-c", "print('a library says hello')")
    with pytest.raises(EngineError):
        await EngineSupervisor(CONFIG, command=command).start()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "a library says hello" in printed.err


@pytest.mark.parametrize("n_cancels", [1, 2, 3])
async def test_an_end_that_is_cancelled_leaves_no_process(n_cancels: int, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    watch = ProcessWatch(process)
    ending = asyncio.create_task(_end(process, watch, tmp_path / "engine.sock", grace_s=60.0))
    await asyncio.sleep(0.01)
    for _ in range(n_cancels):
        ending.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert process.returncode == -signal.SIGKILL, "it was killed and reaped"


async def test_a_stop_that_is_cancelled_leaves_no_process() -> None:
    supervisor = EngineSupervisor(CONFIG, command=engine_command(Behaviour.STALL), stop_grace_s=60.0)
    await supervisor.start()
    child = supervisor._child
    assert child is not None
    client = child.client
    stalled = asyncio.create_task(tokens_of(supervisor, make_request("stalled", prompt=(POISON,))))
    await until(lambda: supervisor.stats.running)
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0.05)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert child._process.returncode == -signal.SIGKILL
    with pytest.raises(EngineDiedError):
        await stalled
    await until(lambda: not client.connected)
