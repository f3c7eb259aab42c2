"""The sockets of the engine process: one thread, one selector."""

import contextlib
import logging
import os
import selectors
import socket
import time
from collections.abc import Callable
from pathlib import Path

from stoker.core.errors import EngineError
from stoker.worker import frames
from stoker.worker.mailbox import Letter, Mailbox, PeerChange
from stoker.worker.peer import MAX_UNREAD_BYTES, Peer

MAX_PEERS = 64
"""Most gateways connected at once."""

ACCEPT_PAUSE_S = 0.1
"""Pause after a connection could not be accepted: it would be tried again at once, without end."""

_log = logging.getLogger(__name__)


class Server:
    """Accepts gateways, reads their frames into a mailbox and writes what is left unsent.

    Only `wake` and the peers' `send` may be called by other threads.

    Args:
        socket_path: Where to listen; nothing may be there. The socket is for this user alone.
        incarnation: Number of this engine process; frames for another are a fault.
        max_unread_bytes: A gateway that leaves more than this unread is cut off.

    Attributes:
        mailbox: Where frames go.
    """

    def __init__(
        self, socket_path: Path, incarnation: int, *, max_unread_bytes: int = MAX_UNREAD_BYTES
    ) -> None:
        self._max_unread_bytes = max_unread_bytes
        self.mailbox = Mailbox(self.wake)
        self._incarnation = incarnation
        self._peers: list[Peer] = []
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, self._drain_wakes)
        self._farewell: bytes | None = None
        self._listener = _listen(socket_path)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def wake_fileno(self) -> int:
        """A byte written here wakes `run`, as `signal.set_wakeup_fd` does."""
        return self._wake_writer.fileno()

    def wake(self) -> None:
        """Make `run` look at everything once more; for any thread."""
        with contextlib.suppress(BlockingIOError):  # then enough wakes are pending
            self._wake_writer.send(b"\0")

    def watch(self, fileno: int, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `fileno` can be read."""
        self._selector.register(fileno, selectors.EVENT_READ, callback)

    def unwatch(self, fileno: int) -> None:
        """Stop watching `fileno`."""
        self._selector.unregister(fileno)

    def run(self, until: Callable[[], bool]) -> None:
        """Serve until `until()` is true; it is looked at after every wake."""
        while not until():
            self._serve_once(None)

    def say_farewell(self, frame: frames.Fatal, *, within_s: float) -> bool:
        """Send a last frame to every gateway, and to those that connect meanwhile.

        Ends when at least one gateway is there and everything is sent, or after `within_s`; returns
        which.
        """
        self._farewell = frames.encode(frame)
        for peer in self._peers:
            peer.send(self._farewell)
        deadline = time.monotonic() + within_s
        while not self._peers or any(peer.has_unsent for peer in self._peers):
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                return False
            self._serve_once(remaining_s)
        return True

    def close(self) -> None:
        """Stop listening and hang up on every gateway."""
        for peer in self._peers:
            peer.close()
        for ours in (self._listener, self._wake_reader, self._wake_writer):
            ours.close()
        self._selector.close()

    def _serve_once(self, timeout_s: float | None) -> None:
        for key, events in self._selector.select(timeout_s):
            if isinstance(key.data, Peer):
                self._serve_peer(key.data, events)
            else:
                key.data()
        for peer in list(self._peers):
            self._look_after(peer)

    def _serve_peer(self, peer: Peer, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            peer.flush()
        if events & selectors.EVENT_READ and not peer.read():
            self._drop(peer)

    def _look_after(self, peer: Peer) -> None:
        """Deliver what was read, and wait for what the peer needs next."""
        try:
            self._deliver(peer)
        except EngineError as error:
            _log.warning("a gateway is cut off: %s", error)
            self._drop(peer)
            return
        if peer.broken is not None:
            _log.warning("a gateway is cut off: %s", peer.broken)
            self._drop(peer)
            return
        wanted = 0 if self.mailbox.full else selectors.EVENT_READ
        if peer.has_unsent:
            wanted |= selectors.EVENT_WRITE
        self._want(peer, wanted)

    def _want(self, peer: Peer, wanted: int) -> None:
        key = self._selector.get_map().get(peer)
        if key is None:
            if wanted:
                self._selector.register(peer, wanted, peer)
        elif not wanted:
            self._selector.unregister(peer)
        elif key.events != wanted:
            self._selector.modify(peer, wanted, peer)

    def _deliver(self, peer: Peer) -> None:
        with contextlib.closing(peer.frames()) as arrived:
            while not self.mailbox.full and (frame := next(arrived, None)) is not None:
                if frame.incarnation != self._incarnation:
                    raise EngineError(
                        f"it takes this engine for incarnation {frame.incarnation}, not {self._incarnation}"
                    )
                self.mailbox.put(Letter(peer, frame))

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it left before it was accepted
            return
        except OSError as error:  # such as too few file descriptors; it stays in the queue
            _log.warning("a gateway cannot be accepted yet: %s", error)
            time.sleep(ACCEPT_PAUSE_S)
            return
        if len(self._peers) >= MAX_PEERS:
            _log.warning("a gateway is turned away: %d are connected", MAX_PEERS)
            connection.close()
            return
        peer = Peer(connection, self.wake, max_unread_bytes=self._max_unread_bytes)
        self._peers.append(peer)
        if self._farewell is not None:
            peer.send(self._farewell)
        self.mailbox.put(Letter(peer, PeerChange.CONNECTED))

    def _drop(self, peer: Peer) -> None:
        self._want(peer, 0)
        self._peers.remove(peer)
        peer.close()
        self.mailbox.put(Letter(peer, PeerChange.DISCONNECTED))

    def _drain_wakes(self) -> None:
        self._wake_reader.recv(4096)


def _listen(socket_path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)  # the socket is born with mode 0600; no moment for anyone else
    try:
        listener.bind(str(socket_path))
    finally:
        os.umask(umask)
    listener.listen()
    listener.setblocking(False)
    return listener
