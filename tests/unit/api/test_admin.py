"""Administration over HTTP, and who may reach a server without a key."""

import pytest

from stoker.config import ModelSettings
from stoker.testing.asgi import AsgiCall, get, post
from stoker.testing.scripted_api import ScriptedApi, scripted_api

URL = "/admin/models"
LOCAL = ("host", "localhost:8000")


async def test_a_model_is_loaded_listed_and_unloaded(api: ScriptedApi) -> None:
    body = {"model": "big", "alias": "b", "kv_memory": "1GiB", "threads": 2}
    response = await post(api.app, URL, body).done()
    state = {"name": "b", "model": "big", "status": "queued", "since": 1.0}
    assert response.status == 202
    assert response.json().items() >= state.items()
    assert api.control.loaded["b"] == ("big", ModelSettings(alias="b", kv_memory=2**30, threads=2))  # type: ignore[arg-type]  # validated
    (listed,) = (await get(api.app, URL)).json()["models"]
    assert listed == response.json()
    assert (await post(api.app, URL, body).done()).status == 409
    removed = await AsgiCall(api.app, "DELETE", f"{URL}/b").done()
    assert (removed.status, removed.json()["name"]) == (202, "b")
    assert (await AsgiCall(api.app, "DELETE", f"{URL}/b").done()).status == 404
    assert (await get(api.app, URL)).json() == {"models": []}


async def test_a_model_is_put_to_sleep_and_woken(api: ScriptedApi) -> None:
    await post(api.app, URL, {"model": "big", "alias": "org/b"}).done()
    url = f"{URL}/org/b"
    assert (await get(api.app, f"{url}/is_sleeping")).json() == {"is_sleeping": False}
    slept = await AsgiCall(api.app, "POST", f"{url}/sleep").done()
    assert (slept.status, slept.json()["status"]) == (200, "sleeping")
    assert (await get(api.app, f"{url}/is_sleeping")).json() == {"is_sleeping": True}
    woken = await AsgiCall(api.app, "POST", f"{url}/wake_up").done()
    assert (woken.status, woken.json()["status"]) == (200, "ready")
    assert api.control.asleep == set()
    for method, path in (("POST", "sleep"), ("POST", "wake_up"), ("GET", "is_sleeping")):
        assert (await AsgiCall(api.app, method, f"{URL}/no/{path}").done()).status == 404


async def test_pages_of_other_origins_may_not_put_models_to_sleep(api: ScriptedApi) -> None:
    await post(api.app, URL, {"model": "big"}).done()
    headers = [LOCAL, ("origin", "https://evil.example")]
    for method, path in (("POST", "sleep"), ("POST", "wake_up"), ("GET", "is_sleeping")):
        call = AsgiCall(api.app, method, f"{URL}/big/{path}", headers=headers)
        assert (await call.done()).status == 403
    assert api.control.asleep == set()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "'model' is required"),
        ({"model": ""}, "Invalid 'model'"),
        ({"model": "x" * 257}, "Invalid 'model'"),
        ({"model": "m", "threads": 0}, "Invalid 'threads'"),
        ({"model": "m", "max_waiting": False}, "Invalid 'max_waiting'"),
        ({"model": "m", "alias": "two words"}, "Invalid 'alias'"),
        ({"model": "m", "path": "/etc/passwd"}, "supplied: 'path'"),
    ],
)
async def test_a_wrong_body_is_refused(api: ScriptedApi, body: object, words: str) -> None:
    response = await post(api.app, URL, body).done()
    assert response.status == 400
    assert words in response.json()["error"]["message"]
    assert api.control.loaded == {}


async def test_a_body_that_a_page_could_send_unasked_is_refused(api: ScriptedApi) -> None:
    call = AsgiCall(api.app, "POST", URL, headers=[("content-type", "text/plain")], body=[b'{"model": "m"}'])
    assert (await call.done()).status == 400
    assert api.control.loaded == {}


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_with_a_key_administration_needs_it(method: str) -> None:
    api = scripted_api(api_key="k")
    path = f"{URL}/tiny" if method == "DELETE" else URL
    assert (await AsgiCall(api.app, method, path).done()).status == 401


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 200),
        ("http://localhost:9", 403),
        ("null", 403),
        ("https://evil.example", 403),
    ],
)
async def test_pages_of_other_origins_may_not_administer(api: ScriptedApi, origin: str, status: int) -> None:
    assert (await get(api.app, URL, headers=[LOCAL, ("origin", origin)])).status == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:8000", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("::1", 200),
        ("box.example:8000", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("10.0.0.1", 403),
        ("", 403),
    ],
)
async def test_without_a_key_only_its_own_names_reach_a_server(host: str, status: int) -> None:
    api = scripted_api(allowed_hosts=["box.example"])
    for path in ("/v1/models", URL, "/metrics"):
        assert (await get(api.app, path, headers=[("host", host)])).status == status
    assert (await get(api.app, "/readyz", headers=[("host", host)])).status == 200


async def test_of_two_hosts_both_must_be_ours(api: ScriptedApi) -> None:
    hosts = [LOCAL, ("host", "evil.example")]
    assert (await get(api.app, URL, headers=hosts)).status == 403


async def test_with_a_key_any_name_will_do() -> None:
    api = scripted_api(api_key="k")
    headers = [("host", "example.org"), ("authorization", "Bearer k")]
    assert (await get(api.app, "/v1/models", headers=headers)).status == 200


async def test_a_server_that_ends_takes_nothing_new(api: ScriptedApi) -> None:
    api.draining.append("told to end")
    for path in ("/v1/models", "/readyz", URL, "/metrics"):
        response = await get(api.app, path)
        assert (response.status, response.headers["connection"]) == (503, "close")
        assert response.json()["error"]["code"] == "shutting_down"
    assert (await get(api.app, "/livez")).status == 200


async def test_readiness_names_models_only_where_there_is_no_key() -> None:
    assert (await get(scripted_api().app, "/readyz")).json() == {
        "status": "ready",
        "models": {"tiny": "ready"},
    }
    assert (await get(scripted_api(api_key="k").app, "/readyz")).json() == {"status": "ready"}
