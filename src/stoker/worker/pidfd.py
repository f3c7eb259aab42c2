"""A child process by its file descriptor: its end is seen at once, and signals reach it alone.

The connection to an engine can outlive it in a process that it forked, and a process id may be given to
another process once the first is reaped. A pidfd has neither fault. Where the kernel has none (Linux before
5.3, other systems), the end is seen by the loop's own watching of children.
"""

import asyncio
import contextlib
import os
import signal


class ProcessWatch:
    """Watches one child process on the running event loop; `close` must be called in the end.

    Args:
        process: The child.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ended = asyncio.Event()
        self._fd = _open(process.pid) if process.returncode is None else None
        if self._fd is not None:
            asyncio.get_running_loop().add_reader(self._fd, self._note_end)

    async def wait(self) -> None:
        """Wait until the process has ended; it need not be reaped yet."""
        if self._fd is None:
            await self._process.wait()
        else:
            await self._ended.wait()

    def kill(self) -> None:
        """Send SIGKILL; harmless when the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self._fd is None:
                self._process.kill()
            else:
                signal.pidfd_send_signal(self._fd, signal.SIGKILL)

    def close(self) -> None:
        """Stop watching."""
        self._stop_reading()
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _note_end(self) -> None:
        self._stop_reading()  # it stays readable for ever
        self._ended.set()

    def _stop_reading(self) -> None:
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # no such system call, or the process is reaped already
        return None
