import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest

from stoker.core.errors import InvalidRequestError, QueueFullError
from stoker.core.text import (
    Finished,
    Prompt,
    Started,
    TextDelta,
    TextLogprob,
    TextPrompt,
    TextRequest,
    TokensPrompt,
    TopToken,
    Usage,
)
from stoker.core.tokens import FinishReason
from stoker.testing.asgi import post
from stoker.testing.generator import Step, reply, steps
from stoker.testing.scripted_api import ScriptedApi, scripted_api

URL = "/v1/completions"
GO = {"model": "tiny", "prompt": "go"}


def chunk(first: dict[str, Any], *choices: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": first["id"],
        "object": "text_completion",
        "created": first["created"],
        "model": "tiny",
        "system_fingerprint": "fp_1",
        "choices": list(choices),
        **more,
    }


def choice(text: str, reason: str | None = None, *, index: int = 0, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


async def test_a_whole_completion_has_openai_s_shape(api: ScriptedApi) -> None:
    answer = (await post(api.app, URL, GO).done()).json()
    assert answer["id"].startswith("cmpl-")
    assert answer == chunk(
        answer,
        choice("Hello world", "stop"),
        usage={
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    )
    assert api.generator.requests[0].max_tokens == 16


async def test_a_streamed_completion(api: ScriptedApi) -> None:
    body = GO | {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}
    events = (await post(api.app, URL, body).done()).events()
    first = events[0]
    assert events == [
        chunk(first, choice("Hello"), usage=None),
        chunk(first, choice(" world"), usage=None),
        chunk(first, choice("", "stop"), usage=None),
        chunk(
            first,
            usage={
                "prompt_tokens": 3,
                "completion_tokens": 2,
                "total_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        ),
        "[DONE]",
    ]


FIRST = TextDelta(
    0,
    "hé",
    (
        TextLogprob("h", b"h", -0.5, (TopToken("h", b"h", -0.5), TopToken("x", b"x", -1.5))),
        TextLogprob("\ufffd", b"\xc3", -3.0, (TopToken("y", b"y", -0.1), TopToken("y", b"y", -9.0))),
        TextLogprob("\ufffd", b"\xa9", -0.25),
    ),
)
SECOND = TextDelta(0, "!", (TextLogprob("!", b"!", -1.0),))


async def test_legacy_logprobs_whole_and_streamed() -> None:
    api = scripted_api(steps(Started(1), FIRST, SECOND, Finished(0, FinishReason.LENGTH), Usage(1, 4, 0)))
    body = GO | {"logprobs": 2}
    first: dict[str, list[Any]] = {
        "tokens": ["h", "bytes:\\xc3", "bytes:\\xa9"],
        "token_logprobs": [-0.5, -3.0, -0.25],
        "top_logprobs": [
            {"h": -0.5, "x": -1.5},
            {"y": -0.1, "bytes:\\xc3": -3.0},
            {"bytes:\\xa9": -0.25},
        ],
        "text_offset": [0, 1, 1],
    }
    second: dict[str, list[Any]] = {
        "tokens": ["!"],
        "token_logprobs": [-1.0],
        "top_logprobs": [{"!": -1.0}],
        "text_offset": [2],
    }
    whole = (await post(api.app, URL, body).done()).json()
    assert whole["choices"][0]["logprobs"] == {name: first[name] + second[name] for name in first}
    events = (await post(api.app, URL, body | {"stream": True}).done()).events()
    assert [event["choices"][0]["logprobs"] for event in events[:3]] == [first, second, None]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", [TextPrompt("a")]),
        ("", [TextPrompt("")]),
        ([1, 2], [TokensPrompt((1, 2))]),
        (["a", "b"], [TextPrompt("a"), TextPrompt("b")]),
        ([[1], [2, 3]], [TokensPrompt((1,)), TokensPrompt((2, 3))]),
    ],
)
async def test_every_kind_of_prompt(api: ScriptedApi, prompt: object, expected: list[Prompt]) -> None:
    response = await post(api.app, URL, {"model": "tiny", "prompt": prompt}).done()
    assert response.status == 200
    assert [request.prompt for request in api.generator.requests] == expected
    assert len({request.request_id for request in api.generator.requests}) == len(expected)


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        ([], "prompt"),
        (5, "prompt"),
        ({}, "prompt"),
        (["a", 1], "prompt"),
        ([1, "a"], "prompt"),
        ([1, True], "prompt"),
        ([1.5], "prompt.0"),
        ([-1], "prompt"),
        ([[]], "prompt.0"),
        ([[1], [2, "x"]], "prompt.1"),
        ([[1], [-2]], "prompt.1"),
        ([[1], 2], "prompt.1"),
        (["a"] * 65, "prompt"),
    ],
)
async def test_every_wrong_prompt_is_refused(api: ScriptedApi, prompt: object, param: str) -> None:
    response = await post(api.app, URL, {"model": "tiny", "prompt": prompt}).done()
    assert response.status == 400
    assert response.json()["error"]["param"] == param
    assert api.generator.requests == []


async def test_several_prompts_become_groups_of_choices() -> None:
    def script(request: TextRequest) -> Iterable[Step]:
        assert isinstance(request.prompt, TextPrompt)
        return reply(request.prompt.text, "!", prompt_tokens=len(request.prompt.text), cached_tokens=1)(
            request
        )

    api = scripted_api(script)
    body = {"model": "tiny", "prompt": ["a", "bb", "ccc"], "n": 2}
    answer = (await post(api.app, URL, body).done()).json()
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [
        (0, "a!"),
        (1, "a!"),
        (2, "bb!"),
        (3, "bb!"),
        (4, "ccc!"),
        (5, "ccc!"),
    ]
    assert answer["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 12,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    events = (await post(api.app, URL, body | {"stream": True}).done()).events()
    assert events.pop() == "[DONE]"
    texts = [""] * 6
    for event in events:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert texts == ["a!", "a!", "bb!", "bb!", "ccc!", "ccc!"]


async def test_one_refused_prompt_refuses_all() -> None:
    gate = asyncio.Event()

    def script(request: TextRequest) -> Iterable[Step]:
        if request.request_id.endswith(".1"):
            yield InvalidRequestError("too long", param="prompt")
        yield Started(1)
        yield gate

    api = scripted_api(script)
    response = await post(api.app, URL, {"model": "tiny", "prompt": ["a", "b", "c"], "stream": True}).done()
    assert response.status == 400
    assert api.generator.open == 0
    assert api.generator.stopped == 3


async def test_a_job_that_has_no_room_as_a_whole_is_refused_before_any_of_it_begins() -> None:
    asked: list[int] = []

    def reserve(requests: Sequence[TextRequest]) -> AbstractContextManager[None]:
        asked.append(sum(request.n for request in requests))
        raise QueueFullError("5 places are needed", retry_after_s=3)

    api = scripted_api(reserve=reserve)
    response = await post(api.app, URL, {"model": "tiny", "prompt": ["a", "b", "c"], "n": 2}).done()
    assert (response.status, response.headers["retry-after"]) == (429, "3")
    assert asked == [6]
    assert api.generator.requests == []


async def test_too_many_choices_over_all_prompts(api: ScriptedApi) -> None:
    response = await post(api.app, URL, {"model": "tiny", "prompt": ["a"] * 33, "n": 4}).done()
    assert response.status == 400
    assert "132 choices" in response.json()["error"]["message"]
