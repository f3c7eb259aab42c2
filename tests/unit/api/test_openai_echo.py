"""`echo` and `best_of` of completions: what reaches the generator, and what comes back."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from stoker.api.limits import ApiLimits
from stoker.core.text import Finished, Started, TextDelta, TextLogprob, TextRequest, TopToken, Usage
from stoker.core.tokens import FinishReason
from stoker.testing.asgi import get, post
from stoker.testing.generator import steps
from stoker.testing.scripted_api import ScriptedApi, scripted_api

URL = "/v1/completions"
GO: dict[str, Any] = {"model": "tiny", "prompt": "go"}

PROMPT = TextDelta(
    0,
    "a\u00e9",
    (
        TextLogprob("<s>", b"<s>", None, added=b""),
        TextLogprob("a", b"a", -0.5, (TopToken("b", b"b", -0.25),)),
        TextLogprob("\u00e9", "\u00e9".encode(), -1.5, (TopToken("\u00e9", "\u00e9".encode(), -1.5),)),
    ),
    of_prompt=True,
)
ANSWER = TextDelta(0, "x", (TextLogprob("x", b"x", -2.0), TextLogprob("</s>", b"</s>", -0.125, added=b"")))
END = (Finished(0, FinishReason.STOP), Usage(3, 2, 0))
LOGPROBS = {
    "tokens": ["<s>", "a", "\u00e9", "x", "</s>"],
    "token_logprobs": [None, -0.5, -1.5, -2.0, -0.125],
    "top_logprobs": [None, {"b": -0.25, "a": -0.5}, {"\u00e9": -1.5}, {"x": -2.0}, {"</s>": -0.125}],
    "text_offset": [0, 0, 1, 2, 3],
}


async def test_an_echoed_prompt_comes_before_the_text_with_its_logprobs() -> None:
    api = scripted_api(steps(Started(3), PROMPT, ANSWER, *END))
    body = GO | {"echo": True, "logprobs": 1}
    (choice,) = (await post(api.app, URL, body).done()).json()["choices"]
    assert (choice["text"], choice["logprobs"]) == ("a\u00e9x", LOGPROBS)
    (request,) = api.generator.requests
    assert (request.echo, request.logprobs, request.max_tokens) == (True, 1, 16)


async def test_an_echoed_prompt_is_streamed() -> None:
    api = scripted_api(steps(Started(3), PROMPT, ANSWER, *END))
    body = GO | {"echo": True, "logprobs": 1, "stream": True}
    events = (await post(api.app, URL, body).done()).events()
    assert [event["choices"][0]["text"] for event in events[:-1]] == ["a\u00e9", "x", ""]
    parts = [event["choices"][0]["logprobs"] for event in events[:2]]
    assert {name: parts[0][name] + parts[1][name] for name in LOGPROBS} == LOGPROBS


async def test_the_prompt_is_no_first_token() -> None:
    api = scripted_api(steps(Started(3), PROMPT, *END))
    assert (await post(api.app, URL, GO | {"echo": True, "logprobs": 0}).done()).status == 200
    page = (await get(api.app, "/metrics")).body.decode()
    assert 'time_to_first_token_seconds_count{model="tiny"} 0.0' in page


@pytest.mark.parametrize(("echo", "status"), [(True, 200), (False, 400), (None, 400)])
async def test_nothing_is_generated_only_with_echo(api: ScriptedApi, echo: object, status: int) -> None:
    response = await post(api.app, URL, GO | {"max_tokens": 0, "echo": echo}).done()
    assert response.status == status
    if status == 400:
        assert response.json()["error"]["param"] == "max_tokens"


async def test_each_prompt_has_its_share_of_the_scores() -> None:
    api = scripted_api(limits=ApiLimits(max_prompt_scores=100))
    body = {"model": "tiny", "prompt": ["a", "b"], "n": 5, "echo": True, "logprobs": 1}
    assert (await post(api.app, URL, body).done()).status == 200
    assert [request.max_prompt_scores for request in api.generator.requests] == [10, 10]


async def test_best_of_reaches_the_generator_and_takes_its_places() -> None:
    asked: list[int] = []

    def reserve(requests: Sequence[TextRequest]) -> AbstractContextManager[None]:
        asked.append(sum(request.n_sequences for request in requests))
        return nullcontext()

    api = scripted_api(reserve=reserve)
    body = {"model": "tiny", "prompt": ["a", "b"], "n": 2, "best_of": 5}
    answer = (await post(api.app, URL, body).done()).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert [(r.n, r.best_of, r.n_sequences) for r in api.generator.requests] == [(2, 5, 5)] * 2
    assert asked == [10]


@pytest.mark.parametrize("stream", [False, True])
async def test_best_of_may_equal_n(api: ScriptedApi, *, stream: bool) -> None:
    response = await post(api.app, URL, GO | {"best_of": 3, "n": 3, "stream": stream}).done()
    assert response.status == 200
    assert [request.best_of for request in api.generator.requests] == [None]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"best_of": 1, "n": 2}, "integer_below_min_value"),
        ({"best_of": 17}, "integer_above_max_value"),
        ({"best_of": 2, "stream": True}, "invalid_value"),
        ({"best_of": 0}, "invalid_value"),
        ({"best_of": "2"}, "invalid_type"),
        ({"best_of": True}, "invalid_type"),
    ],
)
async def test_a_wrong_best_of_is_refused(api: ScriptedApi, fields: dict[str, Any], code: str) -> None:
    response = await post(api.app, URL, GO | fields).done()
    assert response.status == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == ("best_of", code)
    assert api.generator.requests == []


async def test_candidates_of_all_prompts_count(api: ScriptedApi) -> None:
    response = await post(api.app, URL, {"model": "tiny", "prompt": ["a"] * 33, "best_of": 4}).done()
    assert response.status == 400
    assert "132 choices" in response.json()["error"]["message"]


async def test_a_large_answer_is_written_whole() -> None:
    entries = tuple(TextLogprob("a", b"a", -1.0) for _ in range(2000))
    api = scripted_api(steps(Started(1), TextDelta(0, "a" * 2000, entries, of_prompt=True), *END))
    body = GO | {"echo": True, "logprobs": 0}
    (choice,) = (await post(api.app, URL, body).done()).json()["choices"]
    assert choice["logprobs"]["text_offset"] == list(range(2000))
