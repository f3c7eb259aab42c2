"""Whatever a client sends, the answer is an error in OpenAI's shape, and the server goes on."""

import json
import re
import socket
from typing import Any

import httpx2
import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
HI = [{"role": "user", "content": "Hi"}]


def refusal(
    server: ServerProcess, body: bytes, path: str = "/v1/chat/completions"
) -> tuple[int, dict[str, Any]]:
    """Return status and error of a request that is refused, then check that the server still answers."""
    headers = {"content-type": "application/json"}
    response = httpx2.post(server.url + path, content=body, headers=headers, timeout=30)
    answer = response.json()
    assert set(answer) == {"error"}
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert server.get("/readyz")[0] == 200
    return response.status_code, error


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": HI, **fields}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"{'model': 1}",
        b'{"model": "\xff\xfe"}',
        b"\x00\x01\x02",
        b'{"model": NaN}',
        b"[" * 100_000,
    ],
    ids=["empty", "cut", "array", "string", "null", "quotes", "not-utf-8", "binary", "nan", "deep"],
)
def test_malformed_json(server: ServerProcess, body: bytes) -> None:
    status, error = refusal(server, body)
    assert status == 400
    assert error["type"] == "invalid_request_error"


def test_a_lone_surrogate_is_not_text(server: ServerProcess) -> None:
    body = b'{"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "\\ud800"}]}'
    assert refusal(server, body)[0] == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "Hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages.0.content"),
        ({"messages": [{"role": "king", "content": "Hi"}]}, "messages.0.role"),
        ({"model": 1}, "model"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_k": 3_000_000_000}, "top_k"),
        ({"n": 0}, "n"),
        ({"n": 10**6}, "n"),
        ({"seed": 2**70}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"top_logprobs": 3}, "top_logprobs"),
    ],
)
def test_wrong_values_are_blamed_on_their_field(
    server: ServerProcess, fields: dict[str, Any], param: str
) -> None:
    status, error = refusal(server, chat(**fields))
    assert status == 400
    assert str(error["param"]).startswith(param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"no_such_field": 1}, "no_such_field"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    server: ServerProcess, fields: dict[str, Any], param: str
) -> None:
    status, error = refusal(server, chat(**fields))
    assert (status, error["param"]) == (400, param)
    assert param in error["message"]


def test_an_unknown_model_is_404(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as error:
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "Hi"}])
    assert error.value.code == "model_not_found"
    assert "gpt-9" in error.value.message


def numbers_in(error: APIStatusError) -> list[int]:
    """The numbers in the message as the server wrote it."""
    assert isinstance(error.body, dict)
    return [int(number) for number in re.findall(r"\d+", error.body["message"].replace(",", ""))]


def test_a_huge_max_tokens_says_by_how_much(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as error:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=1_000_000
        )
    assert error.value.code == "context_length_exceeded"
    n_prompt = numbers_in(error.value)[0]
    assert {8192, 1_000_000, n_prompt + 1_000_000 - 8192} <= set(numbers_in(error.value))


def test_a_prompt_over_the_context_is_never_cut(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as error:
        client.completions.create(model=MODEL, prompt="hello " * 9000, max_tokens=16)
    assert error.value.code == "context_length_exceeded"
    n_prompt = numbers_in(error.value)[0]
    assert n_prompt >= 9000
    assert {8192, n_prompt + 1 - 8192} <= set(numbers_in(error.value)), "one token must be left to answer"


def test_a_prompt_of_token_ids_beyond_the_vocabulary(server: ServerProcess) -> None:
    body = json.dumps({"model": MODEL, "prompt": [1, 10**6]}).encode()
    status, error = refusal(server, body, "/v1/completions")
    assert (status, error["param"]) == (400, "prompt")
    assert "1000000" in error["message"].replace(",", "")


def test_a_body_over_the_limit_is_413(server: ServerProcess) -> None:
    assert refusal(server, chat(padding="x" * 10_100_000))[0] == 413


def test_an_unknown_path_and_a_wrong_method(server: ServerProcess) -> None:
    assert refusal(server, b"{}", "/v2/nothing")[0] == 404
    assert server.get("/v1/chat/completions")[0] == 405


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["no-http", "negative-length", "bad-chunk", "tls"],
)
def test_garbage_on_the_wire(server: ServerProcess, data: bytes) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(65536)
    assert server.get("/readyz")[0] == 200


def test_nothing_of_this_left_anything_behind(server: ServerProcess) -> None:
    server.wait_metric("stoker_engine_running", 0)
    server.wait_metric("stoker_engine_kv_blocks_used", 0)
    assert "Traceback" not in server.stderr
