"""One gateway's connection, as the engine process sees it."""

import socket
from collections.abc import Callable, Generator
from threading import Lock

from stoker.worker import frames

MAX_UNREAD_BYTES = 64 * 2**20
"""A gateway that leaves this much unread is cut off.

At 100 steps a second of 64 sequences it is what half a minute of tokens with 20 alternatives each
takes, or ten minutes of tokens alone.
"""

READ_BYTES = 256 * 2**10
"""Most bytes taken from a socket at once."""


class Peer:
    """A connected gateway.

    `send` may be called by any thread and never blocks; everything else belongs to the thread that
    owns the sockets. What the kernel does not take at once stays in a bounded buffer, which that
    thread writes when the socket takes more.

    Args:
        connection: The connected socket.
        wake: Called, by any thread, when the owner of the sockets has something to do here.
        max_unread_bytes: Bound of the buffer.
    """

    def __init__(self, connection: socket.socket, wake: Callable[[], None], *, max_unread_bytes: int) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._wake = wake
        self._max_unread_bytes = max_unread_bytes
        self._lock = Lock()
        self._unsent = bytearray()
        self._broken: str | None = None
        self._reader = frames.engine_reader()

    def fileno(self) -> int:
        """Return the file descriptor, for a selector."""
        return self._socket.fileno()

    @property
    def broken(self) -> str | None:
        """Why the connection has to be closed, or None."""
        return self._broken

    @property
    def has_unsent(self) -> bool:
        """Whether `flush` has something to write."""
        return bool(self._unsent)

    def send(self, data: bytes) -> None:
        """Send now what the kernel takes, and keep the rest for `flush`."""
        with self._lock:
            if self._broken is not None:
                return
            n_sent = 0 if self._unsent else self._write(data)
            if n_sent == len(data) and not self._broken:
                return
            self._unsent += data[n_sent:]
            if len(self._unsent) > self._max_unread_bytes:
                self._break(f"it left {len(self._unsent)} bytes unread")
        self._wake()

    def flush(self) -> None:
        """Write what the kernel takes of what is unsent."""
        with self._lock:
            if self._unsent and self._broken is None:
                del self._unsent[: self._write(self._unsent)]

    def read(self) -> bool:
        """Take what has arrived; false at the end of file."""
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError as error:
            with self._lock:
                self._break(str(error))
            return False
        self._reader.feed(data)
        return bool(data)

    def frames(self) -> Generator[frames.ToEngine]:
        """Yield the complete frames among what was read.

        Raises:
            EngineError: What was read is not of this protocol.
        """
        return self._reader.frames()

    def close(self) -> None:
        """Close the socket; later sends do nothing."""
        with self._lock:
            self._break("closed")
            self._socket.close()

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._break(str(error))
            return len(data)

    def _break(self, reason: str) -> None:
        self._broken = self._broken or reason
        self._unsent.clear()
