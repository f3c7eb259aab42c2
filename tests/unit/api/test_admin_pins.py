"""Pinned prefixes over HTTP."""

import pytest

from stoker.api.limits import ApiLimits
from stoker.testing.asgi import AsgiCall, get, post
from stoker.testing.scripted_api import ScriptedApi, scripted_api

URL = "/admin/models/tiny/pins"


async def test_a_prefix_is_pinned_listed_and_unpinned(api: ScriptedApi) -> None:
    response = await post(api.app, URL, {"tokens": [5] * 40}).done()
    pin = {"id": "pin-0", "created": 1.0, "tokens": 40, "pinned_tokens": 32, "held": True}
    assert (response.status, response.json()) == (201, pin)
    assert api.pins.pinned == {"pin-0": (5,) * 40}
    assert (await get(api.app, URL)).json() == {"pins": [pin]}
    removed = await AsgiCall(api.app, "DELETE", f"{URL}/pin-0").done()
    assert (removed.status, removed.json()) == (200, {**pin, "held": False})
    gone = await AsgiCall(api.app, "DELETE", f"{URL}/pin-0").done()
    assert (gone.status, gone.json()["error"]["code"]) == (404, "pin_not_found")
    assert (await get(api.app, URL)).json() == {"pins": []}


async def test_a_text_is_tokenized(api: ScriptedApi) -> None:
    assert (await post(api.app, URL, {"prompt": "abc"}).done()).status == 201
    assert api.pins.pinned == {"pin-0": tuple(b"abc")}


async def test_a_conversation_is_pinned_without_the_beginning_of_an_answer(api: ScriptedApi) -> None:
    messages = [{"role": "system", "content": "Be brief."}]
    for extra in ({}, {"add_generation_prompt": True}):
        assert (await post(api.app, URL, {"messages": messages, **extra}).done()).status == 201
    without, with_beginning = api.pins.pinned.values()
    assert with_beginning[: len(without)] == without
    assert len(with_beginning) > len(without) > len("Be brief.")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "Either 'prompt' or 'messages' is required"),
        ({"tokens": []}, "Invalid 'tokens'"),
        ({"tokens": [-1]}, "Invalid 'tokens.0'"),
        ({"tokens": [True]}, "Invalid 'tokens.0'"),
        ({"tokens": "text"}, "Invalid 'tokens'"),
        ({"tokens": [1], "prompt": "a"}, "supplied: 'prompt'"),
        ({"prompt": "a", "model": "tiny"}, "'model' is not a field here"),
        ({"prompt": "a", "return_token_strs": True}, "'return_token_strs' is not a field here"),
        ({"prompt": ""}, "has no tokens"),
        ({"prompt": "a", "ttl": 3}, "ttl"),
    ],
)
async def test_a_wrong_body_is_refused(api: ScriptedApi, body: object, words: str) -> None:
    response = await post(api.app, URL, body).done()
    assert response.status == 400
    assert words in response.json()["error"]["message"]
    assert api.pins.pinned == {}


async def test_more_tokens_than_a_context_holds_are_refused_unread() -> None:
    api = scripted_api(limits=ApiLimits(max_prompt_tokens=10))
    response = await post(api.app, URL, {"tokens": ["?"] * 11}).done()
    assert (response.status, response.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(("method", "path"), [("GET", URL), ("POST", URL), ("DELETE", f"{URL}/pin-0")])
async def test_a_page_of_another_origin_and_an_unknown_model_are_refused(
    api: ScriptedApi, method: str, path: str
) -> None:
    foreign = [
        ("host", "localhost:8000"),
        ("origin", "http://evil.example"),
        ("content-type", "application/json"),
    ]
    call = AsgiCall(api.app, method, path, headers=foreign, body=[b'{"tokens": [1]}'])
    assert (await call.done()).status == 403
    other = AsgiCall(api.app, method, path.replace("tiny", "other"), body=[b'{"tokens": [1]}'])
    assert (await other.done()).status == 404
