"""Fields that say how tokens are chosen arrive as they were sent, at the ends of their ranges too."""

from typing import Any

import pytest

from stoker.testing.asgi import post
from stoker.testing.scripted_api import ScriptedApi

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HI: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
GO: dict[str, Any] = {"model": "tiny", "prompt": "go"}


@pytest.mark.parametrize(("url", "body"), [(CHAT, HI), (TEXT, GO)])
async def test_what_changes_the_logits_arrives(api: ScriptedApi, url: str, body: dict[str, Any]) -> None:
    fields = {
        "presence_penalty": -2,
        "frequency_penalty": 1.5,
        "repetition_penalty": 1.1,
        "logit_bias": {"50256": -100, "0": 0.5},
        "stop_token_ids": [7, 5, 7],
        "min_tokens": 4,
    }
    assert (await post(api.app, url, body | fields).done()).status == 200
    (request,) = api.generator.requests
    assert (request.presence_penalty, request.frequency_penalty) == (-2.0, 1.5)
    assert request.repetition_penalty == 1.1
    assert request.logit_bias == ((50256, -100.0), (0, 0.5))
    assert request.stop_token_ids == {5, 7}
    assert request.min_tokens == 4


async def test_the_largest_bias_is_taken(api: ScriptedApi) -> None:
    bias = {str(token): 100 for token in range(1024)}
    assert (await post(api.app, TEXT, GO | {"logit_bias": bias}).done()).status == 200


@pytest.mark.parametrize("value", [0, 2, 1.25])
async def test_the_ends_of_temperature_are_inside(api: ScriptedApi, value: object) -> None:
    assert (await post(api.app, CHAT, HI | {"temperature": value}).done()).status == 200


@pytest.mark.parametrize(
    ("seed", "key"), [(0, 0), (2**63 - 1, 2**63 - 1), (-(2**63), 2**63), (-1, 2**64 - 1)]
)
async def test_every_signed_seed_has_its_own_key(api: ScriptedApi, seed: int, key: int) -> None:
    await post(api.app, CHAT, HI | {"seed": seed}).done()
    assert api.generator.requests[0].seed == key
