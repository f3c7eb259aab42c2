"""One HTTP request on a connection of its own: asyncio's transport and httptools, and nothing between.

The load generator shares its machine with the server that it measures, so it must cost as little as it can; a
client library's objects, locks and pools cost several times what reading a small event does.
"""

import asyncio
import time
from collections.abc import Callable
from ssl import SSLContext
from typing import Self, cast

import httptools

from stoker.measure.answer import Fault

MAX_HEADERS_BYTES = 1 << 16
MAX_ANSWER_BYTES = 64 << 20

CONNECT_TIMEOUT_S = 10.0


class Exchange(asyncio.Protocol):
    """Sends one request and hands on the answer's body as it comes; use `Exchange.run`.

    Args:
        request: Head and body.
        on_body: Takes each piece of the body and the time at which it arrived (of `time.perf_counter`); what
            it raises ends the exchange.

    Attributes:
        status: Of the answer; 0 before it is known.
        headers: Of the answer, by name in lower case.
        sent_s: When the request was handed to the kernel.
    """

    def __init__(self, request: bytes, on_body: Callable[["Exchange", bytes, float], None]) -> None:
        self._request = request
        self._on_body = on_body
        self._parser = httptools.HttpResponseParser(self)
        self._ended = asyncio.get_running_loop().create_future()
        self._now_s = 0.0
        self._n_head_bytes = 0
        self._n_bytes = 0
        self._in_body = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.sent_s = time.perf_counter()

    @classmethod
    async def run(
        cls,
        address: tuple[str, int],
        tls: SSLContext | None,
        request: bytes,
        on_body: Callable[["Exchange", bytes, float], None],
    ) -> Self:
        """Do the whole exchange; cancelling it closes the connection.

        Raises:
            Fault: It failed, or `on_body` raised it.
        """
        started_s = time.perf_counter()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                transport, self = await asyncio.get_running_loop().create_connection(
                    lambda: cls(request, on_body), *address, ssl=tls
                )
        except TimeoutError as error:
            raise Fault("connect", f"no connection in {CONNECT_TIMEOUT_S:.0f} s") from error
        except OSError as error:
            raise Fault("connect", str(error)) from error
        self.sent_s = started_s
        try:
            await self._ended
        finally:
            transport.abort()
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request."""
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._ended.done():
            return
        self._now_s = time.perf_counter()
        self._n_bytes += len(data)
        if not self._in_body:
            self._n_head_bytes += len(data)
        if self._n_bytes > MAX_ANSWER_BYTES or self._n_head_bytes > MAX_HEADERS_BYTES:
            self._end(Fault("too_large", f"more than {MAX_ANSWER_BYTES >> 20} MiB, or too long a head"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # What a callback raised is what the parser's own error was made of.
            cause = error.__context__
            unread = Fault("not_http", f"the answer is not HTTP: {error}")
            self._end(cause if isinstance(cause, Fault) else unread)

    def connection_lost(self, exc: Exception | None) -> None:
        """See whether all had come."""
        if self._ended.done():
            return
        if (
            exc is None
            and self._in_body
            and not {"content-length", "transfer-encoding"} & self.headers.keys()
        ):
            self._end(None)  # such a body ends with its connection
        else:
            state = (
                "in its body" if self._in_body else "before it began" if not self._n_bytes else "in its head"
            )
            self._end(Fault("cut_off", f"the connection ended {state}{f': {exc}' if exc else ''}"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header (called by the parser)."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Keep the status (called by the parser)."""
        self.status = self._parser.get_status_code()
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        """Hand on a piece of the body (called by the parser)."""
        self._on_body(self, body, self._now_s)

    def on_message_complete(self) -> None:
        """End (called by the parser)."""
        self._end(None)

    def _end(self, fault: Fault | None) -> None:
        if self._ended.done():
            return
        if fault is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(fault)
