"""Moves KV blocks between the engine, host memory and the disk's thread, as the books say."""

import logging
import mmap
import time
from collections.abc import Callable
from contextlib import suppress

from stoker.core.errors import OutOfMemoryError
from stoker.core.protocols import MovableBlocks
from stoker.kvcache import TierBooks
from stoker.worker.tiers.disk import DiskThread, Found, ReadEnd, WriteEnd
from stoker.worker.tiers.folder import KVFolder

MOVED_BYTES = 32 << 20
"""About so much is restored, or saved to be written, in a step in which others compute."""

QUEUE_BYTES = 64 << 20
"""About so much is in the hands of the disk's thread at a time, to be read and to be written each."""

MAX_QUEUED = 1024
"""And no more blocks than these, however small they are."""

PAUSE_S = 60.0
"""After a failed write none is tried for so long."""

LAST_WRITES_S = 1.0
"""At the end blocks are still written for so long, which is less than an engine has for ending."""

_LAST_CHECK_S = 0.005

_COPIED_AT_ONCE = 256

_NORESERVE = 0x4000
"""Linux's MAP_NORESERVE, which Python 3.11 has no name for."""

_log = logging.getLogger(__name__)


def blocks_per_step(block_bytes: int) -> int:
    """Return how many blocks a step restores, or saves to be written, while others compute."""
    return max(1, MOVED_BYTES // max(1, block_bytes))


def make_books(*, block_bytes: int, host_bytes: int, disk: bool) -> TierBooks:
    """Return the books for so much host memory; with a disk, what is in its thread's hands fits there."""
    n_queued = min(max(1, QUEUE_BYTES // block_bytes), MAX_QUEUED)
    n_slots = host_bytes // block_bytes
    return TierBooks(
        max(n_slots, 2 * n_queued) if disk else n_slots, disk=disk, max_reads=n_queued, max_writes=n_queued
    )


class BlockMover:
    """Owns host memory; used by the thread that owns engine and books.

    Around a step: `note_outcomes`, schedule, `move`, forward.

    Args:
        books: What is where.
        engine: Where blocks are computed.
        folder: The disk tier; None without one.
        nudge: Wakes the engine's loop, from any thread.

    Raises:
        OutOfMemoryError: The system does not give the memory.

    Attributes:
        books: As given.
    """

    def __init__(
        self,
        books: TierBooks,
        engine: MovableBlocks,
        folder: KVFolder | None,
        nudge: Callable[[], None],
    ) -> None:
        self.books = books
        self._engine = engine
        self._block_bytes = engine.kv_block_bytes
        self._map = _reserve(books.n_slots * self._block_bytes)
        self._memory = memoryview(self._map)[: books.n_slots * self._block_bytes]
        self._resume_at: float | None = None
        self._told = False
        self._disk = None if folder is None else DiskThread(folder, self._slot, nudge)

    def note_outcomes(self, now: float) -> None:
        """Tell the books what the disk's thread has done."""
        books = self.books
        if self._disk is None:
            return
        for outcome in self._disk.outcomes():
            match outcome:
                case Found(names, last):
                    books.found(names)
                    if last:
                        books.scanned()
                case ReadEnd(name, arrived, failed):
                    if arrived:
                        books.arrived(name)
                    else:
                        books.missing(name, failed=failed)
                case WriteEnd(name, removed, error):
                    books.removed(removed)
                    books.written(name, done=error is None)
                    self._judge(error, now)
        if self._resume_at is not None and now >= self._resume_at:
            self._resume_at = None
            books.writing = True

    @property
    def copies(self) -> bool:
        """Whether `move` has anything to copy."""
        return bool(self.books.saves or self.books.loads)

    def move(self) -> None:
        """Copy what the books say, and hand the disk's thread its share; before the next forward."""
        books = self.books
        _in_parts(self._engine.save_blocks, list(books.saves.values()), list(books.saves), self._memory)
        books.saves.clear()
        _in_parts(self._engine.load_blocks, list(books.loads), list(books.loads.values()), self._memory)
        books.loads.clear()
        if self._disk is not None:
            writes = books.next_writes()
            if books.reads or writes:
                self._disk.submit(books.reads, writes)
                books.reads.clear()

    def save_evicted(self) -> None:
        """Copy out what was evicted since `move`, before it is overwritten."""
        if self.copies:
            self.move()

    def flush(self, save_more: Callable[[], bool]) -> None:
        """Write what is to be written, for a moment: nothing is computed any more.

        Args:
            save_more: Tells the books of further blocks, and returns whether there are still more.
        """
        deadline_s = time.monotonic() + LAST_WRITES_S
        while self.books.writing and (save_more() or self.books.n_dirty) and time.monotonic() < deadline_s:
            self.move()
            time.sleep(_LAST_CHECK_S)
            self.note_outcomes(time.monotonic())

    def close(self) -> None:
        """Let the disk's thread write what it has, for a moment."""
        if self._disk is not None:
            self._disk.close(within_s=LAST_WRITES_S / 2)

    def _slot(self, slot: int) -> memoryview:
        return self._memory[slot * self._block_bytes : (slot + 1) * self._block_bytes]

    def _judge(self, error: str | None, now: float) -> None:
        """Stop writing for a while after a failure, and say so once until a write succeeds."""
        if error is None:
            if self._told and self._resume_at is None:
                self._told = False
                _log.warning("KV blocks are written to the disk again")
            return
        self.books.stop_writing()
        self._resume_at = now + PAUSE_S
        if not self._told:
            self._told = True
            _log.warning("KV blocks cannot be written to the disk, which is tried again later: %s", error)


def _reserve(size_bytes: int) -> mmap.mmap:
    """Return so much memory, of which pages are taken as they are touched, huge ones if they may be had."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    try:
        reserved = mmap.mmap(-1, size_bytes, flags=flags)
    except OSError as error:
        raise OutOfMemoryError(
            f"the system refused {size_bytes} bytes for evicted KV blocks ({error}); set a smaller "
            "kv_host_memory"
        ) from error
    with suppress(OSError):
        reserved.madvise(mmap.MADV_HUGEPAGE)
    return reserved


def _in_parts(
    copy: Callable[[list[int], list[int], memoryview], None],
    blocks: list[int],
    slots: list[int],
    memory: memoryview,
) -> None:
    """Copy not too many at once: between two calls the engine shows progress."""
    for start in range(0, len(blocks), _COPIED_AT_ONCE):
        end = start + _COPIED_AT_ONCE
        copy(blocks[start:end], slots[start:end], memory)
