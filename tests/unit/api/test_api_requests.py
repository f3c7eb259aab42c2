"""What every request passes before a model hears of it: keys, bodies, paths; and what each leaves behind."""

import asyncio
import gzip
from typing import Any

import pytest

from stoker.api.limits import ApiLimits
from stoker.testing.asgi import AsgiCall, AsgiResponse, get, post
from stoker.testing.scripted_api import ScriptedApi, scripted_api

URL = "/v1/chat/completions"
HI: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
JSON = ("content-type", "application/json")


def code_of(response: AsgiResponse) -> str:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert isinstance(error["code"], str)
    return error["code"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"model": "\xff"}', "not valid JSON"),
        (b'{"model": "\\ud800"}', "not valid JSON"),
        (b'{"model": NaN}', "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"model": "a", "model": "b"}', "'model' twice"),
        (b'{"x": {"y": 1, "y": 2}}', "'y' twice"),
        (b'{"x": ' + b"[" * 64 + b"]" * 64 + b"}", "deeper than 64 levels"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
async def test_a_body_that_is_no_plain_json_object(api: ScriptedApi, body: bytes, words: str) -> None:
    response = await post(api.app, URL, body).done()
    assert response.status == 400
    assert code_of(response) == "invalid_json"
    assert words in response.json()["error"]["message"]
    assert api.generator.requests == []


@pytest.mark.parametrize("size", [0, 70_000])
async def test_a_body_is_read_however_it_is_cut_and_however_large(api: ScriptedApi, size: int) -> None:
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "' + b"x" * size + b'"}]}'
    pieces = [body[:1], b"", body[1:30], body[30:]]
    response = await AsgiCall(api.app, "POST", URL, headers=[JSON], body=pieces).done()
    assert response.status == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ([], "unsupported_content_type"),
        ([("content-type", "text/plain")], "unsupported_content_type"),
        ([JSON, ("content-encoding", "gzip")], "unsupported_content_encoding"),
    ],
)
async def test_a_body_that_does_not_say_it_is_plain_json(
    api: ScriptedApi, headers: list[tuple[str, str]], code: str
) -> None:
    response = await AsgiCall(api.app, "POST", URL, headers=headers, body=[gzip.compress(b"{}")]).done()
    assert response.status == 400
    assert code_of(response) == code


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_refused_as_soon_as_that_is_known(declared: bool) -> None:
    api = scripted_api(limits=ApiLimits(max_body_bytes=100))
    headers = [JSON, ("content-length", "101")] if declared else [JSON]
    pieces = [b""] if declared else [b"x" * 60, b"x" * 41]
    call = AsgiCall(api.app, "POST", URL, headers=headers, body=pieces, body_complete=False)
    response = await asyncio.wait_for(call.done(), 5)
    assert response.status == 413
    assert code_of(response) == "request_too_large"
    assert "100 bytes" in response.json()["error"]["message"]


async def test_a_body_of_exactly_the_limit_is_taken() -> None:
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}'
    api = scripted_api(limits=ApiLimits(max_body_bytes=len(body)))
    headers = [JSON, ("content-length", str(len(body)))]
    assert (await AsgiCall(api.app, "POST", URL, headers=headers, body=[body]).done()).status == 200


async def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    api = scripted_api(limits=ApiLimits(body_timeout_s=0.05))
    call = AsgiCall(api.app, "POST", URL, headers=[JSON], body=[b"{"], body_complete=False)
    response = await asyncio.wait_for(call.done(), 5)
    assert response.status == 408
    assert code_of(response) == "request_timeout"
    assert response.headers["connection"] == "close"


async def test_an_answer_may_take_longer_than_the_body() -> None:
    gate = asyncio.Event()
    api = scripted_api(lambda _: [gate], limits=ApiLimits(body_timeout_s=0.01))
    call = post(api.app, URL, HI)
    await asyncio.sleep(0.1)
    assert call.response.status == 0
    assert api.generator.open == 1
    call.disconnect()
    await call.done()


async def test_a_client_that_leaves_in_mid_body_costs_nothing(api: ScriptedApi) -> None:
    call = AsgiCall(api.app, "POST", URL, headers=[JSON], body=[b"{"], body_complete=False)
    call.disconnect()
    response = await call.done()
    assert response.status == 0
    assert api.generator.requests == []
    assert b'status="499"} 1.0' in api.metrics.render()


KEYED_PATHS = ["/v1/models", "/v1/models/tiny", "/metrics", "/nothing"]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer wrong")],
        [("authorization", "Bearer ")],
        [("authorization", "secret")],
        [("authorization", "Basic secret")],
        [("authorization", "Bearer secret"), ("authorization", "Bearer secret")],
        [("api-key", "secret")],
    ],
)
async def test_without_the_key_only_probes_are_answered(headers: list[tuple[str, str]]) -> None:
    api = scripted_api(api_key="secret")
    for path in KEYED_PATHS:
        response = await get(api.app, path, headers=headers)
        assert (response.status, code_of(response)) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert b"secret" not in response.body
    unread = AsgiCall(api.app, "POST", URL, headers=[JSON, *headers], body=[], body_complete=False)
    assert (await asyncio.wait_for(unread.done(), 5)).status == 401
    for path in ("/health", "/livez", "/readyz"):
        assert (await get(api.app, path, headers=headers)).status == 200


@pytest.mark.parametrize("value", ["Bearer secret", "bearer secret", "BEARER  secret "])
async def test_with_the_key_everything_is(value: str) -> None:
    api = scripted_api(api_key="secret")
    headers = [("authorization", value)]
    assert (await post(api.app, URL, HI, headers=headers).done()).status == 200
    assert [(await get(api.app, path, headers=headers)).status for path in KEYED_PATHS] == [200] * 3 + [404]


async def test_an_unknown_path_and_a_wrong_method(api: ScriptedApi) -> None:
    for path in ("/", "/v1", "/v1/chat/completions/", "/v1/audio/speech", "/v1/\ud800"[:4] + "x" * 500):
        response = await post(api.app, path, HI).done()
        assert (response.status, code_of(response)) == (404, "unknown_url")
        assert len(response.json()["error"]["message"]) < 200
    response = await get(api.app, URL)
    assert (response.status, code_of(response)) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


async def test_models_are_listed_and_shown(api: ScriptedApi) -> None:
    tiny = {
        "id": "tiny",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "stoker",
        "context_length": 512,
    }
    assert (await get(api.app, "/v1/models")).json() == {"object": "list", "data": [tiny]}
    assert (await get(api.app, "/v1/models/tiny")).json() == tiny


@pytest.mark.parametrize("url", [URL, "/v1/completions"])
async def test_an_unknown_model_is_404_and_names_those_served(api: ScriptedApi, url: str) -> None:
    body = {"model": "big"} | ({"prompt": "x"} if url != URL else {"messages": HI["messages"]})
    for response in (await post(api.app, url, body).done(), await get(api.app, "/v1/models/big")):
        assert (response.status, code_of(response)) == (404, "model_not_found")
        assert response.json()["error"]["param"] == "model"
        assert "'tiny'" in response.json()["error"]["message"]
    assert api.generator.requests == []


async def test_readiness_follows_the_engine_and_liveness_does_not(api: ScriptedApi) -> None:
    assert (await get(api.app, "/readyz")).status == 200
    api.not_ready.append("the engine is starting")
    response = await get(api.app, "/readyz")
    assert response.status == 503
    reason = "the engine is starting"
    assert response.json() == {"status": "not ready", "reason": reason, "models": {"tiny": reason}}
    assert (await get(api.app, "/livez")).status == (await get(api.app, "/health")).status == 200


@pytest.mark.parametrize("given", ["a", "Az09._:-", "x" * 128])
async def test_a_plain_request_id_is_kept(api: ScriptedApi, given: str) -> None:
    for response in (
        await get(api.app, "/v1/models", headers=[("x-request-id", given)]),
        await get(api.app, "/nothing", headers=[("x-request-id", given)]),
    ):
        assert response.headers["x-request-id"] == given
        assert int(response.headers["openai-processing-ms"]) >= 0


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, 'a"b', "a\r\nset-cookie: b"])
async def test_any_other_request_id_is_replaced(api: ScriptedApi, given: str) -> None:
    response = await get(api.app, "/v1/models", headers=[("x-request-id", given)])
    assert response.headers["x-request-id"].startswith("req_")


async def test_every_request_is_counted_once_by_route_and_status(api: ScriptedApi) -> None:
    await post(api.app, URL, HI).done()
    await post(api.app, URL, b"{").done()
    await get(api.app, "/v1/models/tiny")
    await get(api.app, "/secret-path")
    page = (await get(api.app, "/metrics")).body.decode()
    assert f'route="{URL}",status="200"}} 1.0' in page
    assert f'route="{URL}",status="400"}} 1.0' in page
    assert 'route="/v1/models/{model}",status="200"} 1.0' in page
    assert 'route="unmatched",status="404"} 1.0' in page
    assert "secret-path" not in page
