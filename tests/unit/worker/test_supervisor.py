"""The supervisor over real engine processes, which compute with a fake engine."""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from stoker.core.errors import (
    EngineDiedError,
    EngineError,
    NotReadyError,
    OutOfMemoryError,
    SettingsError,
)
from stoker.testing.engine_process import POISON, Behaviour, engine_command
from stoker.testing.step_engine import reference_tokens
from stoker.testing.token_streams import tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request, mixed_lengths
from stoker.worker.child import describe_exit
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig
from stoker.worker.restarts import RestartPolicy
from stoker.worker.supervisor import EngineStatus, EngineSupervisor

CONFIG = EngineConfig(model_path=Path("fake"), model="fake")
POISONED = make_request("poisoned", prompt=(POISON,))
ENDLESS = 4000
FAST = RestartPolicy(first_delay_s=0.01, max_delay_s=0.5, crash_loop_deaths=3)


pytestmark = pytest.mark.usefixtures("temporary_folder")


@asynccontextmanager
async def running(
    behaviour: Behaviour = Behaviour.SERVE, *, stop_grace_s: float = 5.0
) -> AsyncGenerator[EngineSupervisor]:
    supervisor = EngineSupervisor(
        CONFIG, command=engine_command(behaviour), policy=FAST, stop_grace_s=stop_grace_s
    )
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def until_status(supervisor: EngineSupervisor, status: EngineStatus) -> None:
    await until(lambda: supervisor.status is status)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not reaped by its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_it_serves_and_leaves_no_process_and_no_file_behind(temporary_folder: Path) -> None:
    requests = mixed_lengths(12)
    async with running() as supervisor:
        assert supervisor.ready
        assert supervisor.info.model == "fake"
        pid = supervisor.pid
        (folder,) = temporary_folder.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        received = await asyncio.gather(*(tokens_of(supervisor, request) for request in requests))
        assert received == [reference_tokens(request) for request in requests]
        assert supervisor.stats.generated_tokens_total == sum(map(len, received))
    assert supervisor.status is EngineStatus.STOPPED
    assert not Path(f"/proc/{pid}").exists()
    assert list(temporary_folder.iterdir()) == []
    with pytest.raises(NotReadyError, match="stopped"):
        supervisor.stream(make_request("late"))


async def test_kill_9_ends_the_streams_and_the_next_engine_serves() -> None:
    async with running() as supervisor:
        streams = [
            asyncio.create_task(tokens_of(supervisor, make_request(f"{number}", max_tokens=ENDLESS)))
            for number in range(5)
        ]
        await until(lambda: supervisor.stats.running == 5 and supervisor.stats.generated_tokens_total > 0)
        first, fingerprint = supervisor.pid, supervisor.info.fingerprint
        os.kill(first, signal.SIGKILL)
        for stream in streams:
            with pytest.raises(EngineDiedError):
                await stream
        assert not supervisor.ready
        counted = supervisor.stats.generated_tokens_total
        assert counted > 0
        assert supervisor.stats.running == 0
        with pytest.raises(NotReadyError, match="being restarted"):
            supervisor.stream(make_request("between"))
        assert supervisor.fingerprint == fingerprint, "its last tokens may be answered with yet"
        await until_status(supervisor, EngineStatus.READY)
        assert supervisor.restarts == 1
        assert supervisor.pid != first
        request = make_request("after")
        assert await tokens_of(supervisor, request) == reference_tokens(request)
        assert supervisor.stats.generated_tokens_total == counted + 8
        assert not Path(f"/proc/{first}").exists()


async def test_a_step_that_raises_ends_the_engine_with_its_reason() -> None:
    async with running(Behaviour.RAISE) as supervisor:
        with pytest.raises(EngineDiedError, match="RuntimeError: the arithmetic went wrong"):
            await tokens_of(supervisor, POISONED)
        await until_status(supervisor, EngineStatus.READY)
        assert supervisor.restarts == 1


async def test_a_crash_loop_is_not_ready_and_ends_in_slow_attempts(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Behaviour.DIE) as supervisor:
        for _ in range(FAST.crash_loop_deaths):
            await until_status(supervisor, EngineStatus.READY)
            with pytest.raises(EngineDiedError):
                await tokens_of(supervisor, POISONED)
        await until_status(supervisor, EngineStatus.CRASH_LOOP)
        assert not supervisor.ready
        with pytest.raises(NotReadyError, match="keeps dying"):
            supervisor.stream(make_request("refused"))
        assert "killed by SIGKILL" in caplog.text
        await until_status(supervisor, EngineStatus.READY)  # it keeps trying
        assert supervisor.restarts == FAST.crash_loop_deaths


@pytest.mark.parametrize(
    ("behaviour", "kind", "message"),
    [
        (
            Behaviour.REFUSE,
            OutOfMemoryError,
            "^the model needs 9 GiB and 1 GiB is free: choose a smaller one$",
        ),
        (Behaviour.EXIT, EngineDiedError, "exit status 3"),
        (Behaviour.HANG, EngineError, "not ready within 1 s"),
    ],
)
async def test_a_first_start_that_fails_raises_the_engines_own_error(
    behaviour: Behaviour, kind: type[Exception], message: str, temporary_folder: Path
) -> None:
    timeout_s = 1.0 if behaviour is Behaviour.HANG else 30.0
    supervisor = EngineSupervisor(CONFIG, command=engine_command(behaviour), start_timeout_s=timeout_s)
    with pytest.raises(kind, match=message) as raised:
        await supervisor.start()
    assert type(raised.value) is kind
    assert not supervisor.ready
    assert list(temporary_folder.iterdir()) == []
    await supervisor.stop()


async def test_settings_that_contradict_the_model_fail_the_start() -> None:
    config = EngineConfig(model_path=Path("fake"), model="fake", context_length=2**20)
    supervisor = EngineSupervisor(config, command=engine_command(Behaviour.SERVE))
    with pytest.raises(SettingsError, match="was made for 4096 tokens"):
        await supervisor.start()


async def test_a_command_that_does_not_exist_fails_the_start(temporary_folder: Path) -> None:
    supervisor = EngineSupervisor(CONFIG, command=("/nonexistent/engine",))
    with pytest.raises(EngineError, match=r"cannot be started: .*No such file.*/nonexistent/engine"):
        await supervisor.start()
    assert list(temporary_folder.iterdir()) == []


async def test_a_start_that_is_cancelled_leaves_no_process(temporary_folder: Path) -> None:
    supervisor = EngineSupervisor(CONFIG, command=engine_command(Behaviour.HANG))
    starting = asyncio.create_task(supervisor.start())
    await until(lambda: list(temporary_folder.glob("*/*.sock")))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert list(temporary_folder.iterdir()) == []


async def test_too_long_a_folder_name_is_a_clear_error(
    temporary_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = temporary_folder / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(SettingsError, match="set TMPDIR to a shorter one"):
        await EngineSupervisor(CONFIG, command=engine_command(Behaviour.SERVE)).start()
    assert list(folder.iterdir()) == []


async def test_stopping_kills_an_engine_that_does_not_end() -> None:
    async with running(Behaviour.STALL, stop_grace_s=0.3) as supervisor:
        stalled = asyncio.create_task(tokens_of(supervisor, POISONED))
        await until(lambda: supervisor.stats.running)  # and stands still in this step
        pid = supervisor.pid
        started = time.monotonic()
        await supervisor.stop()
        assert 0.2 < time.monotonic() - started < 4.0, "not the 5 s that it would have by default"
        assert not Path(f"/proc/{pid}").exists()
        with pytest.raises(EngineDiedError):
            await stalled


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signals_to_the_whole_service_leave_the_engine_to_its_gateway(number: signal.Signals) -> None:
    async with running() as supervisor:
        os.kill(supervisor.pid, number)
        await asyncio.sleep(0.1)
        assert len(await tokens_of(supervisor, make_request("after"))) == 8
        child = supervisor._child
        assert child is not None
        await supervisor.stop()
        assert child._process.returncode == 0


async def test_an_engine_without_a_parent_ends_with_status_0_at_sigterm(temporary_folder: Path) -> None:
    config = msgspec.structs.replace(CONFIG, socket_path=temporary_folder / "alone.sock")
    process = await asyncio.create_subprocess_exec(
        *engine_command(Behaviour.SERVE), stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(config.to_line())
    process.stdin.close()
    engine = await EngineClient.connect(config.socket_path)
    assert len(await tokens_of(engine, make_request("served"))) == 8
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    await engine.close()


async def test_an_idle_engine_process_uses_no_processor() -> None:
    async with running() as supervisor:
        await tokens_of(supervisor, make_request("before"))
        pid = supervisor.pid
        async with asyncio.timeout(20):  # on a busy machine its last words may take a while
            before = -1.0
            while cpu_seconds(pid) != before:
                before = cpu_seconds(pid)
                await asyncio.sleep(0.2)
        before = cpu_seconds(pid)
        await asyncio.sleep(1.0)
        assert cpu_seconds(supervisor.pid) - before < 0.02


PARENT = """
import asyncio
from pathlib import Path
from stoker.core.tokens import TokensEvent
from stoker.testing.engine_process import POISON, Behaviour, engine_command
from stoker.testing.workloads import make_request
from stoker.worker.config import EngineConfig
from stoker.worker.supervisor import EngineSupervisor

async def main() -> None:
    config = EngineConfig(model_path=Path("fake"), model="fake")
    supervisor = EngineSupervisor(config, command=engine_command(Behaviour.STALL))
    await supervisor.start()
    stalled = asyncio.ensure_future(anext(supervisor.stream(make_request("stalled", prompt=(POISON,)))))
    await stalled
    print(supervisor.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_the_engine_ends_with_its_parent_even_within_a_step(temporary_folder: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(temporary_folder)}
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", PARENT, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert parent.stdout is not None
    engine = int(await asyncio.wait_for(parent.stdout.readline(), 30))
    assert is_alive(engine)
    parent.kill()
    await parent.wait()
    await until(lambda: not is_alive(engine))


async def test_the_end_of_its_input_ends_an_engine_where_the_kernel_does_not() -> None:
    async with running() as supervisor:
        child = supervisor._child
        assert child is not None
        stdin = child._process.stdin
        assert stdin is not None
        stdin.close()
        assert "exit status 0" in await child.wait()


def test_exits_are_described_in_words() -> None:
    assert describe_exit(None) == "it is still running"
    assert describe_exit(3) == "exit status 3"
    assert describe_exit(-11) == "killed by SIGSEGV"
    assert describe_exit(-200) == "killed by signal 200"
