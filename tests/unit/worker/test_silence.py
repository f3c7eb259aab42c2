"""An engine that owes an answer and says nothing."""

import asyncio
from pathlib import Path

import pytest

from stoker.core.errors import EngineDiedError, NotReadyError
from stoker.testing.engine_process import POISON, TOIL_S, Behaviour, engine_command
from stoker.testing.engine_thread import gated_engine
from stoker.testing.token_streams import tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig
from stoker.worker.silence import Silence
from stoker.worker.supervisor import EngineStatus, EngineSupervisor

CONFIG = EngineConfig(model_path=Path("fake"), model="fake")


def test_an_engine_that_was_asked_nothing_owes_nothing() -> None:
    silence = Silence()
    assert silence.length_s(1000.0) == 0
    silence.heard(1000.0, owes_more=False)
    assert silence.length_s(2000.0) == 0


def test_silence_begins_with_the_first_question_and_ends_with_the_next_word() -> None:
    silence = Silence()
    silence.asked(10.0)
    silence.asked(12.0)
    assert silence.length_s(13.0) == 3.0
    silence.heard(13.0, owes_more=True)
    assert silence.length_s(15.0) == 2.0
    silence.heard(15.0, owes_more=False)
    assert silence.length_s(99.0) == 0


async def test_a_hung_engine_stays_noticed_when_its_clients_leave(socket_path: Path) -> None:
    with gated_engine(socket_path) as gate:
        engine = await EngineClient.connect(socket_path)
        assert engine.silence_s == 0
        waiting = asyncio.create_task(tokens_of(engine, make_request("waiting")))
        await until(gate.reached.is_set)
        await until(lambda: engine.silence_s > 0.05)
        waiting.cancel()
        await asyncio.wait((waiting,))
        await until(lambda: engine.silence_s > 0.1)
        gate.open()
        await until(lambda: engine.silence_s == 0)
        await engine.close()


async def test_a_hung_engine_is_not_ready_and_then_restarted(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = EngineSupervisor(CONFIG, command=engine_command(Behaviour.STALL), timeout_s=1.5)
    await supervisor.start()
    try:
        hung = supervisor.pid
        stalled = asyncio.create_task(tokens_of(supervisor, make_request("stalled", prompt=(POISON,))))
        await until(lambda: supervisor.status is EngineStatus.SILENT)
        assert not supervisor.ready
        with pytest.raises(NotReadyError, match="does not answer"):
            supervisor.stream(make_request("refused"))
        with pytest.raises(EngineDiedError, match=r"did not answer for 1\.5 s"):
            await stalled
        await until(lambda: supervisor.ready)
        assert supervisor.pid != hung
        assert supervisor.restarts == 1
        assert "did not answer for 1.5 s (killed by SIGKILL)" in caplog.text
        assert len(await tokens_of(supervisor, make_request("after"))) == 8
    finally:
        await supervisor.stop()


async def test_a_long_call_that_goes_on_is_no_silence() -> None:
    # Without signs of life it would not be ready after 2 s.
    supervisor = EngineSupervisor(CONFIG, command=engine_command(Behaviour.TOIL), timeout_s=12.0)
    await supervisor.start()
    try:
        toiling = asyncio.create_task(tokens_of(supervisor, make_request("toiling", prompt=(POISON,))))
        began = asyncio.get_running_loop().time()
        while not toiling.done():
            assert supervisor.ready
            await asyncio.sleep(0.02)
        assert len(await toiling) == 8
        assert asyncio.get_running_loop().time() - began > TOIL_S
        assert supervisor.restarts == 0
    finally:
        await supervisor.stop()


async def test_an_idle_or_busy_engine_is_left_alone() -> None:
    supervisor = EngineSupervisor(CONFIG, command=engine_command(Behaviour.SERVE), timeout_s=1.0)
    await supervisor.start()
    try:
        async with asyncio.timeout(20):
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() < began + 1.5:
                await tokens_of(supervisor, make_request("busy", max_tokens=50))
        await asyncio.sleep(1.5)
        assert supervisor.ready
        assert supervisor.restarts == 0
    finally:
        await supervisor.stop()
