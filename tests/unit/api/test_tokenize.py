"""`POST /tokenize` and `POST /detokenize` over a tokenizer whose tokens are bytes."""

from typing import Any

import pytest

from stoker.api.limits import ApiLimits
from stoker.api.openai.fields import DETOKENIZE_FIELDS, TOKENIZE_FIELDS, Treatment
from stoker.api.openai.wire import DetokenizeBody, TokenizeBody
from stoker.testing.asgi import post
from stoker.testing.scripted_api import ScriptedApi, scripted_api

MESSAGES = [{"role": "user", "content": "hi"}]
START, END = 257, 258


async def answer(api: ScriptedApi, path: str, body: object) -> Any:
    response = await post(api.app, path, body).done()
    assert response.status == 200, response.body
    return response.json()


async def refusal(api: ScriptedApi, path: str, body: object) -> Any:
    response = await post(api.app, path, body).done()
    assert response.status == 400, response.body
    return response.json()["error"]


async def test_a_text(api: ScriptedApi) -> None:
    assert await answer(api, "/tokenize", {"model": "tiny", "prompt": "h\u00e9 <|im_end|>"}) == {
        "count": 14,
        "max_model_len": 512,
        "tokens": list("h\u00e9 <|im_end|>".encode()),
        "token_strs": None,
    }


async def test_tokens_are_spelt_as_the_vocabulary_does(api: ScriptedApi) -> None:
    body = {"prompt": "a b", "return_token_strs": True}
    assert (await answer(api, "/tokenize", body))["token_strs"] == ["a", "\u0120", "b"]


async def test_an_empty_text_has_no_tokens(api: ScriptedApi) -> None:
    assert (await answer(api, "/tokenize", {"prompt": ""}))["tokens"] == []


@pytest.mark.parametrize("begin", [True, False, None])
async def test_a_conversation(api: ScriptedApi, *, begin: bool | None) -> None:
    body = {"messages": MESSAGES, "add_generation_prompt": begin, "add_special_tokens": False}
    tokens = [START, *b"user\nhi", END, *b"\n"]
    if begin is not False:
        tokens += [START, *b"assistant\n"]
    assert (await answer(api, "/tokenize", body))["tokens"] == tokens


async def test_a_conversation_that_goes_on_in_its_last_message(api: ScriptedApi) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "ho <|im_end|>"}]
    body = {"messages": messages, "continue_final_message": True}
    tokens = [START, *b"user\nhi", END, *b"\n", START, *b"assistant\nho <|im_end|>"]
    assert (await answer(api, "/tokenize", body))["tokens"] == tokens


async def test_text_of_tokens(api: ScriptedApi) -> None:
    body = {"model": "tiny", "tokens": [START, *"h\u00e9".encode(), 0xFF, END]}
    assert await answer(api, "/detokenize", body) == {"prompt": "<|im_start|>h\u00e9\ufffd<|im_end|>"}
    assert await answer(api, "/detokenize", {"tokens": []}) == {"prompt": ""}


async def test_there_and_back(api: ScriptedApi) -> None:
    text = "\U0001f468\u200d\U0001f469\u200d\U0001f467 caf\u00e9 \u4f60\u597d"
    tokens = (await answer(api, "/tokenize", {"prompt": text}))["tokens"]
    assert await answer(api, "/detokenize", {"tokens": tokens}) == {"prompt": text}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": MESSAGES}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt"),
        ({"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens"),
        ({"prompt": "a", "continue_final_message": True}, "continue_final_message"),
        ({"prompt": "a", "chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
        ({"messages": MESSAGES, "chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
        ({"messages": MESSAGES, "chat_template_kwargs": {"messages": 1}}, "chat_template_kwargs"),
        ({"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
        ({"messages": MESSAGES, "tools": [{}]}, "tools"),
        ({"prompt": "a", "return_token_strs": 1}, "return_token_strs"),
        ({"prompt": "a", "verbose": True}, "verbose"),
        ({"prompt": "x" * 10_000}, "prompt"),
    ],
)
async def test_what_cannot_be_tokenized(api: ScriptedApi, body: dict[str, Any], param: str) -> None:
    assert (await refusal(api, "/tokenize", body))["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "tokens"),
        ({"tokens": "a"}, "tokens"),
        ({"tokens": [1, -1]}, "tokens.1"),
        ({"tokens": [1.0]}, "tokens.0"),
        ({"tokens": [259]}, "tokens"),
        ({"tokens": [1], "skip_special_tokens": True}, "skip_special_tokens"),
    ],
)
async def test_what_is_no_text(api: ScriptedApi, body: dict[str, Any], param: str) -> None:
    assert (await refusal(api, "/detokenize", body))["param"] == param


async def test_no_more_tokens_than_a_context_are_taken() -> None:
    api = scripted_api(limits=ApiLimits(max_prompt_tokens=10))
    assert (await answer(api, "/detokenize", {"tokens": [97] * 10})) == {"prompt": "a" * 10}
    assert (await refusal(api, "/detokenize", {"tokens": [97] * 11}))["code"] == "context_length_exceeded"


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_the_bounds_of_every_request_hold(path: str) -> None:
    body = {"prompt": "a"} if path == "/tokenize" else {"tokens": [97]}
    guarded = scripted_api(api_key="secret")
    assert (await post(guarded.app, path, body).done()).status == 401
    small = scripted_api(limits=ApiLimits(max_body_bytes=5))
    assert (await post(small.app, path, body).done()).status == 413
    api = scripted_api()
    assert (await post(api.app, path, body | {"model": "other"}).done()).status == 404
    assert (await post(api.app, path, b"{").done()).status == 400


def test_honoured_fields_are_exactly_the_wire_types_fields() -> None:
    def honoured(fields: Any) -> set[str]:
        return {field.name for field in fields if field.treatment is Treatment.HONOURED}

    assert honoured(TOKENIZE_FIELDS) == {*TokenizeBody.model_fields, "messages"}
    assert honoured(DETOKENIZE_FIELDS) == set(DetokenizeBody.model_fields)
