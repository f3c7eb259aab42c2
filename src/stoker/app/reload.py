"""Settings that are read again while the server runs."""

import asyncio
import logging
from collections.abc import Callable

from stoker.config import Effect, Settings, SettingsSource, changed, effect_of, reloaded
from stoker.core.errors import SettingsError

WATCH_S = 2.0
"""How often the settings file is looked at."""

_log = logging.getLogger(__name__)

_Version = tuple[int, int, int] | None
"""Time, size and inode of a file, or None if there is none."""


class Reloader:
    """The settings that hold now, and how they are replaced.

    Args:
        source: Where they are read.
    """

    def __init__(self, source: SettingsSource) -> None:
        self._source = source
        self._version = self._look()
        self.current = source.load()

    def reload(self, apply: Callable[[Settings], None]) -> None:
        """Read the settings again; if anything is wrong with them, nothing changes.

        Args:
            apply: Puts new settings into effect; raises `SettingsError` before it has changed anything.
        """
        self._version = self._look()
        try:
            read = self._source.load()
            new = reloaded(self.current, read)
            names = changed(self.current, new)
            waiting = [name for name in changed(self.current, read) if effect_of(name) is Effect.RESTART]
            if names:
                apply(new)
        except SettingsError as error:
            _log.error("the settings are not reloaded, nothing changes: %s", error)
            return
        self.current = new
        _log.info("the settings are reloaded; changed: %s", ", ".join(names) or "nothing")
        later = [name for name in names if effect_of(name) is Effect.LOAD]
        if later:
            _log.info("these settings hold for models that are loaded from now on: %s", ", ".join(later))
        if waiting:
            _log.warning("these settings have changed and need a restart: %s", ", ".join(waiting))

    async def watch(self, reload: Callable[[], None], *, every_s: float = WATCH_S) -> None:
        """Call `reload` whenever the settings file has changed, for ever."""
        while True:
            await asyncio.sleep(every_s)
            if self._look() != self._version:
                reload()

    def _look(self) -> _Version:
        try:
            found = self._source.file.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
