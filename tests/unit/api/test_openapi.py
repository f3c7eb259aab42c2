"""The OpenAPI document, and what schemathesis makes of it: no 5xx, and answers as described."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from schemathesis.config import SchemathesisConfig

from stoker.api.openai.wire import MAX_MODEL_CHARS
from stoker.api.openapi import Part, compose
from stoker.testing.asgi import get
from stoker.testing.scripted_api import scripted_api

HOSTS = ("testserver",)
API = scripted_api(allowed_hosts=HOSTS)
MODEL = "tiny"

schema = schemathesis.openapi.from_asgi("/openapi.json", API.app, config=SchemathesisConfig())


# What a schema cannot say is refused too: a context that is too short, two fields that contradict each other.
EXCLUDED: list[Any] = [CHECKS.get_one("positive_data_acceptance")]


@schema.hook
def map_body(context: Any, body: Any) -> Any:  # noqa: ARG001 - the hook's signature
    """Name the model that is served, or nearly every request would be 404; leave wrong names as they are."""
    name = body.get("model") if isinstance(body, dict) else None
    if isinstance(name, str) and 1 <= len(name) <= MAX_MODEL_CHARS:
        return {**body, "model": MODEL}
    return body


@schema.parametrize()
@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
def test_whatever_fits_or_breaks_the_document_is_answered_as_it_says(case: schemathesis.Case[Any]) -> None:
    response = case.call()
    case.validate_response(response, excluded_checks=EXCLUDED)


async def document(api_key: str | None = None) -> Any:
    headers = [("authorization", f"Bearer {api_key}")] if api_key else []
    answer = await get(scripted_api(api_key=api_key).app, "/openapi.json", headers=headers)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    return answer.json()


async def test_every_route_is_described() -> None:
    described = set((await document())["paths"])
    router = API.app
    while not hasattr(router, "routes"):
        router = router._app  # type: ignore[attr-defined]
    served = {route.path.replace(":path", "") for route in router.routes}
    assert described == served - {"/openapi.json"}


async def test_requests_have_the_fields_of_the_tables() -> None:
    chat = (await document())["components"]["schemas"]["ChatRequest"]
    assert chat["required"] == ["model", "messages"]
    assert chat["additionalProperties"] is False
    assert chat["properties"]["top_k"]["anyOf"][0] == {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    assert chat["properties"]["tools"] == {"description": "not supported; accepted: `[]`"}


async def test_a_server_with_a_key_says_so() -> None:
    assert "security" not in await document()
    with_key = await document("secret")
    assert with_key["security"] == [{"key": []}]
    assert with_key["paths"]["/livez"]["get"]["security"] == []
    assert (await get(scripted_api(api_key="secret").app, "/openapi.json")).status == 401


def test_two_parts_cannot_describe_one_path() -> None:
    part = Part({"/a": {}})
    with pytest.raises(ValueError, match="/a"):
        compose((part, part), version="1", key_needed=False)


BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "n": 2},
    "/v1/completions": {"prompt": [[1], [2]], "logprobs": 2, "stop": "x", "logit_bias": {"1": -1}},
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", BODIES)
def test_answers_are_as_described(path: str, stream: bool) -> None:
    case = schema[path]["POST"].Case(
        body={**BODIES[path], "model": MODEL, "stream": stream}, media_type="application/json"
    )
    response = case.call()
    assert response.status_code == 200
    case.validate_response(response)


def test_a_server_error_is_found() -> None:
    broken = scripted_api(lambda _: (ValueError("a fault"),), allowed_hosts=HOSTS)
    operation = schemathesis.openapi.from_asgi("/openapi.json", broken.app)["/v1/completions"]["POST"]
    case = operation.Case(body={"model": MODEL, "prompt": "a"}, media_type="application/json")
    response = case.call()
    assert response.status_code == 500
    with pytest.raises(BaseExceptionGroup):
        case.validate_response(response)
