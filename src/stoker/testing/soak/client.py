"""One request of a soak, sent by a client of some manner, and what became of it."""

import asyncio
import socket
import time
from dataclasses import dataclass
from enum import Enum

import httpx2
import orjson

from stoker.testing.soak.answers import Told, difference, difference_of_beginning, parse
from stoker.testing.soak.asks import Ask

_OK = 200
_REFUSALS = {429, 503}
_SLOW_PAUSE_S = 0.05
_DONE = "data: [DONE]"


class Manner(Enum):
    """How a client behaves."""

    READS = "reads"
    SLOW = "reads slowly, through a small buffer"
    LEAVES = "leaves after some of the answer"
    ABORTS = "leaves before the answer begins"


class Ending(Enum):
    """What became of a request."""

    COMPLETE = "complete"
    LEFT = "left"
    REFUSED = "refused"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        ask: Name of the request.
        manner: How its client behaved.
        ending: What became of it.
        status: HTTP status; 0 if there was none.
        detail: Of a refusal its code, of a wrong ending what was wrong.
        retry_after_s: Of a refusal: when to try again.
        seconds: From sending to the end.
        n_tokens: Tokens of a complete answer.
        longest_pause_s: Longest time between two pieces of the answer.
        began_s: When it was sent, in seconds since the load began.
    """

    ask: str
    manner: Manner
    ending: Ending
    status: int = 0
    detail: str = ""
    retry_after_s: float = 1.0
    seconds: float = 0.0
    n_tokens: int = 0
    longest_pause_s: float = 0.0
    began_s: float = 0.0


def make_client(url: str, *, slow: bool = False) -> httpx2.AsyncClient:
    """Return a client without limits of its own; a slow one's socket buffers little."""
    options = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)] if slow else None
    transport = httpx2.AsyncHTTPTransport(
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=8), socket_options=options
    )
    headers = {"content-type": "application/json"}
    return httpx2.AsyncClient(base_url=url, transport=transport, headers=headers, timeout=None)


async def told_by(client: httpx2.AsyncClient, ask: Ask) -> Told:
    """Return the answer to a request, read at once.

    Raises:
        RuntimeError: It was refused, or failed.
    """
    told = Told()
    async with client.stream("POST", ask.path, content=orjson.dumps(ask.sent)) as response:
        if response.status_code != _OK:
            raise RuntimeError(f"{ask.name}: {response.status_code} {await response.aread()!r}")
        async for line in response.aiter_lines():
            _take(told, line)
    if told.error is not None or not told.done:
        raise RuntimeError(f"{ask.name}: {told.error or 'not done'}")
    return told


async def perform(
    client: httpx2.AsyncClient,
    ask: Ask,
    reference: Told,
    manner: Manner,
    *,
    load_began_s: float,
    patience_s: float,
    leave_after: int = 0,
) -> Outcome:
    """Send a request, read its answer, and compare it with the reference.

    Args:
        client: Made by `make_client`.
        ask: The request.
        reference: Its answer.
        manner: How the client behaves.
        load_began_s: When the load began, on the monotonic clock.
        patience_s: One that has not ended after so long is wrong.
        leave_after: Who leaves does it after so many pieces; who aborts, after so many hundredths of a
            second.
    """
    started = time.monotonic()
    reading = _Reading()
    try:
        async with asyncio.timeout(patience_s):
            ending, detail = await _perform(
                client, ask, reference, manner, leave_after=leave_after, reading=reading
            )
    except TimeoutError:
        ending, detail = Ending.WRONG, f"it did not end within {patience_s:g} s"
    except httpx2.HTTPError as error:
        ending, detail = Ending.WRONG, f"the connection broke: {error!r}"
    return Outcome(
        ask.name,
        manner,
        ending,
        status=reading.status,
        detail=detail,
        retry_after_s=reading.retry_after_s,
        seconds=time.monotonic() - started,
        n_tokens=int(reading.told.usage[1]) if reading.told.usage is not None else 0,
        longest_pause_s=reading.longest_pause_s,
        began_s=started - load_began_s,
    )


class _Reading:
    """What has been read so far; outlives an exception."""

    def __init__(self) -> None:
        self.told = Told()
        self.status = 0
        self.retry_after_s = 1.0
        self.longest_pause_s = 0.0
        self._last_s: float | None = None

    def piece(self) -> None:
        now = time.monotonic()
        if self._last_s is not None:
            self.longest_pause_s = max(self.longest_pause_s, now - self._last_s)
        self._last_s = now


async def _perform(
    client: httpx2.AsyncClient,
    ask: Ask,
    reference: Told,
    manner: Manner,
    *,
    leave_after: int,
    reading: _Reading,
) -> tuple[Ending, str]:
    sending = client.stream("POST", ask.path, content=orjson.dumps(ask.sent))
    if manner is Manner.ABORTS:
        try:
            async with asyncio.timeout(leave_after / 100), sending as response:
                reading.status = response.status_code
                return (Ending.LEFT, "") if reading.status == _OK else await _refusal(response)
        except TimeoutError:
            return Ending.LEFT, ""
    told = reading.told
    async with sending as response:
        reading.status = response.status_code
        if response.status_code != _OK:
            reading.retry_after_s = float(response.headers.get("retry-after", 1))
            return await _refusal(response)
        n_pieces = 0
        async for line in response.aiter_lines():
            if not line:
                continue
            reading.piece()
            _take(told, line)
            n_pieces += 1
            if manner is Manner.LEAVES and n_pieces > leave_after and not told.done:
                wrong = difference_of_beginning(told, reference)
                return (Ending.LEFT, "") if wrong is None else (Ending.WRONG, wrong)
            if manner is Manner.SLOW:
                await asyncio.sleep(_SLOW_PAUSE_S)
    wrong = difference(told, reference)
    return (Ending.COMPLETE, "") if wrong is None else (Ending.WRONG, wrong)


async def _refusal(response: httpx2.Response) -> tuple[Ending, str]:
    body = await response.aread()
    if response.status_code not in _REFUSALS:
        return Ending.WRONG, f"status {response.status_code}: {body[:500]!r}"
    return Ending.REFUSED, str(parse(body.decode())["error"]["code"])


def _take(told: Told, line: str) -> None:
    """Take in a line of an answer: of a stream's events, or the one of a whole answer."""
    if line == _DONE:
        told.done = True
    elif line.startswith("{"):
        told.add(parse(line))
        told.done = True
    elif line:
        told.add(parse(line.removeprefix("data: ")))
