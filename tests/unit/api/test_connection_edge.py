"""What HTTP leaves to the imagination, on real sockets: framing, pipelining, half-closed connections."""

import asyncio
import re
import socket
import tracemalloc

import pytest
from starlette.types import Receive, Scope, Send

from stoker.api.connection import BoundedProtocol, ConnectionLimits
from stoker.core.text import Event, Finished, Started, TextDelta, Usage
from stoker.core.tokens import FinishReason
from stoker.testing.loopback import connected, exchange, listening, status_of
from stoker.testing.scripted_api import scripted_api
from stoker.testing.waiting import until

LIMITS = ConnectionLimits(max_head_bytes=4000, max_headers=20)
BODY = b'{"model":"tiny","prompt":"a"}'
POST = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
WHOLE = POST + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)
GET = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b"5\r\n%b\r\n18;ext=1\r\n%b\r\n0\r\ntrailer: t\r\n\r\n" % (BODY[:5], BODY[5:])

MALFORMED = {
    "length-and-chunked": POST + b"content-length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
    "chunked-and-length": POST + CHUNKED + b"content-length: 5\r\n\r\n0\r\n\r\n",
    "two-lengths": POST + b"content-length: 29\r\ncontent-length: 29\r\n\r\n" + BODY,
    "different-lengths": POST + b"content-length: 29\r\ncontent-length: 5\r\n\r\n" + BODY,
    "list-of-lengths": POST + b"content-length: 29, 29\r\n\r\n" + BODY,
    "signed-length": POST + b"content-length: +29\r\n\r\n" + BODY,
    "negative-length": POST + b"content-length: -1\r\n\r\n" + BODY,
    "hexadecimal-length": POST + b"content-length: 0x1d\r\n\r\n" + BODY,
    "length-beyond-64-bits": POST + b"content-length: 99999999999999999999999\r\n\r\n",
    "unknown-coding": POST + b"transfer-encoding: xchunked\r\n\r\n" + BODY,
    "chunked-not-last": POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "two-codings": POST + CHUNKED + b"transfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "space-before-colon": POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "chunk-size": POST + CHUNKED + b"\r\nZZ\r\nabc\r\n",
    "negative-chunk": POST + CHUNKED + b"\r\n-5\r\nabc\r\n",
    "chunk-beyond-64-bits": POST + CHUNKED + b"\r\nFFFFFFFFFFFFFFFFF\r\nabc\r\n",
    "chunk-too-long": POST + CHUNKED + b"\r\n5\r\nabcdefg\r\n0\r\n\r\n",
    "chunks-by-line-feeds": POST + CHUNKED + b"\r\n1d\n" + BODY + b"\n0\n\n",
    "folded-header": GET + b"a: b\r\n c\r\n\r\n",
    "line-feeds": b"GET /livez HTTP/1.1\nhost: x\n\n",
    "carriage-returns": b"GET /livez HTTP/1.1\rhost: x\r\r",
    "nul-in-path": b"GET /li\0vez HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "nul-in-header": GET + b"a: b\0c\r\n\r\n",
    "raw-bytes-in-path": b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "no-host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two-hosts": GET + b"host: y\r\n\r\n",
    "no-colon": GET + b"abc\r\n\r\n",
    "no-name": GET + b": b\r\n\r\n",
    "connect": b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
    "unknown-method": b"FOO /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
async def test_what_two_parsers_may_read_differently_is_refused_and_closed(data: bytes) -> None:
    api = scripted_api()
    async with listening(LIMITS, api.app) as server:
        answer = await exchange(server, data)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert status_of(answer) == 400
        assert not api.generator.requests
        assert status_of(await exchange(server, GET + b"connection: close\r\n\r\n")) == 200


ODD = {
    "no-host-in-1.0": (b"GET /livez HTTP/1.0\r\n\r\n", 200),
    "absolute-target": (b"GET http://x/livez HTTP/1.1\r\nhost: localhost\r\n", 200),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n", 404),
    "nul-escaped": (b"GET /livez%00 HTTP/1.1\r\nhost: localhost\r\n", 404),
    "bytes-escaped": (b"GET /%ff%fe HTTP/1.1\r\nhost: localhost\r\n", 404),
    "dot-segments": (b"GET /v1/../livez HTTP/1.1\r\nhost: localhost\r\n", 404),
    "options": (GET.replace(b"GET", b"OPTIONS"), 405),
    "trace": (GET.replace(b"GET", b"TRACE"), 405),
    "upgrade": (GET + b"upgrade: websocket\r\n", 200),
    "get-with-body": (GET + b"content-length: 5\r\n\r\nhello", 200),
}


@pytest.mark.parametrize(("head", "status"), ODD.values(), ids=ODD.keys())
async def test_odd_requests_have_plain_answers(head: bytes, status: int) -> None:
    data = head if b"\r\n\r\n" in head else head + b"connection: close\r\n\r\n"
    async with listening(LIMITS) as server, connected(server) as (reader, writer):
        writer.write(data)
        assert status_of(await asyncio.wait_for(reader.readline(), 20)) == status


@pytest.mark.parametrize("path", [b"/livez", b"/v1/models", b"/no/such/path"])
async def test_head_has_the_headers_of_get_and_no_body(path: bytes) -> None:
    end = b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    async with listening(LIMITS) as server:
        got, headed = (
            await exchange(server, b"GET " + path + end),
            await exchange(server, b"HEAD " + path + end),
        )
    head, _, body = headed.partition(b"\r\n\r\n")
    assert not body
    assert status_of(headed) == status_of(got)
    (length,) = re.findall(rb"content-length: (\d+)", head)
    assert int(length) > 0


async def test_a_chunked_body_is_put_together() -> None:
    api = scripted_api()
    async with listening(LIMITS, api.app) as server:
        answer = await exchange(server, POST + CHUNKED + b"connection: close\r\n\r\n" + CHUNKS)
    assert status_of(answer) == 200
    assert len(api.generator.requests) == 1


async def test_a_client_that_waits_for_100_is_told_to_go_on() -> None:
    async with listening(LIMITS) as server, connected(server) as (reader, writer):
        writer.write(POST + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(BODY))
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert status_of(await asyncio.wait_for(reader.readline(), 5)) == 200


async def test_pipelined_requests_are_answered_in_order() -> None:
    models = b"GET /v1/models/%d HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with listening(LIMITS) as server:
        answer = await exchange(
            server,
            WHOLE + b"".join(models % n for n in range(500)) + WHOLE + GET + b"connection: close\r\n\r\n",
        )
    named = [int(number) for number in re.findall(rb"The model '(\d+)' is not served", answer)]
    assert named == list(range(500))
    assert answer.count(b"HTTP/1.1 200 OK") == 3


async def test_pipelined_requests_wait_unparsed_while_one_is_answered() -> None:
    gate = asyncio.Event()
    n_requests = 2000

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's signature
        await gate.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with listening(LIMITS, slow) as server, connected(server) as (reader, writer):
        await until(lambda: server.state.connections)
        tracemalloc.start()
        writer.write((GET + b"\r\n") * n_requests)
        await asyncio.sleep(0.2)
        held_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        (connection,) = server.state.connections
        assert isinstance(connection, BoundedProtocol)
        assert len(connection.pipeline) < 400  # those of one piece
        assert held_bytes < 2 * 2**20
        gate.set()
        writer.write_eof()
        assert (await asyncio.wait_for(reader.read(), 20)).count(b"HTTP/1.1 204") == n_requests


def answer_after(gate: asyncio.Event) -> tuple[Event | asyncio.Event, ...]:
    return Started(1), gate, TextDelta(0, "late"), Finished(0, FinishReason.STOP), Usage(1, 1, 0)


async def test_a_half_closed_connection_gets_its_answers() -> None:
    gate = asyncio.Event()
    api = scripted_api(lambda _: answer_after(gate))
    async with listening(LIMITS, api.app) as server, connected(server) as (reader, writer):
        writer.write(WHOLE + GET + b"\r\n")
        writer.write_eof()
        await asyncio.sleep(0.5)
        assert api.generator.open == 1
        gate.set()
        answer = await asyncio.wait_for(reader.read(), 5)
        assert b'"text":"late"' in answer
        assert answer.endswith(b'{"status":"ok"}')
        interim, *rest = answer.split(b"HTTP/1.1 200 OK")
        assert interim == b"HTTP/1.1 100 Continue\r\n\r\n" * interim.count(b"100")
        assert len(rest) == 2
        await until(lambda: not server.state.connections)


@pytest.mark.parametrize("half", [GET, WHOLE[:-5], POST + CHUNKED + b"\r\n5\r\nabc", b""])
async def test_half_a_request_and_no_more_is_closed_at_once(half: bytes) -> None:
    async with listening(LIMITS) as server, connected(server) as (reader, writer):
        writer.write(half)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 5)
        await until(lambda: not server.state.connections)


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("behind", [b"", WHOLE, WHOLE + POST], ids=["alone", "another", "another-and-a-half"])
async def test_a_client_that_leaves_frees_its_work(behind: bytes, reset: bool) -> None:
    api = scripted_api(lambda _: answer_after(asyncio.Event()))
    async with listening(LIMITS, api.app) as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sendall(WHOLE + behind)
        await until(lambda: api.generator.open)
        client.close()
        await until(lambda: not api.generator.open, timeout_s=5)
        assert len(api.generator.requests) == 1
        await until(lambda: not server.state.connections)
