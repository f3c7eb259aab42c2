"""A client that leaves ends the work for it at once, wherever that work stands."""

import asyncio
from typing import Any

import pytest

from stoker.core.text import Started, TextDelta
from stoker.testing.asgi import post
from stoker.testing.generator import Step
from stoker.testing.scripted_api import scripted_api
from stoker.testing.waiting import until

CHAT: tuple[str, dict[str, Any]] = (
    "/v1/chat/completions",
    {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]},
)
TEXT: tuple[str, dict[str, Any]] = ("/v1/completions", {"model": "tiny", "prompt": ["a", "b", "c"]})
QUEUED: tuple[Step, ...] = ()
PREFILL: tuple[Step, ...] = (Started(1),)
DECODE: tuple[Step, ...] = (Started(1), TextDelta(0, "a"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [QUEUED, PREFILL, DECODE], ids=["queued", "prefill", "decode"])
@pytest.mark.parametrize(("request_of", "n_prompts"), [(CHAT, 1), (TEXT, 3)], ids=["chat", "three-prompts"])
async def test_leaving_closes_every_generator(
    request_of: tuple[str, dict[str, Any]], n_prompts: int, script: tuple[Step, ...], stream: bool
) -> None:
    api = scripted_api(lambda _: (*script, asyncio.Event()))
    url, body = request_of
    call = post(api.app, url, body | {"stream": stream})
    await until(lambda: api.generator.open == n_prompts)
    await asyncio.sleep(0.01)
    call.disconnect()
    response = await asyncio.wait_for(call.done(), 5)
    assert not response.complete
    assert api.generator.open == 0
    assert api.generator.stopped == n_prompts
    assert f'route="{url}",status="499"}} 1.0'.encode() in api.metrics.render()


async def test_leaving_after_the_end_changes_nothing() -> None:
    api = scripted_api()
    call = post(api.app, *CHAT)
    response = await call.done()
    call.disconnect()
    assert response.complete
    assert (api.generator.ended, api.generator.stopped) == (1, 0)


async def test_one_client_that_leaves_leaves_the_others_alone() -> None:
    gate = asyncio.Event()
    api = scripted_api(lambda _: (Started(1), TextDelta(0, "a"), gate, TextDelta(0, "b")))
    url, body = CHAT
    leaves, stays = (post(api.app, url, body | {"stream": True}) for _ in range(2))
    await leaves.until_chunks(2)
    await stays.until_chunks(2)
    leaves.disconnect()
    await leaves.done()
    assert api.generator.open == 1
    gate.set()
    events = (await stays.done()).events()
    assert events[2]["choices"][0]["delta"] == {"content": "b"}
