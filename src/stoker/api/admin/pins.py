"""``/admin/models/{name}/pins``: prefixes whose KV blocks are kept from being evicted."""

from concurrent.futures import Executor
from dataclasses import asdict
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from stoker.api.body import parse_object, parsed_body
from stoker.api.edge import record_of
from stoker.api.limits import ApiLimits
from stoker.api.openai.tokenize_request import parse_tokenize
from stoker.api.openai.validation import validate
from stoker.api.origin import check_origin
from stoker.api.reply import Reply
from stoker.api.served import ServedModel, ServedModels
from stoker.core.errors import ContextLengthError, InvalidRequestError
from stoker.core.protocols import PinnedPrefix
from stoker.core.text import Prompt

_ELSEWHERE = ("model", "return_token_strs")
"""Fields of ``POST /tokenize`` that make no sense here."""


class TokensBody(BaseModel):
    """A prefix given as token ids."""

    model_config = ConfigDict(extra="forbid", strict=True)

    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


def pin_routes(*, models: ServedModels, limits: ApiLimits, parser: Executor) -> list[Route]:
    """Return the routes of pinned prefixes."""
    return [
        Route(
            "/admin/models/{name:path}/pins",
            PinCollection(models, limits, parser),
            methods=["GET", "POST"],
        ),
        Route("/admin/models/{name:path}/pins/{pin}", PinRemoval(models), methods=["DELETE"]),
    ]


def parse_pin(body: dict[str, Any], limits: ApiLimits) -> Prompt | list[int]:
    """Return the prefix to pin: a text or conversation, as ``POST /tokenize`` takes it, or token ids.

    Of a conversation the answer's beginning is left out unless ``add_generation_prompt`` asks for it.

    Raises:
        InvalidRequestError: Whatever is wrong with it, with the field's path.
        ContextLengthError: More tokens than a context holds.
    """
    tokens = body.get("tokens")
    if tokens is not None:
        if isinstance(tokens, list) and len(tokens) > limits.max_prompt_tokens:
            raise ContextLengthError(
                f"'tokens' has {len(tokens)} tokens, and a context holds at most {limits.max_prompt_tokens}.",
                param="tokens",
            )
        return validate(TokensBody, body).tokens
    for name in _ELSEWHERE:
        if name in body:
            raise InvalidRequestError(
                f"'{name}' is not a field here; give 'messages', 'prompt' or 'tokens'.", param=name
            )
    fields = {name: value for name, value in body.items() if name != "tokens"}
    if fields.get("messages") is not None:
        fields.setdefault("add_generation_prompt", False)
    return parse_tokenize(fields, limits).prompt


class PinCollection:
    """ASGI endpoint that lists a model's pinned prefixes and pins one.

    Args:
        models: Served models.
        limits: Bounds on a request.
        parser: Where large bodies are parsed.
    """

    def __init__(self, models: ServedModels, limits: ApiLimits, parser: Executor) -> None:
        self._models = models
        self._limits = limits
        self._parser = parser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            ForbiddenError: A web page of another origin sends it.
            StokerError: As `Pins.pin`, or the body is wrong.
        """
        check_origin(scope)
        model = _base(self._models, scope["path_params"]["name"])
        record_of(scope).model = model.name
        if scope["method"] == "POST":
            prefix = await parsed_body(scope, receive, self._parse, self._parser)
            tokens = prefix if isinstance(prefix, list) else await model.codec.tokenize(prefix)
            if not tokens:
                raise InvalidRequestError("The prefix has no tokens; give at least one block of them.")
            await Reply(201, _document(await model.pins.pin(tokens))).send(send)
        else:
            data = [_plain(pin) for pin in model.pins.all()]
            await Reply(200, orjson.dumps({"pins": data})).send(send)

    def _parse(self, body: bytes) -> Prompt | list[int]:
        return parse_pin(parse_object(body, max_depth=self._limits.max_json_depth), self._limits)


class PinRemoval:
    """ASGI endpoint that unpins a prefix.

    Args:
        models: Served models.
    """

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request.

        Raises:
            ForbiddenError: A web page of another origin sends it.
            StokerError: As `Pins.unpin`.
        """
        check_origin(scope)
        model = _base(self._models, scope["path_params"]["name"])
        await Reply(200, _document(await model.pins.unpin(scope["path_params"]["pin"]))).send(send)


def _document(pin: PinnedPrefix) -> bytes:
    return orjson.dumps(_plain(pin))


def _plain(pin: PinnedPrefix) -> dict[str, Any]:
    return {
        {"n_tokens": "tokens", "n_pinned_tokens": "pinned_tokens"}.get(name, name): value
        for name, value in asdict(pin).items()
    }


def _base(models: ServedModels, name: str) -> ServedModel:
    model = models.find(name)
    if model.adapter is not None:
        raise InvalidRequestError(
            f"'{model.name}' is an adapter; prefixes are pinned for models without one.", param="name"
        )
    return model
