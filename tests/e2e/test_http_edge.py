"""Clients that misuse HTTP, against the real server: each is bounded, and what it held is free again."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.testing.server_process import ServerProcess, seed_model_store

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
MAX_CONNECTIONS = 16


def request(**fields: object) -> bytes:
    body = json.dumps({"model": MODEL, "prompt": "Story:", **fields}).encode()
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


LONG = request(max_tokens=4000, ignore_eos=True)
SHORT = request(max_tokens=40, ignore_eos=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, default_model_path: Path) -> Iterator[ServerProcess]:
    """A server with short times and few connections."""
    home = tmp_path_factory.mktemp("edge")
    seed_model_store(home, default_model_path)
    flags = ("--header-timeout-s", "1", "--body-timeout-s", "1", "--max-connections", str(MAX_CONNECTIONS))
    with ServerProcess(home, *flags) as process:
        process.wait_ready()
        yield process
        assert process.process.poll() is None, process.stderr


def connect(server: ServerProcess) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def everything(client: socket.socket) -> bytes:
    """Return what comes until the server closes the connection; a reset ends it too."""
    parts = []
    try:
        while part := client.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def drip(client: socket.socket, data: bytes) -> None:
    """Send a byte at a time until the server has had enough."""
    try:
        for byte in data:
            client.sendall(bytes([byte]))
            time.sleep(0.02)
    except OSError:
        pass


def test_a_head_that_drips_is_cut_off(small: ServerProcess) -> None:
    with connect(small) as client:
        drip(client, GET + b"a: " + b"x" * 10_000)
        assert everything(client) == b""


def test_a_body_that_drips_is_refused(small: ServerProcess) -> None:
    with connect(small) as client:
        client.sendall(POST + b"Content-Length: 10000\r\n\r\n")
        drip(client, b"x" * 80)
        assert b" 408 " in everything(client).splitlines()[0]
    assert small.get("/readyz")[0] == 200


@pytest.mark.parametrize(
    "head", [GET + b"a: " + b"x" * 70_000, GET + b"a: b\r\n" * 101, b"GET /" + b"x" * 70_000], ids=len
)
def test_a_head_that_is_too_large_is_refused(small: ServerProcess, head: bytes) -> None:
    with connect(small) as client:
        client.sendall(head + b"\r\n\r\n")
        assert everything(client).startswith(b"HTTP/1.1 431 ")


def test_connections_beyond_the_limit_are_told_and_closed(small: ServerProcess) -> None:
    clients = [connect(small) for _ in range(MAX_CONNECTIONS + 4)]
    try:
        for refused in clients[MAX_CONNECTIONS:]:
            assert everything(refused).startswith(b"HTTP/1.1 503 ")
    finally:
        for client in clients:
            client.close()
    small.wait_ready(10)


def test_a_half_closed_connection_gets_its_answers_in_order(small: ServerProcess) -> None:
    with connect(small) as client:
        client.sendall(SHORT + GET + b"\r\n")
        client.shutdown(socket.SHUT_WR)
        answer = everything(client)
    generated, alive = answer.split(b"HTTP/1.1 200 OK")[1:]
    assert b'"completion_tokens":40' in generated
    assert alive.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("half", [GET, LONG[:-5]], ids=["head", "body"])
def test_half_a_request_and_no_more_is_closed(small: ServerProcess, half: bytes) -> None:
    with connect(small) as client:
        client.sendall(half)
        client.shutdown(socket.SHUT_WR)
        everything(client)


@pytest.mark.parametrize("behind", [b"", SHORT, SHORT + POST], ids=["alone", "another", "another-and-a-half"])
def test_a_client_that_leaves_frees_its_blocks(small: ServerProcess, behind: bytes) -> None:
    with connect(small) as client:
        client.sendall(LONG + behind)
        small.wait_metric("stoker_engine_running", 1)
    small.wait_metric("stoker_engine_running", 0, 5.0)
    small.wait_metric("stoker_engine_kv_blocks_used", 0)


def test_hundreds_of_pipelined_requests_are_answered_in_order(small: ServerProcess) -> None:
    paths = [b"GET /v1/models/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(600)]
    with connect(small) as client:
        client.sendall(b"".join(paths))
        client.shutdown(socket.SHUT_WR)
        answer = everything(client)
    found = [int(part.split(b"'")[0]) for part in answer.split(b"The model '")[1:]]
    assert found == list(range(600))


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":' * 50_000,
        b'{"a":' + b"[" * 90 + b"]" * 90 + b"}",
        b'{"model":"a","model":"b","prompt":"a"}',
        b'{"model":"a","max_tokens":' + b"9" * 100_000 + b"}",
        b'{"model":"a","temperature":1e999999}',
        b'{"model":"a","prompt":[' + b"1e5," * 1000 + b"1]}",
        b'{"model":"a","prompt":"\xc3\x28"}',
        b'{"model":"a","prompt":"\\ud800"}',
        b'{"model":"a\\u0000","prompt":"a"}',
        b"\xef\xbb\xbf{}",
    ],
    ids=[
        "objects",
        "arrays",
        "twice",
        "digits",
        "infinite",
        "floats",
        "not-utf-8",
        "surrogate",
        "nul",
        "byte-order-mark",
    ],
)
def test_bodies_that_parsers_stumble_over(small: ServerProcess, body: bytes) -> None:
    with connect(small) as client:
        client.sendall(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head, _, answer = everything(client).partition(b"\r\n\r\n")
    assert head.split(b" ")[1] in {b"400", b"404"}
    assert json.loads(answer)["error"]["message"]


def test_a_compressed_body_is_refused(small: ServerProcess) -> None:
    with connect(small) as client:
        client.sendall(
            SHORT.replace(b"Host: x\r\n", b"Host: x\r\nContent-Encoding: gzip\r\nConnection: close\r\n")
        )
        assert b"unsupported_content_encoding" in everything(client)
