"""What a client may leave open on its connection, tried on real sockets."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from stoker.api.connection import BoundedProtocol, ConnectionLimits
from stoker.core.text import Started, TextDelta
from stoker.testing.scripted_api import scripted_api
from stoker.testing.waiting import until

LIMITS = ConnectionLimits(max_head_bytes=2000, max_headers=20)
PROBE = b"GET /livez HTTP/1.1\r\nhost: x\r\n"


@dataclass(slots=True)
class Listening:
    """A server; `state.connections` are those that it has."""

    port: int
    state: ServerState


@asynccontextmanager
async def listening(
    limits: ConnectionLimits, app: ASGIApp | None = None, keep_alive_s: int = 60
) -> AsyncIterator[Listening]:
    config = uvicorn.Config(
        app or scripted_api().app, ws="none", lifespan="off", log_config=None, timeout_keep_alive=keep_alive_s
    )
    state = ServerState()

    def protocol() -> BoundedProtocol:
        return BoundedProtocol(limits, config=config, server_state=state, app_state={})

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        yield Listening(server.sockets[0].getsockname()[1], state)
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await until(lambda: not state.connections)


@asynccontextmanager
async def connected(
    server: Listening, client: socket.socket | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    if client is None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    else:
        reader, writer = await asyncio.open_connection(sock=client)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(server: Listening, *pieces: bytes) -> bytes:
    """Send pieces and return all that comes until the server closes the connection."""
    async with connected(server) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 20)


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


END = b"connection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (PROBE + b"a: b\r\n" * 18 + END, 200),
        (PROBE + b"a: b\r\n" * 19 + END, 431),
        (PROBE + b"a: " + b"x" * 1900 + b"\r\n" + END, 200),
        (PROBE + b"a: " + b"x" * 2000 + b"\r\n" + END, 431),
        (PROBE + (b"a: " + b"x" * 300 + b"\r\n") * 7 + END, 431),
        (b"GET /livez?" + b"x" * 1900 + b" HTTP/1.1\r\nhost: x\r\n" + END, 200),
        (b"GET /livez?" + b"x" * 2000 + b" HTTP/1.1\r\nhost: x\r\n" + END, 431),
        (b"GARBAGE\r\n\r\n", 400),
    ],
    ids=[
        "count-in",
        "count-over",
        "value-in",
        "value-over",
        "values-over",
        "url-in",
        "url-over",
        "no-http",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
async def test_the_head_of_a_request_is_bounded(head: bytes, status: int, whole: bool) -> None:
    pieces = [head] if whole else [head[at : at + 100] for at in range(0, len(head), 100)]
    async with listening(LIMITS) as server, connected(server) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        assert status_of(await asyncio.wait_for(reader.readline(), 20)) == status


@pytest.mark.parametrize(
    "beginning",
    [PROBE + b"a: ", b"GET /" + b"x" * 100, b"\r\n", PROBE + b"transfer-encoding: chunked\r\n\r\n0\r\na: "],
    ids=["value", "url", "blank-lines", "trailer"],
)
async def test_nothing_gathers_in_the_parser(beginning: bytes) -> None:
    async with listening(LIMITS) as server, connected(server) as (_, writer):
        writer.write(beginning)
        filler = b"\r\n" if beginning == b"\r\n" else b"x"
        sent = 0
        while sent < 100_000 and (server.state.connections or not sent):
            writer.write(filler * 500)
            sent += 500
            await asyncio.sleep(0.001)
        assert sent < 100_000


async def test_every_request_of_a_connection_has_the_whole_bound() -> None:
    head = PROBE + b"a: " + b"x" * 1900 + b"\r\n"
    body = b"content-length: 1000000\r\n\r\n" + b"x" * 1_000_000
    async with listening(LIMITS) as server:
        answer = await exchange(server, *[head + body] * 3, head + END)
    assert answer.count(b"HTTP/1.1 200 OK") == 4


async def test_one_connection_too_many_is_refused_and_closed() -> None:
    async with listening(replace(LIMITS, max_connections=2)) as server, connected(server):
        async with connected(server):
            await until(lambda: len(server.state.connections) == 2)
            answer = await exchange(server)
            assert status_of(answer) == 503
            assert b"connection: close\r\n" in answer
        await until(lambda: len(server.state.connections) == 1)
        assert status_of(await exchange(server, PROBE + END)) == 200


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (PROBE,),
        (b"\r\n",) * 200,
        tuple(PROBE[at : at + 1] for at in range(len(PROBE))) + (b"x",) * 200,
        (PROBE + b"\r\n", b"\r\n"),
        (PROBE + b"\r\n", *PROBE.partition(b"l")),
    ],
    ids=["silence", "half", "blank-lines", "dripping", "blank-after-an-answer", "half-after-an-answer"],
)
async def test_a_client_that_never_ends_its_head_is_cut_off(pieces: tuple[bytes, ...]) -> None:
    async with listening(replace(LIMITS, head_timeout_s=0.3)) as server, connected(server) as (_, writer):
        await until(lambda: server.state.connections)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.005)
        await until(lambda: not server.state.connections, timeout_s=5)


async def test_time_for_the_head_is_not_taken_from_what_comes_after() -> None:
    gate = asyncio.Event()
    api = scripted_api(lambda _: (Started(1), TextDelta(0, "a"), gate, ValueError("the end")))
    body = b'{"model":"tiny","prompt":"a","stream":true}'
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    async with (
        listening(replace(LIMITS, head_timeout_s=0.1), api.app) as server,
        connected(server) as (reader, writer),
    ):
        writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body[:5])
        await asyncio.sleep(0.3)
        writer.write(body[5:])
        assert status_of(await reader.readline()) == 200
        await asyncio.sleep(0.3)
        gate.set()
        assert b"internal_error" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 5)


def deaf_client(port: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    return client


STREAM = b'{"model":"tiny","prompt":"a","stream":true,"max_tokens":100000}'
STREAMING = (
    b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(STREAM), STREAM)
)


async def test_a_client_that_reads_nothing_is_cut_off_and_its_generator_closed() -> None:
    api = scripted_api(lambda _: (Started(1), *[TextDelta(0, "x" * 10_000)] * 1000, asyncio.Event()))
    async with listening(replace(LIMITS, write_timeout_s=0.2), api.app) as server:
        with deaf_client(server.port) as client:
            client.sendall(STREAMING)
            await until(lambda: api.generator.requests)
            await until(lambda: not api.generator.open, timeout_s=10)
            await until(lambda: not server.state.connections)
            await until(lambda: b'status="499"' in api.metrics.render())
    assert api.generator.stopped == 1


async def test_a_client_that_pauses_within_the_time_gets_everything() -> None:
    api = scripted_api(lambda _: (Started(1), *[TextDelta(0, "x" * 10_000)] * 600, ValueError("the end")))
    async with (
        listening(replace(LIMITS, write_timeout_s=1.0), api.app) as server,
        connected(server, deaf_client(server.port)) as (reader, writer),
    ):
        writer.write(STREAMING)
        for _ in range(3):
            await asyncio.sleep(0.5)
            await asyncio.wait_for(reader.readexactly(1_500_000), 10)
        rest = b""
        while not rest.endswith(b"\r\n0\r\n\r\n"):
            rest += await asyncio.wait_for(reader.read(65_536), 10)
        assert b"internal_error" in rest


async def big_answer(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x" * 20_000_000, "more_body": False})


@pytest.mark.parametrize("paused", [True, False])
@pytest.mark.parametrize("end", [b"\r\n", END], ids=["keep-alive", "close"])
async def test_an_answer_that_is_not_read_does_not_keep_its_connection(end: bytes, paused: bool) -> None:
    async with listening(replace(LIMITS, write_timeout_s=0.2), big_answer, keep_alive_s=1) as server:
        with deaf_client(server.port) as client:
            await until(lambda: server.state.connections)
            (connection,) = server.state.connections
            connection.transport.set_write_buffer_limits(high=1000 if paused else 2**30)
            client.sendall(PROBE + end)
            await until(lambda: not server.state.connections, timeout_s=5)


async def test_an_idle_connection_is_closed_after_the_keep_alive_time() -> None:
    async with listening(LIMITS, keep_alive_s=1) as server:
        assert status_of(await exchange(server, PROBE + b"\r\n")) == 200
