from typing import Any

import pytest

from stoker.core.errors import EngineDiedError, QueueFullError
from stoker.core.text import (
    ChatPrompt,
    Finished,
    Message,
    Started,
    TextDelta,
    TextLogprob,
    TextRequest,
    TopToken,
    Usage,
)
from stoker.core.tokens import FinishReason
from stoker.testing.asgi import post
from stoker.testing.generator import Step, reply, steps
from stoker.testing.scripted_api import ScriptedApi, scripted_api

URL = "/v1/chat/completions"
HI = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def chunk(first: dict[str, Any], *choices: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": first["id"],
        "object": "chat.completion.chunk",
        "created": first["created"],
        "model": "tiny",
        "system_fingerprint": "fp_1",
        "choices": list(choices),
        **more,
    }


def choice(index: int, delta: Any, reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


ROLE = {"role": "assistant", "content": "", "refusal": None}


async def test_a_whole_answer_has_openai_s_shape() -> None:
    api = scripted_api(reply("Hello", " world", prompt_tokens=7, cached_tokens=5))
    response = await post(api.app, URL, HI).done()
    answer = response.json()
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert answer.pop("id").startswith("chatcmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "chat.completion",
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello world", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 5},
        },
        "system_fingerprint": "fp_1",
    }


async def test_a_stream_is_role_deltas_finish_done(api: ScriptedApi) -> None:
    response = await post(api.app, URL, HI | {"stream": True}).done()
    events = response.events()
    first = events[0]
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert first["id"].startswith("chatcmpl-")
    assert events == [
        chunk(first, choice(0, ROLE)),
        chunk(first, choice(0, {"content": "Hello"})),
        chunk(first, choice(0, {"content": " world"})),
        chunk(first, choice(0, {}, "stop")),
        "[DONE]",
    ]


async def test_a_stream_with_usage_and_two_choices() -> None:
    api = scripted_api(reply("a", "b"))
    body = HI | {"stream": True, "stream_options": {"include_usage": True}, "n": 2}
    events = (await post(api.app, URL, body).done()).events()
    first = events[0]
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert events == [
        chunk(first, choice(0, ROLE), usage=None),
        chunk(first, choice(1, ROLE), usage=None),
        chunk(first, choice(0, {"content": "a"}), usage=None),
        chunk(first, choice(1, {"content": "a"}), usage=None),
        chunk(first, choice(0, {"content": "b"}), usage=None),
        chunk(first, choice(1, {"content": "b"}), usage=None),
        chunk(first, choice(0, {}, "stop"), usage=None),
        chunk(first, choice(1, {}, "stop"), usage=None),
        chunk(first, usage=usage),
        "[DONE]",
    ]


async def test_text_of_any_script_survives_both_ways() -> None:
    pieces = ('"quotes" \\ \n\t', "naïve 日本語", "🙂\u2028\x00\x1f", "</script>")
    api = scripted_api(reply(*pieces))
    whole = (await post(api.app, URL, HI).done()).json()
    assert whole["choices"][0]["message"]["content"] == "".join(pieces)
    events = (await post(api.app, URL, HI | {"stream": True}).done()).events()
    assert [event["choices"][0]["delta"]["content"] for event in events[1:5]] == list(pieces)


LOGPROB_STEPS = (
    Started(2),
    TextDelta(
        0,
        "hé",
        (
            TextLogprob("h", b"h", -0.5, (TopToken("h", b"h", -0.5), TopToken("x", b"x", -1.5))),
            TextLogprob("\ufffd", b"\xc3", -0.25),
            TextLogprob("\ufffd", b"\xa9", -0.125),
        ),
    ),
    Finished(0, FinishReason.LENGTH),
    Usage(2, 3, 0),
)
LOGPROBS = {
    "content": [
        {
            "token": "h",
            "logprob": -0.5,
            "bytes": [104],
            "top_logprobs": [
                {"token": "h", "logprob": -0.5, "bytes": [104]},
                {"token": "x", "logprob": -1.5, "bytes": [120]},
            ],
        },
        {"token": "\ufffd", "logprob": -0.25, "bytes": [0xC3], "top_logprobs": []},
        {"token": "\ufffd", "logprob": -0.125, "bytes": [0xA9], "top_logprobs": []},
    ],
    "refusal": None,
}


async def test_logprobs_have_openai_s_shape_whole_and_streamed() -> None:
    api = scripted_api(steps(*LOGPROB_STEPS))
    body = HI | {"logprobs": True, "top_logprobs": 2}
    whole = (await post(api.app, URL, body).done()).json()
    assert whole["choices"][0]["logprobs"] == LOGPROBS
    assert whole["choices"][0]["finish_reason"] == "length"
    events = (await post(api.app, URL, body | {"stream": True}).done()).events()
    first = events[0]
    assert events == [
        chunk(first, choice(0, ROLE)),
        chunk(first, choice(0, {"content": "hé"}, logprobs=LOGPROBS)),
        chunk(first, choice(0, {}, "length")),
        "[DONE]",
    ]
    assert [request.logprobs for request in api.generator.requests] == [2, 2]


async def test_every_honoured_field_reaches_the_generator(api: ScriptedApi) -> None:
    body = {
        "model": "tiny",
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c", "refusal": None, "annotations": [], "tool_calls": None},
            {"role": "user", "content": ""},
        ],
        "max_completion_tokens": 5,
        "max_tokens": 5,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.125,
        "seed": -1,
        "stop": ["x", "y"],
        "n": 3,
        "logprobs": True,
        "ignore_eos": True,
    }
    call = post(api.app, URL, body, headers=[("x-request-id", "my-id.1")])
    assert (await call.done()).status == 200
    (request,) = api.generator.requests
    assert request.request_id.startswith("my-id.1.")
    assert request == TextRequest(
        request_id=request.request_id,
        model="tiny",
        prompt=ChatPrompt(
            (
                Message("system", "be brief"),
                Message("user", "a\nb"),
                Message("assistant", "c"),
                Message("user", ""),
            )
        ),
        max_tokens=5,
        n=3,
        temperature=0.0,
        top_k=7,
        top_p=0.5,
        min_p=0.125,
        seed=2**64 - 1,
        stop=("x", "y"),
        ignore_eos=True,
        max_prompt_scores=2**18 // 3,
        logprobs=0,
    )


async def test_what_the_template_is_told(api: ScriptedApi) -> None:
    variables: dict[str, Any] = {"enable_thinking": False, "level": "high", "n": 3, "x": 0.5, "date": None}
    prompts: list[dict[str, Any]] = [
        {"chat_template_kwargs": variables},
        {"add_generation_prompt": False},
        {"continue_final_message": True},
        {"continue_final_message": True, "add_generation_prompt": False},
        {"add_generation_prompt": True, "continue_final_message": False, "chat_template_kwargs": {}},
    ]
    for fields in prompts:
        assert (await post(api.app, URL, HI | fields).done()).status == 200
    messages = (Message("user", "hi"),)
    assert [request.prompt for request in api.generator.requests] == [
        ChatPrompt(messages, variables=tuple(variables.items())),
        ChatPrompt(messages, add_generation_prompt=False),
        ChatPrompt(messages, add_generation_prompt=False, continue_final_message=True),
        ChatPrompt(messages, add_generation_prompt=False, continue_final_message=True),
        ChatPrompt(messages),
    ]


async def test_defaults(api: ScriptedApi) -> None:
    await post(api.app, URL, HI | dict.fromkeys(("max_tokens", "seed", "stop", "logprobs", "n"))).done()
    (request,) = api.generator.requests
    assert (request.max_tokens, request.temperature, request.top_p) == (None, 1.0, 1.0)
    assert (request.n, request.seed, request.stop, request.logprobs) == (1, None, (), None)


async def test_requests_of_one_client_id_stay_apart(api: ScriptedApi) -> None:
    for _ in range(2):
        await post(api.app, URL, HI, headers=[("x-request-id", "same")]).done()
    ids = [request.request_id for request in api.generator.requests]
    assert ids[0] != ids[1]
    assert all(request_id.startswith("same.") for request_id in ids)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_before_the_start_is_an_ordinary_error(stream: bool) -> None:
    api = scripted_api(steps(QueueFullError("All places are taken.", retry_after_s=2.5)))
    response = await post(api.app, URL, HI | {"stream": stream}).done()
    assert response.status == 429
    assert response.headers["retry-after"] == "3"
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "error": {
            "message": "All places are taken.",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (EngineDiedError("The engine died."), "engine_died", "The engine died."),
        (RuntimeError("secret detail"), "internal_error", None),
    ],
)
async def test_a_failure_in_mid_stream_is_the_last_event(
    failure: BaseException, code: str, message: str | None
) -> None:
    api = scripted_api(steps(Started(1), TextDelta(0, "a"), failure))
    response = await post(api.app, URL, HI | {"stream": True}).done()
    events = response.events()
    assert response.complete
    assert response.status == 200
    assert [event["choices"][0]["delta"] for event in events[:2]] == [ROLE, {"content": "a"}]
    error = events[2]["error"]
    assert len(events) == 3
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, code)
    assert error["message"] == message if message else "secret" not in error["message"]
    assert b'route="/v1/chat/completions",status="500"} 1.0' in api.metrics.render()


NO_TEXT = (Started(1), Usage(1, 0, 0))
BROKEN_OFF: list[tuple[Step, ...]] = [(), (Started(1), TextDelta(0, "a")), (TextDelta(0, "a"),)]


@pytest.mark.parametrize(
    ("script", "stream"),
    [
        *((script, stream) for script in BROKEN_OFF for stream in (False, True)),
        (NO_TEXT, False),
    ],
)
async def test_an_answer_that_breaks_off_is_never_passed_as_complete(
    script: tuple[Step, ...], stream: bool
) -> None:
    api = scripted_api(steps(*script))
    response = await post(api.app, URL, HI | {"stream": stream}).done()
    error = response.events()[-1] if response.status == 200 else response.json()
    assert error["error"]["code"] == "engine_error"
