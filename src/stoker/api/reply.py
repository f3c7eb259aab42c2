"""Whole responses, sent in two ASGI messages."""

from dataclasses import dataclass

from starlette.types import Send

Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """A response whose body is complete.

    Attributes:
        status: HTTP status.
        body: The body's bytes.
        content_type: Its media type.
        headers: Further headers, names in lower case.
    """

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()

    async def send(self, send: Send) -> None:
        """Send the response."""
        headers: Headers = [
            (b"content-type", self.content_type),
            (b"content-length", b"%d" % len(self.body)),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})
