"""Calls an ASGI application in the same event loop, with a say over every message."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.types import ASGIApp, Message


@dataclass(slots=True)
class AsgiResponse:
    """What the application has sent so far.

    Attributes:
        status: HTTP status; 0 before the response has begun.
        headers: By lower-case name.
        chunks: The bodies of the messages, empty ones left out.
        complete: Whether the last message has come.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        """The body so far."""
        return b"".join(self.chunks)

    def json(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.body)

    def events(self) -> list[Any]:
        """The payloads of a stream of server-sent events; ``[DONE]`` stays a string."""
        parts = self.body.decode().split("\n\n")
        if parts.pop() != "" or not all(part.startswith("data: ") for part in parts):
            raise ValueError("not a stream of data events")
        payloads = [part.removeprefix("data: ") for part in parts]
        return [payload if payload == "[DONE]" else orjson.loads(payload) for payload in payloads]


class AsgiCall:
    """One request in progress.

    Args:
        app: The application.
        method: HTTP method.
        path: Path of the URL.
        headers: Pairs of name and value.
        body: The body's pieces, in messages of their own.
        body_complete: Whether the body ends after them; otherwise it never does.
    """

    def __init__(
        self,
        app: ASGIApp,
        method: str,
        path: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: Iterable[bytes] = (b"",),
        body_complete: bool = True,
    ) -> None:
        self.response = AsgiResponse()
        self._progress = asyncio.Event()
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        pieces = list(body)
        for index, piece in enumerate(pieces):
            more = not body_complete or index < len(pieces) - 1
            self._inbox.put_nowait({"type": "http.request", "body": piece, "more_body": more})
        self._scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        }
        self._task = asyncio.ensure_future(app(self._scope, self._inbox.get, self._send))

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.response.status = message["status"]
            self.response.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message.get("body"):
            self.response.chunks.append(message["body"])
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.response.complete = True
        self._progress.set()

    async def until_chunks(self, count: int) -> AsgiResponse:
        """Wait until so many pieces of the body have come."""
        while len(self.response.chunks) < count:
            self._progress.clear()
            await self._progress.wait()
        return self.response

    def disconnect(self) -> None:
        """Let the client leave."""
        self._inbox.put_nowait({"type": "http.disconnect"})

    async def done(self) -> AsgiResponse:
        """Wait until the application has returned."""
        await self._task
        return self.response


async def get(app: ASGIApp, path: str, *, headers: Iterable[tuple[str, str]] = ()) -> AsgiResponse:
    """Return the whole response to a GET."""
    return await AsgiCall(app, "GET", path, headers=headers).done()


def post(app: ASGIApp, path: str, body: object, *, headers: Iterable[tuple[str, str]] = ()) -> AsgiCall:
    """Begin a POST of JSON; bytes are sent as they are."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return AsgiCall(app, "POST", path, headers=[("content-type", "application/json"), *headers], body=[data])
