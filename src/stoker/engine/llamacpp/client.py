"""Completions by llama.cpp's own server, which listens on a Unix socket inside the engine process.

The wheel's Python calls have one thread each and a shape without token ids; its server takes any number
of requests from one thread, and the native form of its answers.
"""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from stoker.core.errors import EngineError

READ_BYTES = 2**16
_HEAD_END = b"\r\n\r\n"
_OK = b"200"


class CompletionClient:
    """Posts completions side by side and gathers their answers.

    Args:
        socket_path: Where the server listens.
        key: What it asks its clients for.
    """

    def __init__(self, socket_path: Path, key: str) -> None:
        self._socket_path = socket_path
        self._key = key.encode()

    def complete(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the answers to requests that the server computes together; numpy arrays become lists.

        Raises:
            EngineError: The server refused one, or is gone.
        """
        connections: list[socket.socket] = []
        try:
            for body in bodies:
                connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connections.append(connection)
                connection.connect(str(self._socket_path))
                connection.sendall(self._request(body))
            return [_answer(_read(connection)) for connection in connections]
        except OSError as error:
            raise EngineError(f"llama.cpp's server cannot be reached: {error}") from error
        finally:
            for connection in connections:
                connection.close()

    def close(self) -> None:
        """Remove the socket, which the server leaves behind."""
        self._socket_path.unlink(missing_ok=True)

    def _request(self, body: dict[str, Any]) -> bytes:
        content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
        head = (
            b"POST /completion HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n"
            b"Authorization: Bearer %b\r\nContent-Type: application/json\r\nContent-Length: %d"
        )
        return head % (self._key, len(content)) + _HEAD_END + content


def _read(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(READ_BYTES):
        parts.append(part)
    return b"".join(parts)


def _answer(response: bytes) -> dict[str, Any]:
    head, _, content = response.partition(_HEAD_END)
    status = head.split(maxsplit=2)[1:2]
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise EngineError(f"llama.cpp's server broke off with {response[:200]!r}") from error
    if status != [_OK] or not isinstance(answer, dict):
        raise EngineError(f"llama.cpp refused a step: {content[:500].decode(errors='replace')}")
    return answer
