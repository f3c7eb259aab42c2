"""What SIGHUP means: read the settings again, or that the terminal is gone."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Hangups:
    """Takes SIGHUP from now on; made in the main thread.

    One that comes before `serve` is acted on there: while models are pulled there is nothing to reload yet.
    Where this process was started on a terminal, one that comes because that is gone ends it, as it ends any
    program; not so under `nohup`.
    """

    def __init__(self) -> None:
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._needs_terminal = _has_terminal() and not ignored
        self._came_early = False
        signal.signal(signal.SIGHUP, lambda *_: self._early())

    def serve(self, reload: Callable[[], None], end: Callable[[], None]) -> None:
        """Act on hangups from now on; called on the event loop that serves.

        Args:
            reload: Reads the settings again.
            end: Ends the server.
        """

        def hung_up() -> None:
            if self._terminal_is_gone:
                end()
            else:
                reload()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)
        if self._came_early:
            _log.info("SIGHUP came while the models were prepared; the settings are read again now")
            reload()

    @property
    def _terminal_is_gone(self) -> bool:
        return self._needs_terminal and not _has_terminal()

    def _early(self) -> None:
        if self._terminal_is_gone:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            signal.raise_signal(signal.SIGHUP)
        self._came_early = True


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
