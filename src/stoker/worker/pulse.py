"""A sign of life during engine calls that take long."""

import time
from collections.abc import Callable, Sequence
from threading import Event, Thread
from types import TracebackType

from stoker.core.protocols import Progressing

PULSE_S = 0.25
"""How often a long engine call is looked at."""


class Pulse:
    """Tells the gateways that a long engine call goes on, so that silence means that it hangs.

    A context around every call. A thread of its own looks at the engines' progress while calls are
    made and sleeps otherwise.

    Args:
        engines: Whose progress is looked at: the served model's, and a draft model's.
        beat: Tells the gateways; called by the thread.
    """

    def __init__(self, engines: Sequence[Progressing], beat: Callable[[], None]) -> None:
        self._engines = engines
        self._beat = beat
        self._in_call = False
        self._wanted = Event()
        Thread(target=self._watch, name="engine-pulse", daemon=True).start()

    def __enter__(self) -> None:
        self._in_call = True
        self._wanted.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in_call = False

    def _watch(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()  # the next call sets it again
            while self._calling():
                seen = self._progress()
                time.sleep(PULSE_S)
                if self._calling() and self._progress() != seen:
                    self._beat()

    def _progress(self) -> int:
        return sum(engine.progress for engine in self._engines)

    def _calling(self) -> bool:
        return self._in_call
