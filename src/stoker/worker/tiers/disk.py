"""The thread that alone touches the disk: reads before writes, and an outcome for each."""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition, Thread

from stoker.core.errors import CorruptFileError
from stoker.kvcache import Transfer
from stoker.worker.tiers.folder import KVFolder

FOUND_AT_ONCE = 4096
"""Names that are told together, so that noting them takes no longer than a moment."""

NUDGE_EVERY = 16
"""After so many reads the engine's loop is woken, if more are to be done; else after the last."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """Files that are there; `last` when all of them have been told."""

    names: Sequence[bytes]
    last: bool


@dataclass(frozen=True, slots=True)
class ReadEnd:
    """A read is over: the block is in its slot, or not (`failed` unless it is merely not there)."""

    name: bytes
    arrived: bool
    failed: bool = False


@dataclass(frozen=True, slots=True)
class WriteEnd:
    """A write is over; `removed` are the files that made room for it, `error` says why it failed."""

    name: bytes
    removed: Sequence[bytes] = ()
    error: str | None = None


Outcome = Found | ReadEnd | WriteEnd


class DiskThread:
    """Reads and writes slots while the engine computes; its queue is as long as `TierBooks` lets it be.

    Args:
        folder: The files; the thread's own from now on.
        slot: Returns the memory of a slot.
        nudge: Called by the thread when there are outcomes.
    """

    def __init__(
        self, folder: KVFolder, slot: Callable[[int], memoryview], nudge: Callable[[], None]
    ) -> None:
        self._folder = folder
        self._slot = slot
        self._nudge = nudge
        self._changed = Condition()
        self._reads: deque[Transfer] = deque()
        self._writes: deque[Transfer] = deque()
        self._outcomes: deque[Outcome] = deque()
        self._closed = False
        self._thread = Thread(target=self._run, name="kv-disk", daemon=True)
        self._thread.start()

    def submit(self, reads: Sequence[Transfer], writes: Sequence[Transfer]) -> None:
        """Queue transfers; never blocks."""
        with self._changed:
            self._reads.extend(reads)
            self._writes.extend(writes)
            self._changed.notify()

    def outcomes(self) -> list[Outcome]:
        """Take what has ended since the last call."""
        taken = []
        while self._outcomes:
            taken.append(self._outcomes.popleft())
        return taken

    def close(self, *, within_s: float) -> None:
        """Finish what is queued, as far as the time suffices."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(within_s)

    def _run(self) -> None:
        self._scan()
        n_read = 0
        while (job := self._next()) is not None:
            transfer, is_read = job
            outcome = self._read(transfer) if is_read else self._write(transfer)
            self._outcomes.append(outcome)
            n_read += is_read
            if not self._reads or n_read % NUDGE_EVERY == 0:
                self._nudge()

    def _next(self) -> tuple[Transfer, bool] | None:
        with self._changed:
            while not (self._reads or self._writes or self._closed):
                self._changed.wait()
            if self._reads:
                return self._reads.popleft(), True
            return (self._writes.popleft(), False) if self._writes else None

    def _scan(self) -> None:
        names: list[bytes] = []
        try:
            names = self._folder.scan()
        except OSError as error:
            _log.warning("the KV files in %s cannot be found: %s", self._folder.folder, error)
        for start in range(0, len(names), FOUND_AT_ONCE):
            self._outcomes.append(Found(names[start : start + FOUND_AT_ONCE], last=False))
        self._outcomes.append(Found((), last=True))
        self._nudge()

    def _read(self, transfer: Transfer) -> ReadEnd:
        name = transfer.link.name
        try:
            self._folder.read(transfer.link, self._slot(transfer.slot))
        except FileNotFoundError:
            return ReadEnd(name, arrived=False)
        except CorruptFileError as error:
            _log.warning("%s", error)
            self._folder.remove(name)
        except OSError as error:
            _log.warning("a KV file cannot be read: %s", error)
        else:
            return ReadEnd(name, arrived=True)
        return ReadEnd(name, arrived=False, failed=True)

    def _write(self, transfer: Transfer) -> WriteEnd:
        try:
            removed = self._folder.write(transfer.link, self._slot(transfer.slot))
        except OSError as error:
            return WriteEnd(transfer.link.name, error=str(error))
        return WriteEnd(transfer.link.name, removed)
