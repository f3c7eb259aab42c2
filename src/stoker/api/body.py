"""Reading a request's body and parsing it as JSON, strictly."""

import asyncio
import json
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import Any, TypeVar

import orjson
from starlette.types import Receive, Scope

from stoker.core.errors import ClientGoneError, InvalidRequestError

_MAX_NAME_SHOWN = 64
_INLINE_BODY_BYTES = 64 * 1024

Parsed = TypeVar("Parsed")


async def parsed_body(
    scope: Scope, receive: Receive, parse: Callable[[bytes], Parsed], executor: Executor
) -> Parsed:
    """Return what `parse` makes of the request's JSON body.

    Args:
        scope: The request.
        receive: Its ASGI channel.
        parse: Makes something of the body.
        executor: Where a large body is parsed: on the event loop it would stall every stream.

    Raises:
        ClientGoneError: The client left before the body was complete.
        InvalidRequestError: The body is no JSON, or whatever `parse` raises.
    """
    require_json(scope)
    body = await read_body(receive)
    if len(body) <= _INLINE_BODY_BYTES:
        return parse(body)
    return await asyncio.get_running_loop().run_in_executor(executor, parse, body)


async def read_body(receive: Receive) -> bytes:
    """Return the whole body.

    Raises:
        ClientGoneError: The client left before the body was complete.
    """
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("The client left before its request was complete.")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def require_json(scope: Scope) -> None:
    """Refuse a body that does not say it is plain JSON.

    A web page of another origin can make a browser post ``text/plain`` to a server on this machine
    without asking; it cannot post ``application/json``.

    Raises:
        InvalidRequestError: Another content type, or a compressed body.
    """
    content_type = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            content_type = value
        elif name == b"content-encoding" and value.strip().lower() != b"identity":
            raise InvalidRequestError(
                "Compressed request bodies are not supported. Send the body without 'content-encoding'.",
                code="unsupported_content_encoding",
            )
    if content_type.split(b";", 1)[0].strip().lower() != b"application/json":
        raise InvalidRequestError(
            "The body must be JSON: send the header 'content-type: application/json'.",
            code="unsupported_content_type",
        )


def parse_object(body: bytes, *, max_depth: int) -> dict[str, Any]:
    """Parse a body that must be one JSON object.

    Beyond the grammar (no NaN, no invalid UTF-8, no lone surrogates) it bounds the nesting and
    refuses a name given twice in one object, of which one value would silently win.

    Args:
        body: UTF-8 encoded JSON.
        max_depth: Deepest nesting of arrays and objects; the outermost object is 1.

    Raises:
        InvalidRequestError: The body is anything else.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(value, dict):
        raise InvalidRequestError("The body must be a JSON object ({...}).", code="invalid_json")
    n_names = _walk(value, max_depth)
    # Every name has its colon. A second parse is worth its time only if there are more colons than
    # names: in strings, or after a name that was given twice. It builds nothing: `bool` is the cheapest
    # thing to call with a number's text.
    if body.count(b":") != n_names:
        json.loads(body, object_pairs_hook=_unique, parse_int=bool, parse_float=bool)
    return value


def _walk(value: dict[str, Any], max_depth: int) -> int:
    """Check the nesting, and return how many names all objects have together."""
    n_names = 0
    level: list[Any] = [value]
    for _ in range(max_depth):
        below: list[Any] = []
        for container in level:
            items: Iterable[Any] = container
            if type(container) is dict:
                n_names += len(container)
                items = container.values()
            below.extend([item for item in items if type(item) is dict or type(item) is list])
        if not below:
            return n_names
        level = below
    raise InvalidRequestError(
        f"The body nests arrays and objects deeper than {max_depth} levels.", code="invalid_json"
    )


def _unique(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise InvalidRequestError(
                f"The body gives the name '{shown(name)}' twice in one object.", code="invalid_json"
            )
        seen.add(name)


def shown(name: str) -> str:
    """Return a client's own word, short enough to be shown back to it."""
    return name if len(name) <= _MAX_NAME_SHOWN else name[:_MAX_NAME_SHOWN] + "…"
