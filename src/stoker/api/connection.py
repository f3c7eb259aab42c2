"""One client's connection: uvicorn's HTTP protocol with bounds on what it leaves open.

uvicorn bounds neither the head of a request, nor the number of connections, nor the time that a
client may take for sending a head or for reading an answer. Whatever exceeds a bound here never
reaches the application: it is cut off below it.

It also takes any number of requests that are sent without waiting for their answers, tells only the
last of them when the client leaves, and takes a client that has said all it will say for one that has
left. Here one request waits behind the one that is answered, further bytes wait unparsed, and a
half-closed connection gets its answers.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

_PIECE_BYTES = 8192
"""Bytes parsed at a time: the most in which requests are found after one that must wait."""

_MAX_HELD_BYTES = 65_536
"""Bytes waiting unparsed beyond which a connection is not read: its end is not seen meanwhile."""

_FIRST_PROBE_S = 0.1
_LAST_PROBE_S = 5.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Bounds on connections.

    Attributes:
        max_connections: Most connections at a time; the next one is answered 503 and closed.
        max_head_bytes: Largest head of a request (URL and headers); a larger one is answered 431.
        max_headers: Most headers of a request, likewise.
        head_timeout_s: Longest time from the connection, or from a request's first byte, to the end
            of the request's head; after it the connection is closed.
        write_timeout_s: Longest time that a client leaves the server unable to write; after it the
            connection is cut, which the application sees as a disconnect.
    """

    max_connections: int = 1024
    max_head_bytes: int = 65_536
    max_headers: int = 100
    head_timeout_s: float = 20.0
    write_timeout_s: float = 30.0


class _HeadTooLargeError(Exception):
    """Raised through the parser, which reports it as a malformed request."""


class _HostError(Exception):
    """Likewise."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol within `ConnectionLimits`.

    Args:
        limits: The bounds.
        arguments: What uvicorn gives its protocols.
    """

    def __init__(self, limits: ConnectionLimits, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._head_bytes = 0
        self._unparsed_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None
        self._held = b""
        self._half_closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's too
        """Take the connection, or refuse it if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.max_connections:
            self._refuse(503, "This server has too many connections. Try again later.")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers with the connection, and tell the request that is being answered."""
        self._stop_head_timer()
        self._stop_write_timer()
        self._stop_probe_timer()
        self.pipeline.clear()
        self._held = b""
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, as long as no request waits for the answer to the one before it."""
        if self._held or self.pipeline or len(data) > _PIECE_BYTES:
            self._held += data
            self._parse_held()
        else:
            self._parse(data)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's; uvicorn's says nothing
        """Answer a client that sends no more what it has asked for, unless it has left altogether.

        Both look the same until something is sent: one that has left answers that with a reset. An
        interim response is what HTTP allows at any time before an answer.

        Returns:
            Whether the connection stays open.
        """
        self._half_closed = True
        answering = self._answering
        if answering is None or answering.response_complete or answering.more_body:
            return False
        if answering.scope["http_version"] != "1.1" or self.scheme == "https":
            return False
        self._probe_later(_FIRST_PROBE_S)
        return True

    def _parse_held(self) -> None:
        """Parse bytes that were held back until a request has to wait again."""
        at = 0
        while at < len(self._held) and not self.pipeline and not self.transport.is_closing():
            self._parse(self._held[at : at + _PIECE_BYTES])
            at += _PIECE_BYTES
        self._held = self._held[at:]
        if len(self._held) > _MAX_HELD_BYTES:
            self.flow.pause_reading()
        elif self.pipeline:
            self.flow.resume_reading()  # uvicorn stops reading at the first request that waits

    def _parse(self, data: bytes) -> None:
        """Parse, and count what the parser holds back: it gathers a header until that is complete."""
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head_bytes + self._unparsed_bytes > self._limits.max_head_bytes:
            self._refuse_head()
        if self.cycle is None or self.cycle.response_complete:
            self._await_head()

    def on_message_begin(self) -> None:
        """Begin a request's head."""
        super().on_message_begin()
        self._head_bytes = 0
        self._unparsed_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        self._take(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer of a chunked body."""
        self._take(len(name) + len(value))
        super().on_header(name, value)
        if len(self.headers) > self._limits.max_headers:
            raise _HeadTooLargeError

    def on_headers_complete(self) -> None:
        """End a request's head."""
        self._unparsed_bytes = 0
        self._stop_head_timer()
        n_hosts = sum(name == b"host" for name, _ in self.headers)
        if n_hosts > 1 or (n_hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise _HostError  # RFC 9112, section 3.2
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._unparsed_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """End an answer; a connection that closes after it must be read within the time, too."""
        super().on_response_complete()
        if not self.transport.is_closing() and not self.pipeline and self._held:
            self._parse_held()
        answering = self._answering
        if self._half_closed and (answering is None or answering.response_complete or answering.more_body):
            self.transport.close()
        if self.transport.is_closing():
            self._cut_later()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser could not take."""
        head_bytes, n_headers = self._head_bytes, len(self.headers or ())
        if head_bytes > self._limits.max_head_bytes or n_headers > self._limits.max_headers:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        """The client reads more slowly than is written: give it time."""
        super().pause_writing()
        self._cut_later()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._stop_write_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, even if its last answer was not read: closing would wait for that."""
        self.transport.abort()

    def _take(self, n_bytes: int) -> None:
        self._head_bytes += n_bytes
        self._unparsed_bytes = 0
        if self._head_bytes > self._limits.max_head_bytes:
            raise _HeadTooLargeError

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_timeout_s, self.transport.abort)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _probe_later(self, delay_s: float) -> None:
        self._probe_timer = self.loop.call_later(delay_s, self._probe, delay_s)

    def _probe(self, delay_s: float) -> None:
        """Find out whether the client is still there; the write after a reset ends the connection."""
        answering = self._answering
        if answering is None or self.transport.is_closing():
            return
        if not answering.response_started:
            self.transport.write(_CONTINUE)
        self._probe_later(min(2 * delay_s, _LAST_PROBE_S))

    def _stop_probe_timer(self) -> None:
        if self._probe_timer is not None:
            self._probe_timer.cancel()
            self._probe_timer = None

    def _cut_later(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._limits.write_timeout_s, self.transport.abort)

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _refuse_head(self) -> None:
        self._refuse(
            431,
            f"The request's head is over the limit of {self._limits.max_head_bytes} bytes or "
            f"{self._limits.max_headers} headers.",
        )

    def _refuse(self, status: int, message: str) -> None:
        body = message.encode()
        self.transport.write(
            STATUS_LINE[status] + b"content-type: text/plain; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()
        self._cut_later()
