"""Bodies are parsed strictly, and large ones without stalling or filling the process."""

import asyncio
import json
import threading
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.api.body import parse_object
from stoker.api.limits import ApiLimits
from stoker.api.openai import entry
from stoker.core.errors import InvalidRequestError
from stoker.testing.asgi import post
from stoker.testing.scripted_api import ScriptedApi, scripted_api

VALUES = st.recursive(
    st.none() | st.integers(-5, 5) | st.sampled_from(["", ":", '"a":', "\\", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(':"\\ab', max_size=2), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(':"\\ab', max_size=2), VALUES))
def test_a_body_without_repeated_names_is_taken_as_it_is(value: dict[str, Any]) -> None:
    assert parse_object(json.dumps(value).encode(), max_depth=64) == value


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1, "a": 1}',
        b'{"a": 1, "\\u0061": 1}',
        b'{"b": ":", "a": 1, "a": 1}',
        b'{"b": [{"a": 1.5}, {"a": -20000000000000000000000, "a" :1}]}',
        b'{"b": {"a": {}, "a": {"c": 1}}}',
    ],
)
def test_a_repeated_name_is_found_wherever_it_stands(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="'a' twice"):
        parse_object(body, max_depth=64)


def test_a_body_that_cannot_repeat_a_name_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", None)
    assert parse_object(b'{"model": "m", "prompt": [1, 2]}', max_depth=64)["prompt"] == [1, 2]


async def test_an_array_of_token_ids_over_the_context_is_refused_by_its_length() -> None:
    api = scripted_api(limits=ApiLimits(max_prompt_tokens=4))
    for prompt, param in (([1, 2, 3, 4, "x"], "prompt"), ([[1], [1, 2, 3, 4, "x"]], "prompt.1")):
        response = await post(api.app, "/v1/completions", {"model": "tiny", "prompt": prompt}).done()
        assert response.status == 400
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", param)
        assert "has 5 tokens" in error["message"]
    assert api.generator.requests == []
    assert (
        await post(api.app, "/v1/completions", {"model": "tiny", "prompt": [1, 2, 3, 4]}).done()
    ).status == 200


async def test_large_bodies_are_parsed_one_at_a_time_off_the_event_loop(
    api: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsing = threading.Lock()
    threads: list[int] = []

    def alone(body: bytes, *, max_depth: int) -> dict[str, Any]:
        assert parsing.acquire(blocking=False), "two at a time"
        threads.append(threading.get_ident())
        time.sleep(0.02)
        parsing.release()
        return parse_object(body, max_depth=max_depth)

    monkeypatch.setattr(entry, "parse_object", alone)
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "x" * 70_000}]}
    text = {"model": "tiny", "prompt": "x" * 70_000}
    calls = [post(api.app, "/v1/chat/completions", chat), post(api.app, "/v1/completions", text)]
    assert [(await call.done()).status for call in calls] == [200, 200]
    assert threading.get_ident() not in threads
    assert len(threads) == len(calls)


async def test_a_small_body_is_parsed_at_once(api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", None)
    assert (await post(api.app, "/v1/completions", {"model": "tiny", "prompt": "x"}).done()).status == 200
