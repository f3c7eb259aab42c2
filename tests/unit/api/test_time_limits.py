"""Priorities and time limits as clients ask for them, and what they get when time is over."""

import asyncio
from typing import Any

import pytest

from stoker.api.limits import ApiLimits
from stoker.core.errors import DeadlineError, QueueTimeoutError
from stoker.core.text import Started, TextDelta
from stoker.testing.asgi import AsgiCall, post
from stoker.testing.generator import steps
from stoker.testing.scripted_api import scripted_api

URL = "/v1/completions"
REQUEST: dict[str, Any] = {"model": "tiny", "prompt": "a"}
TOO_LATE = QueueTimeoutError("its turn did not come", retry_after_s=6.5)


@pytest.mark.parametrize("url", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize(("sent", "priority"), [(None, 0), (0, 0), (-3, 3), (1000, -1000)])
async def test_a_lower_number_on_the_wire_is_a_higher_priority(url: str, sent: int, priority: int) -> None:
    api = scripted_api()
    messages = [{"role": "user", "content": "a"}]
    prompt = {"messages": messages} if "chat" in url else {"prompt": "a"}
    response = await post(api.app, url, {"model": "tiny", "priority": sent, **prompt}).done()
    assert response.status == 200
    assert api.generator.requests[0].priority == priority


@pytest.mark.parametrize(
    ("sent", "limits", "expected"),
    [
        ({}, ApiLimits(), (None, None)),
        ({}, ApiLimits(queue_timeout_s=60, request_timeout_s=600), (60, 600)),
        ({"queue_timeout": 2, "timeout": 0.5}, ApiLimits(), (2, 0.5)),
        ({"queue_timeout": 2, "timeout": 5}, ApiLimits(queue_timeout_s=60, request_timeout_s=600), (2, 5)),
        (
            {"queue_timeout": 90, "timeout": 900},
            ApiLimits(queue_timeout_s=60, request_timeout_s=600),
            (60, 600),
        ),
    ],
)
async def test_a_request_may_ask_for_less_time_than_the_server_gives(
    sent: dict[str, float], limits: ApiLimits, expected: tuple[float | None, float | None]
) -> None:
    api = scripted_api(limits=limits)
    assert (await post(api.app, URL, REQUEST | sent).done()).status == 200
    (request,) = api.generator.requests
    assert (request.queue_timeout_s, request.timeout_s) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("priority", 1001),
        ("priority", 1.0),
        ("priority", "high"),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", 1e6),
        ("queue_timeout", 0),
        ("queue_timeout", "1"),
    ],
)
async def test_values_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    response = await post(scripted_api().app, URL, REQUEST | {field: value}).done()
    assert (response.status, response.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize("stream", [False, True])
async def test_who_is_given_up_in_the_queue_gets_429_though_it_was_admitted(*, stream: bool) -> None:
    api = scripted_api(steps(Started(1), TOO_LATE))
    response = await post(api.app, URL, REQUEST | {"stream": stream}).done()
    assert (response.status, response.headers["retry-after"]) == (429, "7")
    assert response.json()["error"] == {
        "message": "its turn did not come",
        "type": "rate_limit_error",
        "param": None,
        "code": "queue_timeout",
    }
    assert b'stoker_requests_failed_total{reason="queue_timeout"} 1.0' in api.metrics.render()


async def test_a_deadline_before_the_first_text_is_504_and_after_it_the_streams_last_event() -> None:
    early = scripted_api(steps(Started(1), DeadlineError("not finished in time")))
    response = await post(early.app, URL, REQUEST | {"stream": True}).done()
    assert (response.status, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    late = scripted_api(steps(Started(1), TextDelta(0, "a"), DeadlineError("not finished in time")))
    response = await post(late.app, URL, REQUEST | {"stream": True}).done()
    assert response.status == 200
    assert response.events()[-1]["error"]["code"] == "deadline_exceeded"


async def test_bodies_of_all_requests_together_are_bounded_and_given_back() -> None:
    gate = asyncio.Event()
    api = scripted_api(steps(Started(1), TextDelta(0, "a"), gate), limits=ApiLimits(max_bodies_bytes=1000))
    first = post(api.app, URL, REQUEST | {"stream": True, "prompt": "x" * 2000})
    await first.until_chunks(1)
    held = next(line for line in api.metrics.render().splitlines() if line.startswith(b"stoker_http_body"))
    assert float(held.split()[1]) > 2000
    refused = await post(api.app, URL, REQUEST).done()
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    assert "over the limit of 1000 bytes together" in refused.json()["error"]["message"]
    first.disconnect()
    await first.done()
    assert b"stoker_http_body_bytes 0.0" in api.metrics.render()
    unfinished = AsgiCall(
        api.app,
        "POST",
        URL,
        headers=[("content-type", "application/json")],
        body=[b"{" + b" " * 2000],
        body_complete=False,
    )
    await asyncio.sleep(0.01)
    unfinished.disconnect()
    await unfinished.done()
    assert b"stoker_http_body_bytes 0.0" in api.metrics.render()
