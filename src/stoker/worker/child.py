"""One engine process and the connection to it, from start to reaping."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from stoker.core.errors import EngineDiedError, EngineError
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig
from stoker.worker.pidfd import ProcessWatch

ENGINE_COMMAND = (sys.executable, "-P", "-m", "stoker.worker")
"""Starts an engine process; `-P` keeps the working directory out of its imports."""

_STDERR = 2

LAST_WORDS_S = 0.5
"""How long a dead process's last frame may take to arrive."""


class EngineChild:
    """A running engine process that is ready; made by `start`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        watch: ProcessWatch,
        client: EngineClient,
        socket_path: Path,
    ) -> None:
        self._process = process
        self._watch = watch
        self._socket_path = socket_path
        self.client = client

    @classmethod
    async def start(
        cls, config: EngineConfig, socket_path: Path, *, command: Sequence[str], timeout_s: float
    ) -> "EngineChild":
        """Start a process and wait until it is ready; on failure nothing is left of it.

        Args:
            config: Settings of the engine; the socket and the parent are filled in here.
            socket_path: Where it shall listen; nothing is there yet.
            command: Program and arguments.
            timeout_s: Time to become ready.

        Raises:
            StokerError: The engine could not start; the class and the message are its own.
            EngineDiedError: It ended without a reason.
            EngineError: It could not be started at all, or was not ready in time.
        """
        settings = msgspec.structs.replace(config, socket_path=socket_path, parent_pid=os.getpid())
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=_STDERR,  # ours is for what a command prints
                start_new_session=True,  # the terminal's Ctrl-C is for the gateway alone
            )
        except OSError as error:
            raise EngineError(f"the engine process cannot be started: {error}") from error
        watch = ProcessWatch(process)
        try:
            if process.stdin is not None and not process.stdin.is_closing():
                process.stdin.write(settings.to_line())  # and leave it open: its end of file is our death
            client = await _first_words(watch, socket_path, timeout_s)
        except EngineDiedError as error:
            await _end(process, watch, socket_path, grace_s=LAST_WORDS_S)
            raise EngineDiedError(
                f"the engine process ended before it was ready ({describe_exit(process.returncode)});"
                " what it printed says why"
            ) from error
        except OSError as error:
            await _end(process, watch, socket_path, grace_s=0.0)
            raise EngineError(f"the engine process cannot be connected to: {error}") from error
        except BaseException:
            await _end(process, watch, socket_path, grace_s=0.0)
            raise
        return cls(process, watch, client, socket_path)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    async def wait(self) -> str:
        """Wait until the engine is gone, reap it, and return why in words.

        It is gone when its process has ended, though a process of its own may keep the connection open.
        """
        closing = asyncio.ensure_future(self.client.wait_closed())
        exiting = asyncio.ensure_future(self._watch.wait())
        try:
            await asyncio.wait((closing, exiting), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((closing,), timeout=LAST_WORDS_S)
            await self.client.close("the engine process ended")
            reason = await closing
        finally:
            for task in (closing, exiting):
                task.cancel()
            await asyncio.wait((closing, exiting))
        await _end(self._process, self._watch, self._socket_path, grace_s=LAST_WORDS_S)
        return f"{reason} ({describe_exit(self._process.returncode)})"

    async def stop(self, *, grace_s: float) -> None:
        """End the process: by the end of its input, then after `grace_s` for certain; reap it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await _end(self._process, self._watch, self._socket_path, grace_s=grace_s)
        await self.client.close()


def describe_exit(returncode: int | None) -> str:
    """Return how a process ended, in words."""
    if returncode is None:
        return "it is still running"
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


async def _first_words(watch: ProcessWatch, socket_path: Path, timeout_s: float) -> EngineClient:
    """Return the connection once the engine says that it is ready."""
    connecting = asyncio.ensure_future(EngineClient.connect(socket_path))
    exiting = asyncio.ensure_future(watch.wait())
    try:
        await asyncio.wait((connecting, exiting), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if exiting.done():
            await asyncio.wait((connecting,), timeout=LAST_WORDS_S)
        if connecting.done():
            return connecting.result()
        if exiting.done():
            raise EngineDiedError("the engine process ended without a word")
        raise EngineError(f"the engine process was not ready within {timeout_s:g} s")
    finally:
        for task in (connecting, exiting):
            task.cancel()
        await asyncio.wait((connecting, exiting))


async def _end(
    process: asyncio.subprocess.Process, watch: ProcessWatch, socket_path: Path, *, grace_s: float
) -> None:
    """Wait `grace_s` for the process, then kill it; reap it and remove its socket.

    If this is cancelled, nothing is waited for any more, but the process is killed and reaped all the same.
    """
    if process.stdin is not None:
        process.stdin.close()  # or reaping would wait for whoever else holds its other end
    try:
        async with asyncio.timeout(grace_s):  # Python 3.11's `wait_for` can swallow a cancellation
            await process.wait()
    except TimeoutError:
        watch.kill()
        await _reap(process)
    except asyncio.CancelledError:
        watch.kill()
        await _reap(process)
        raise
    finally:
        watch.close()
        _remove(socket_path)


async def _reap(process: asyncio.subprocess.Process) -> None:
    """Wait for a process that was killed, even if this is cancelled meanwhile: it takes a moment."""
    cancelled: asyncio.CancelledError | None = None
    while process.returncode is None:
        try:
            await process.wait()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _remove(socket_path: Path) -> None:
    socket_path.unlink(missing_ok=True)
