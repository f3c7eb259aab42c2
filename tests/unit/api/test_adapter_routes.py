"""Adapters by name: what is loaded, asked for and unloaded, and what is refused."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from threading import Event
from typing import Any

import pytest

from stoker.api.served import Snapshot
from stoker.core.errors import InvalidRequestError
from stoker.core.tokens import AdapterRef
from stoker.testing.asgi import get, post
from stoker.testing.scripted_api import ScriptedApi, scripted_api
from stoker.testing.waiting import until

LOAD = "/v1/load_lora_adapter"
UNLOAD = "/v1/unload_lora_adapter"


def read(path: str) -> AdapterRef:
    if path == "broken":
        raise InvalidRequestError("The adapter cannot be loaded: it is damaged.", param="lora_path")
    return AdapterRef(f"/adapters/{path}", f"digest of {path}")


def adaptable(read_adapter: Callable[[str], AdapterRef] | None = read) -> ScriptedApi:
    api = scripted_api()
    model = replace(api.models.now.serving["tiny"], read_adapter=read_adapter)
    api.models.replace(Snapshot(serving={"tiny": model}))
    return api


async def load(api: ScriptedApi, **body: object) -> tuple[int, Any]:
    response = await post(api.app, LOAD, {"lora_name": "mine", "lora_path": "a"} | body).done()
    return response.status, response.json()


async def test_one_that_is_loaded_is_a_model_of_its_own_and_its_base_s() -> None:
    api = adaptable()
    status, shown = await load(api)
    assert (status, shown["id"], shown["parent"]) == (200, "mine", "tiny")
    listed = (await get(api.app, "/v1/models")).json()["data"]
    assert [each["id"] for each in listed] == ["tiny", "mine"]
    for name in ("mine", "tiny:mine"):
        answer = await api.ask("/v1/completions", model=name, prompt="go")
        assert answer["model"] == "mine"
    asked = AdapterRef("/adapters/a", "digest of a")
    assert [(each.model, each.adapter) for each in api.generator.requests] == [("tiny", asked)] * 2
    response = await post(api.app, UNLOAD, {"lora_name": "mine"}).done()
    assert response.json() == {"id": "mine", "object": "model", "deleted": True}
    response = await post(api.app, "/v1/completions", {"model": "mine", "prompt": "go"}).done()
    assert response.status == 404


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"lora_name": None}, 400, "lora_name"),
        ({"lora_name": "a/b"}, 400, "lora_name"),
        ({"lora_name": "a:b"}, 400, "lora_name"),
        ({"lora_name": "a" * 129}, 400, "lora_name"),
        ({"lora_path": ""}, 400, "lora_path"),
        ({"lora_path": "a" * 1025}, 400, "lora_path"),
        ({"lora_path": "broken"}, 400, "lora_path"),
        ({"base_model_name": "other"}, 404, "base_model_name"),
        ({"base_model_name": "first"}, 400, "base_model_name"),
        ({"load_inplace": True}, 400, "load_inplace"),
        ({"lora_name": "first"}, 409, None),
        ({"lora_name": "tiny"}, 409, None),
    ],
)
async def test_what_is_refused(body: dict[str, object], status: int, param: str | None) -> None:
    api = adaptable()
    assert (await load(api, lora_name="first"))[0] == 200
    found, answer = await load(api, **body)
    assert (found, answer["error"]["param"]) == (status, param)
    assert [each.name for each in api.models.adapted()] == ["first"]


async def test_a_model_that_takes_none_is_named() -> None:
    _, answer = await load(adaptable(None))
    assert answer["error"]["param"] == "base_model_name"


async def test_one_that_is_not_there_cannot_be_unloaded() -> None:
    response = await post(adaptable().app, UNLOAD, {"lora_name": "mine"}).done()
    assert (response.status, response.json()["error"]["param"]) == (404, "lora_name")


async def test_adapters_go_with_their_base() -> None:
    api = adaptable()
    await load(api)
    model = api.models.now.serving["tiny"]
    api.models.replace(Snapshot(coming=frozenset({"tiny"})))
    api.models.replace(Snapshot(serving={"tiny": model}))
    assert [each.name for each in api.models.adapted()] == ["mine"]
    api.models.replace(Snapshot())
    api.models.replace(Snapshot(serving={"tiny": model}))
    assert api.models.adapted() == []
    assert (await load(api))[0] == 200


async def test_one_is_read_at_a_time_and_not_kept_if_its_base_goes_meanwhile() -> None:
    reading, go_on = [], Event()

    def slowly(path: str) -> AdapterRef:
        reading.append(path)
        assert go_on.wait(10)
        return read(path)

    api = adaptable(slowly)
    both = asyncio.gather(load(api), load(api, lora_name="other", lora_path="b"))
    await until(lambda: bool(reading))
    await asyncio.sleep(0.05)
    assert len(reading) == 1
    model = api.models.now.serving["tiny"]
    api.models.replace(Snapshot())
    go_on.set()
    assert [(status, answer["error"]["param"]) for status, answer in await both] == [
        (404, "base_model_name"),
        (404, "base_model_name"),
    ]
    api.models.replace(Snapshot(serving={"tiny": model}))
    assert api.models.adapted() == []
