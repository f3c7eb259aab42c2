"""Targets at the HTTP edge: a connection's bytes, a request's body."""

import asyncio
from collections.abc import Mapping
from functools import cache
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from stoker.api.body import parse_object
from stoker.api.connection import BoundedProtocol, ConnectionLimits
from stoker.api.limits import ApiLimits
from stoker.api.openai.chat_request import parse_chat
from stoker.api.openai.classify import parse_classify
from stoker.api.openai.completion_request import parse_completion
from stoker.api.openai.embedding_request import parse_embedding
from stoker.api.openai.rerank_request import parse_rerank, parse_score
from stoker.api.openai.text_jobs import ParseTextJob
from stoker.testing.scripted_api import scripted_api

_LIMITS = ApiLimits()
_PARSE_TEXTS: Mapping[bytes, ParseTextJob] = {
    b"e": parse_embedding,
    b"l": parse_classify,
    b"r": parse_rerank,
    b"s": parse_score,
}
_CONNECTION_LIMITS = ConnectionLimits(max_head_bytes=4096, max_headers=20)
_TURNS = 40
"""Turns of the event loop that a few pipelined requests are given."""


def request(data: bytes) -> None:
    """Parse a body; its first byte says for which endpoint."""
    body = parse_object(data[1:], max_depth=_LIMITS.max_json_depth)
    if (parse_texts := _PARSE_TEXTS.get(data[:1])) is not None:
        parse_texts(body, _LIMITS, "1")
        return
    parse = parse_chat if data[:1] <= b"m" else parse_completion
    job = parse(body, _LIMITS, "1")
    if not 1 <= job.n_choices <= _LIMITS.max_choices:
        raise AssertionError(f"{job.n_choices} choices")


class _Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in {"peername", "sockname"} else default

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@cache
def _server() -> tuple[asyncio.AbstractEventLoop, uvicorn.Config, list[str]]:
    """One event loop and application for all inputs, and what goes wrong in it."""
    loop = asyncio.new_event_loop()
    faults: list[str] = []
    loop.set_exception_handler(lambda _, context: faults.append(str(context)))
    config = uvicorn.Config(scripted_api().app, ws="none", lifespan="off", log_config=None)
    config.load()
    return loop, config, faults


def connection(data: bytes) -> None:
    """Feed a connection, in two pieces, and let the application answer what comes out of it."""
    loop, config, faults = _server()
    cut = data[0] if data else 0
    wire = _Wire()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(_talk(config, wire, (data[1 : 1 + cut], data[1 + cut :])))
    if faults:
        raise AssertionError(faults.pop())
    if wire.written and not wire.written.startswith(b"HTTP/1.1 "):
        raise AssertionError("an answer that is not HTTP")
    if b"500 Internal" in wire.written:
        raise AssertionError(bytes(wire.written[:1000]))


async def _talk(config: uvicorn.Config, wire: _Wire, pieces: tuple[bytes, bytes]) -> None:
    state = ServerState()
    protocol = BoundedProtocol(_CONNECTION_LIMITS, config=config, server_state=state, app_state={})
    protocol.connection_made(wire)
    for piece in pieces:
        if piece and not wire.is_closing():
            protocol.data_received(piece)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.gather(*state.tasks)
