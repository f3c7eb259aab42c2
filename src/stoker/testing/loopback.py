"""A server of our connections on a real socket, in the same event loop, and clients of it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from stoker.api.connection import BoundedProtocol, ConnectionLimits
from stoker.testing.scripted_api import scripted_api
from stoker.testing.waiting import until


@dataclass(slots=True)
class Listening:
    """A server; `state.connections` are those that it has."""

    port: int
    state: ServerState


@asynccontextmanager
async def listening(
    limits: ConnectionLimits, app: ASGIApp | None = None, keep_alive_s: int = 60
) -> AsyncIterator[Listening]:
    """Serve an application (by default a scripted API) on a free port.

    Args:
        limits: Bounds on connections.
        app: The application.
        keep_alive_s: How long an idle connection stays open.
    """
    config = uvicorn.Config(
        app or scripted_api().app, ws="none", lifespan="off", log_config=None, timeout_keep_alive=keep_alive_s
    )
    state = ServerState()

    def protocol() -> BoundedProtocol:
        return BoundedProtocol(limits, config=config, server_state=state, app_state={})

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        yield Listening(server.sockets[0].getsockname()[1], state)
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await until(lambda: not state.connections)


@asynccontextmanager
async def connected(
    server: Listening, client: socket.socket | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to a server, with a socket of one's own if need be."""
    if client is None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    else:
        reader, writer = await asyncio.open_connection(sock=client)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(server: Listening, *pieces: bytes) -> bytes:
    """Send pieces and return all that comes until the server closes the connection."""
    async with connected(server) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 20)


def status_of(answer: bytes) -> int:
    """Return the status of a response."""
    return int(answer.split(b" ", 2)[1])
