"""Tiers below the KV cache without a thread or a file: a test decides when the disk answers, and what."""

from collections import deque

from stoker.kvcache import TierBooks, Transfer
from stoker.testing.step_engine import FakeStepEngine


class FakeTiers:
    """Does what `stoker.worker.tiers.BlockMover` does; the disk is a dict.

    Args:
        engine: Whose blocks are moved.
        books: What is where.
        files: The disk, by name; another one's may be given to a next engine.

    Attributes:
        files: As given.
        n_lost: So many of the next reads find nothing though there is a file.
        broken: Whether writes fail.
    """

    def __init__(
        self, engine: FakeStepEngine, books: TierBooks, files: dict[bytes, bytes] | None = None
    ) -> None:
        self.books = books
        self.files = {} if files is None else files
        self.n_lost = 0
        self.broken = False
        self._engine = engine
        self._memory = memoryview(bytearray(books.n_slots * engine.kv_block_bytes))
        self._reads: deque[Transfer] = deque()
        self._writes: deque[Transfer] = deque()
        self._found = False

    @property
    def n_pending(self) -> int:
        """Transfers that the disk has not answered."""
        return len(self._reads) + len(self._writes)

    def move(self) -> None:
        """Copy what the books say, and hand the disk its share."""
        books, engine = self.books, self._engine
        engine.save_blocks(list(books.saves.values()), list(books.saves), self._memory)
        books.saves.clear()
        engine.load_blocks(list(books.loads), list(books.loads.values()), self._memory)
        books.loads.clear()
        self._reads.extend(books.reads)
        books.reads.clear()
        self._writes.extend(books.next_writes())
        self._check_slots()

    def settle(self, n: int | None = None) -> None:
        """Let the disk answer the next `n` transfers, or all; before the first, it says what it has."""
        if not self._found:
            self._found = True
            self.books.found(self.files)
            self.books.scanned()
        n_left = self.n_pending if n is None else n
        while n_left > 0 and self.n_pending:
            n_left -= 1
            if self._reads:
                self._read(self._reads.popleft())
            else:
                self._write(self._writes.popleft())

    def _read(self, transfer: Transfer) -> None:
        name = transfer.link.name
        content = self.files.get(name)
        if content is None or self.n_lost:
            self.n_lost = max(0, self.n_lost - 1)
            self.books.missing(name, failed=content is not None)
        else:
            self._slot(transfer)[:] = content
            self.books.arrived(name)

    def _write(self, transfer: Transfer) -> None:
        if not self.broken:
            self.files[transfer.link.name] = bytes(self._slot(transfer))
        self.books.written(transfer.link.name, done=not self.broken)
        if self.broken:
            self.books.stop_writing()

    def _slot(self, transfer: Transfer) -> memoryview:
        size = self._engine.kv_block_bytes
        return self._memory[transfer.slot * size : (transfer.slot + 1) * size]

    def _check_slots(self) -> None:
        slots = [transfer.slot for transfer in (*self._reads, *self._writes)]
        if len(set(slots)) != len(slots):
            raise AssertionError(f"the disk has two transfers for one of the slots {slots}")
