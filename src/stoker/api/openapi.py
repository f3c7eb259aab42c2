"""``GET /openapi.json``: the API's own description, put together from what each dialect says of itself."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from stoker.api.reply import Reply

Schema = Mapping[str, Any]
"""A JSON Schema, as OpenAPI 3.1 uses it."""

PATH = "/openapi.json"


@dataclass(frozen=True, slots=True)
class Part:
    """One dialect's share of the document.

    Attributes:
        paths: OpenAPI path items by path.
        schemas: Schemas by name, to be referred to by `ref`.
    """

    paths: Mapping[str, Schema]
    schemas: Mapping[str, Schema] = field(default_factory=dict)


def ref(name: str) -> Schema:
    """Refer to a schema of any part."""
    return {"$ref": f"#/components/schemas/{name}"}


def content(schema: Schema, media_type: str = "application/json") -> Schema:
    """Return the ``content`` of a body that has one media type."""
    return {"content": {media_type: {"schema": schema}}}


def response(description: str, schema: Schema, media_type: str = "application/json") -> Schema:
    """Describe a response."""
    return {"description": description, **content(schema, media_type)}


def record(properties: Mapping[str, Schema], *, optional: Iterable[str] = ()) -> Schema:
    """Describe an object that has these members, all but the optional ones always."""
    left_out = set(optional)
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in left_out],
    }


def nullable(schema: Schema) -> Schema:
    """Allow null as well."""
    return {"anyOf": [schema, {"type": "null"}]}


def compose(parts: Iterable[Part], *, version: str, key_needed: bool) -> dict[str, Any]:
    """Return the whole document.

    Args:
        parts: The dialects'.
        version: Stoker's.
        key_needed: Whether clients must send an API key.

    Raises:
        ValueError: Two parts describe the same path or schema.
    """
    paths: dict[str, Schema] = {}
    schemas: dict[str, Schema] = {}
    for part in parts:
        for target, more in ((paths, part.paths), (schemas, part.schemas)):
            if not target.keys().isdisjoint(more):
                raise ValueError(f"described twice: {', '.join(sorted(target.keys() & more))}")
            target.update(more)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Stoker", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if key_needed:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


class OpenApiPage:
    """ASGI endpoint of the document, which is put together when it is first asked for.

    Args:
        make: Returns the document.
    """

    def __init__(self, make: Callable[[], Schema]) -> None:
        self._make = make

    @cached_property
    def _body(self) -> bytes:
        return orjson.dumps(self._make())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request."""
        await Reply(200, self._body).send(send)
