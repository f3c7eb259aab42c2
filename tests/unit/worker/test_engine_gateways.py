"""Several gateways on one engine, and those that misbehave."""

import asyncio
import socket
from pathlib import Path

import pytest

from stoker.core.errors import (
    EngineDiedError,
    QueueFullError,
)
from stoker.testing.engine_thread import INCARNATION, EngineThread, gated_engine
from stoker.testing.step_engine import FakeStepEngine, reference_tokens
from stoker.testing.token_streams import tokens_of
from stoker.testing.waiting import until
from stoker.testing.workloads import make_request
from stoker.worker import client as client_module
from stoker.worker import frames
from stoker.worker.client import EngineClient


async def test_two_gateways_may_use_the_same_ids(socket_path: Path) -> None:
    requests = [make_request("same", prompt=(number, 2, 3), max_tokens=50) for number in range(2)]
    with EngineThread(socket_path, FakeStepEngine(512)):
        engines = [await EngineClient.connect(socket_path) for _ in range(2)]
        received = await asyncio.gather(*map(tokens_of, engines, requests))
        assert received == [reference_tokens(request) for request in requests]
        for engine in engines:
            await engine.close()


async def test_a_gateway_without_requests_hears_of_the_others_load(socket_path: Path) -> None:
    with gated_engine(socket_path) as gate:
        works, watches = [await EngineClient.connect(socket_path) for _ in range(2)]
        work = asyncio.create_task(tokens_of(works, make_request("work")))
        await until(gate.reached.is_set)
        gate.open()
        await work
        await until(lambda: watches.stats.generated_tokens_total == 8)
        assert watches.stats.running == 0
        await works.close()
        await watches.close()


async def test_a_gateway_that_does_not_read_is_cut_off_and_its_requests_aborted(socket_path: Path) -> None:
    unread = EngineThread(socket_path, FakeStepEngine(2048), max_unread_bytes=20_000)
    with unread, socket.socket(socket.AF_UNIX) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(str(socket_path))
        sampling = frames.Sampling(1.0, 0, 1.0, 0.0, 0, 0, 20, 0.0, 0.0, 1.0, ())
        submits = [
            frames.Submit(INCARNATION, number, (number + 1,), 0, 3900, 0, (), sampling, "", 0, None, None)
            for number in range(8)
        ]
        # At once: it may be cut off before it could send one after the other.
        deaf.sendall(b"".join(map(frames.encode, submits)))
        watches = await EngineClient.connect(socket_path)
        await until(lambda: watches.stats.generated_tokens_total > 0 and watches.stats.running == 0)
        assert watches.stats.generated_tokens_total < 8 * 3900
        assert watches.stats.kv_blocks_used == 0
        assert len(await tokens_of(watches, make_request("served"))) == 8
        await watches.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\x03\x00\x00\x00\xc1\xc1\xc1",
        frames.encode(frames.Abort(INCARNATION + 1, 0)),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["length", "msgpack", "incarnation", "http"],
)
async def test_whoever_does_not_speak_the_protocol_is_cut_off_alone(
    data: bytes, socket_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EngineThread(socket_path, FakeStepEngine()):
        engine = await EngineClient.connect(socket_path)
        reader, writer = await asyncio.open_unix_connection(socket_path)
        writer.write(data)
        async with asyncio.timeout(5):
            await reader.read()  # Hello, then the end of file
        writer.close()
        assert len(await tokens_of(engine, make_request("served"))) == 8
        assert "a gateway is cut off" in caplog.text
        await engine.close()


async def test_aborts_of_unknown_and_ended_sequences_are_harmless(socket_path: Path) -> None:
    with EngineThread(socket_path, FakeStepEngine()):
        _, writer = await asyncio.open_unix_connection(socket_path)
        for number in range(10_000):  # more than the mailbox holds
            writer.write(frames.encode(frames.Abort(INCARNATION, number)))
        engine = await EngineClient.connect(socket_path)
        assert len(await tokens_of(engine, make_request("served"))) == 8
        writer.close()
        await engine.close()


async def test_more_frames_than_the_mailbox_holds_wait_in_the_socket(socket_path: Path) -> None:
    with gated_engine(socket_path) as gate:
        engine = await EngineClient.connect(socket_path)
        request = make_request("running", max_tokens=3)
        running = asyncio.create_task(tokens_of(engine, request))
        await until(gate.reached.is_set)
        _, writer = await asyncio.open_unix_connection(socket_path)
        for number in range(20_000):
            writer.write(frames.encode(frames.Abort(INCARNATION, number)))
        await asyncio.sleep(0.2)
        last = make_request("last", max_tokens=3)
        waiting = asyncio.create_task(tokens_of(engine, last))
        gate.open()
        assert await running == reference_tokens(request)
        assert await waiting == reference_tokens(last)
        writer.close()
        await engine.close()


async def test_submissions_are_refused_while_the_engine_does_not_read(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_UNSENT_BYTES", 1000)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(socket_path))
    server.listen()
    connecting = asyncio.create_task(EngineClient.connect(socket_path))
    await asyncio.sleep(0.05)
    connection, _ = server.accept()
    connection.sendall(
        frames.encode(frames.Hello(INCARNATION, frames.PROTOCOL_VERSION, "m", "f", 2**20, 256, 1, 1, 1, 1))
    )
    engine = await connecting
    taken = []
    for number in range(100):
        waiting = asyncio.ensure_future(anext(engine.stream(make_request(f"{number}", n_prompt=10_000))))
        await asyncio.sleep(0)
        if waiting.done():
            with pytest.raises(QueueFullError, match="does not keep up"):
                waiting.result()
            break
        taken.append(waiting)
    else:
        pytest.fail("the gateway went on buffering")
    await engine.close()
    for waiting in taken:
        with pytest.raises(EngineDiedError):
            await waiting
    connection.close()
    server.close()
