"""The books of the tiers below the KV cache: which blocks are in host memory, and which on disk.

Host memory is a number of slots of a block's size. Blocks come there when they are evicted from the
KV cache (or, to be written, when a sequence ends), and on their way back from the disk. Nothing is
moved here: whoever owns the memory empties `saves`, `loads`, `reads` and takes `next_writes`.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from stoker.core.errors import EngineError
from stoker.kvcache.chain import Link


class Place(Enum):
    """Where a block is, beside the KV cache."""

    HOST = auto()
    COMING = auto()
    """It is being read from the disk into a slot, or looked for there."""

    DISK = auto()
    NOWHERE = auto()


@dataclass(frozen=True, slots=True)
class Transfer:
    """A block to be read from the disk into a slot, or written there from it."""

    link: Link
    slot: int


@dataclass(slots=True)
class TierCounters:
    """Totals since the start; they mean what `stoker.core.stats.EngineStats` says."""

    demoted: int = 0
    dropped: int = 0
    written: int = 0
    write_failures: int = 0
    read_failures: int = 0
    host_tokens: int = 0
    disk_tokens: int = 0


@dataclass(slots=True)
class _Entry:
    """A block in a slot.

    `busy` while the disk's thread reads or writes the slot, which may not be given to another block
    then. `spare` if the KV cache or the disk has the block too, so that its slot goes first.
    """

    link: Link
    slot: int
    busy: bool = False
    coming: bool = False
    spare: bool = False
    from_disk: bool = False


class TierBooks:
    """Knows the blocks of both tiers; one thread owns it, the one that owns the KV cache.

    Slots are given up least recently used first. What is *dirty* is to be written to the disk, oldest
    first, as far as there is room in the queue of writes; a dirty block whose slot is needed is dropped:
    nobody ever waits for the disk.

    Args:
        n_slots: Slots of host memory.
        disk: Whether there is a disk tier.
        max_reads: Most blocks that are read from the disk at a time.
        max_writes: Most blocks that are handed to the disk's thread at a time.

    Attributes:
        saves: Blocks to be copied from the KV cache to slots, by slot; before all `loads`.
        loads: Blocks of the KV cache to be filled from slots, by block.
        reads: Blocks to be read from the disk; after `saves` and `loads`.
        counters: What has happened so far.
        n_answers: Reads that have ended, one way or another.
        reading, writing: Whether the disk is trusted just now.
    """

    __slots__ = (
        "_dirty",
        "_disk",
        "_entries",
        "_free",
        "_has_disk",
        "_idle",
        "_max_reads",
        "_max_writes",
        "_n_coming",
        "_n_writing",
        "_scanned",
        "counters",
        "loads",
        "n_answers",
        "n_slots",
        "reading",
        "reads",
        "saves",
        "writing",
    )

    def __init__(self, n_slots: int, *, disk: bool = False, max_reads: int = 1, max_writes: int = 1) -> None:
        self.n_slots = n_slots
        self.saves: dict[int, int] = {}
        self.loads: dict[int, int] = {}
        self.reads: list[Transfer] = []
        self.counters = TierCounters()
        self.reading = self.writing = disk
        self._has_disk = disk
        self._max_reads = max_reads
        self._max_writes = max_writes
        self._free = list(range(n_slots - 1, -1, -1))
        self._entries: dict[bytes, _Entry] = {}
        self._idle: OrderedDict[bytes, None] = OrderedDict()  # not busy, the next to give up its slot first
        self._dirty: OrderedDict[bytes, None] = OrderedDict()
        self._disk: set[bytes] = set()
        self._scanned = not disk
        self._n_coming = self._n_writing = 0
        self.n_answers = 0

    @property
    def n_host(self) -> int:
        """Blocks in host memory."""
        return len(self._entries) - self._n_coming

    @property
    def n_disk(self) -> int:
        """Blocks known to be on disk."""
        return len(self._disk)

    @property
    def n_dirty(self) -> int:
        """Blocks in host memory that are to be written and were not handed to the disk's thread."""
        return len(self._dirty)

    @property
    def reads_are_full(self) -> bool:
        """Whether as many blocks are being read as may be."""
        return self._n_coming >= self._max_reads

    @property
    def n_coming(self) -> int:
        """Blocks that are being read."""
        return self._n_coming

    # What the KV cache says.

    def evicted(self, link: Link, block: int) -> None:
        """Keep a block that leaves the KV cache; it has its content until the saves are made."""
        entry = self._entries.get(link.name)
        if entry is not None:
            entry.spare = False
            if not entry.busy:
                self._idle.move_to_end(link.name)
        elif not self._on_disk(link.name) and self._save(link, block, spare=False):
            self.counters.demoted += 1

    def wants(self, name: bytes) -> bool:
        """Whether a block of the KV cache is to be written to the disk."""
        return self.writing and name not in self._disk and name not in self._entries

    def keep(self, link: Link, block: int) -> bool:
        """Write a block of the KV cache to the disk by and by; False if there is no slot for it now."""
        return self._save(link, block, spare=True)

    @property
    def room_for_writes(self) -> int:
        """How many more blocks the disk's thread would take now."""
        return max(0, self._max_writes - self._n_writing - len(self._dirty)) if self.writing else 0

    def find(self, link: Link) -> Place:
        """Return where a block is."""
        entry = self._entries.get(link.name)
        if entry is not None:
            if entry.link != link:
                return Place.NOWHERE
            return Place.COMING if entry.coming else Place.HOST
        if not self.reading:
            return Place.NOWHERE
        if link.name in self._disk:
            return Place.DISK
        return Place.NOWHERE if self._scanned else Place.COMING  # it may yet be found

    def load(self, link: Link, block: int) -> None:
        """Fill a block of the KV cache from host memory, where `find` has said that it is."""
        entry = self._entries[link.name]
        self.loads[block] = entry.slot
        n_tokens = len(link.tokens)
        if entry.from_disk:
            self.counters.disk_tokens += n_tokens
        else:
            self.counters.host_tokens += n_tokens
        entry.from_disk = False
        entry.spare = True
        if not entry.busy:
            self._idle.move_to_end(link.name, last=False)

    def touch(self, links: Iterable[Link]) -> None:
        """Let a chain, given from its root on, stay in host memory longer than all that is there."""
        for each in reversed(list(links)):
            if each.name in self._idle:
                self._idle.move_to_end(each.name)

    def ask(self, link: Link) -> bool:
        """Have a block read from the disk; False if that cannot be now."""
        if self.reads_are_full:
            return False
        slot = self._take_slot()
        if slot is None:
            return False
        self._entries[link.name] = _Entry(link, slot, busy=True, coming=True, from_disk=True)
        self._n_coming += 1
        self.reads.append(Transfer(link, slot))
        return True

    # What the disk's thread does and says.

    def next_writes(self) -> list[Transfer]:
        """Take what is to be written next; their slots are busy until `written`."""
        writes = []
        while self.writing and self._dirty and self._n_writing < self._max_writes:
            name, _ = self._dirty.popitem(last=False)
            entry = self._entries[name]
            entry.busy = True
            del self._idle[name]
            self._n_writing += 1
            writes.append(Transfer(entry.link, entry.slot))
        return writes

    def written(self, name: bytes, *, done: bool) -> None:
        """Note the end of a write."""
        self._n_writing -= 1
        self.counters.written += done
        self.counters.write_failures += not done
        if done:
            self._disk.add(name)
        self._rest(self._entries[name])

    def arrived(self, name: bytes) -> None:
        """Note that a block has been read."""
        entry = self._entries[name]
        entry.coming = False
        self._n_coming -= 1
        self.n_answers += 1
        self._disk.add(name)
        self._rest(entry)

    def missing(self, name: bytes, *, failed: bool) -> None:
        """Note that a block could not be read: it is not there, or (`failed`) not usable."""
        entry = self._entries.pop(name)
        self._free.append(entry.slot)
        self._n_coming -= 1
        self.n_answers += 1
        self.counters.read_failures += failed
        self._disk.discard(name)

    def found(self, names: Iterable[bytes]) -> None:
        """Note blocks that are on disk."""
        self._disk.update(names)

    def scanned(self) -> None:
        """Note that what was not found is not on disk."""
        self._scanned = True

    def removed(self, names: Iterable[bytes]) -> None:
        """Note that blocks are not on disk any more."""
        self._disk.difference_update(names)

    def stop_writing(self) -> None:
        """Write nothing more to the disk until `writing` is set again, and forget what was to be written."""
        self.writing = False
        self._dirty.clear()

    def check(self) -> None:
        """Verify every invariant.

        Raises:
            EngineError: An invariant is broken; the message says which.
        """
        slots = [entry.slot for entry in self._entries.values()]
        if sorted([*slots, *self._free]) != list(range(self.n_slots)):
            raise _broken("a slot is not exactly one of free and taken")
        busy = {name for name, entry in self._entries.items() if entry.busy}
        if self._idle.keys() != self._entries.keys() - busy:
            raise _broken("the blocks that may give up their slots are not those that rest")
        if not self._dirty.keys() <= self._idle.keys():
            raise _broken("a block that is to be written has no slot, or is written already")
        coming = {name for name, entry in self._entries.items() if entry.coming}
        if not coming <= busy or len(coming) != self._n_coming or len(busy - coming) != self._n_writing:
            raise _broken("reads and writes are counted wrongly")
        if any(name != entry.link.name for name, entry in self._entries.items()):
            raise _broken("a block is under another one's name")
        if not self.saves.keys() <= set(slots):
            raise _broken("a block is saved to a slot that nobody has")

    def _on_disk(self, name: bytes) -> bool:
        return self.reading and name in self._disk

    def _save(self, link: Link, block: int, *, spare: bool) -> bool:
        slot = self._take_slot()
        if slot is None:
            self.counters.dropped += 1
            return False
        self._entries[link.name] = _Entry(link, slot, spare=spare)
        self._idle[link.name] = None
        self.saves[slot] = block
        if self.writing:
            self._dirty[link.name] = None
        return True

    def _take_slot(self) -> int | None:
        if self._free:
            return self._free.pop()
        if not self._idle:
            return None
        name, _ = self._idle.popitem(last=False)
        entry = self._entries.pop(name)
        if self._dirty.pop(name, entry) is None or not (entry.spare or name in self._disk):
            self.counters.dropped += 1
        self.saves.pop(entry.slot, None)
        return entry.slot

    def _rest(self, entry: _Entry) -> None:
        entry.busy = False
        self._idle[entry.link.name] = None
        if entry.spare:
            self._idle.move_to_end(entry.link.name, last=False)


def _broken(what: str) -> EngineError:
    return EngineError(f"KV tiers: {what}; report this bug")
