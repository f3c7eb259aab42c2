"""The engine's sockets, in one thread with the test."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.testing.engine_thread import INCARNATION, EngineThread
from stoker.testing.step_engine import FakeStepEngine
from stoker.testing.token_streams import tokens_of
from stoker.testing.workloads import make_request
from stoker.worker import frames
from stoker.worker.client import EngineClient
from stoker.worker.peer import MAX_UNREAD_BYTES


class Listener:
    """A listening socket whose first calls of `accept` fail."""

    def __init__(self, real: socket.socket, faults: Iterator[OSError]) -> None:
        self._real = real
        self._faults = faults

    def fileno(self) -> int:
        return self._real.fileno()

    def accept(self) -> tuple[socket.socket, object]:
        fault = next(self._faults, None)
        if fault is not None:
            raise fault
        return self._real.accept()

    def close(self) -> None:
        self._real.close()


async def test_a_connection_that_cannot_be_accepted_waits_for_better_times(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [ConnectionAbortedError(), OSError(errno.EMFILE, "Too many open files")]
    engine = EngineThread(socket_path, FakeStepEngine(64))
    listener = Listener(engine._server._listener, iter(faults))
    monkeypatch.setattr(engine._server, "_listener", listener)
    with engine:
        client = await asyncio.wait_for(EngineClient.connect(socket_path), 10)
        assert len(await tokens_of(client, make_request("served"))) == 8
        assert "cannot be accepted yet: [Errno 24] Too many open files" in caplog.text
        assert "Aborted" not in caplog.text
        await client.close()


def test_a_gateway_may_be_busy_for_many_seconds_before_it_is_cut_off() -> None:
    top = tuple((100_000 + rank, -1.25 * rank) for rank in range(20))
    tokens = tuple(
        frames.Tokens(number, (100_000,), 512, None, (frames.Logprob(-1.25, top),)) for number in range(64)
    )
    stats = frames.Stats(**dict.fromkeys(frames.Stats.__struct_fields__, 10**9))
    largest = frames.encode(frames.Step(INCARNATION, (), (), tokens, stats))
    steps_a_second = 100
    assert len(largest) * steps_a_second * 20 < MAX_UNREAD_BYTES
