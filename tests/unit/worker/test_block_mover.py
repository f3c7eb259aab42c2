"""Blocks on their way: the disk's thread, a disk that fails, and an engine loop over both."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from stoker.kvcache import Link, Namespace, Place, TierBooks
from stoker.kvcache.chain import link, root_name
from stoker.testing.step_engine import FakeStepEngine
from stoker.worker.tiers import BlockMover, KVFolder
from stoker.worker.tiers.mover import PAUSE_S

ROOT = root_name(Namespace("model", ""))
LINKS = [link(ROOT, [n] * 16) for n in range(6)]


class Rig:
    """A mover over a fake engine and a folder."""

    def __init__(self, path: Path, *, n_slots: int = 8, max_bytes: int = 10**6) -> None:
        self.nudged = Event()
        self.folder = KVFolder(path / "kv", "model", max_bytes)
        self.books = TierBooks(n_slots, disk=True, max_reads=4, max_writes=4)
        self.engine = FakeStepEngine(8)
        self.mover = BlockMover(self.books, self.engine, self.folder, self.nudged.set)
        self.now = 0.0
        self.until(lambda: self.books.find(LINKS[0]) is not Place.COMING)

    def until(self, done: Callable[[], bool]) -> None:
        """Pass on what the thread says until something is so."""
        deadline_s = time.monotonic() + 10
        while True:
            self.mover.note_outcomes(self.now)
            self.books.check()
            if done():
                return
            self.nudged.wait(0.1)
            self.nudged.clear()
            assert time.monotonic() < deadline_s

    def fill(self, block: int, value: int) -> None:
        """Give a block of the engine a content."""
        size = self.engine.kv_block_bytes
        self.engine.load_blocks([block], [0], memoryview(bytearray([value] * size)))

    def content(self, block: int) -> int:
        memory = memoryview(bytearray(self.engine.kv_block_bytes))
        self.engine.save_blocks([block], [0], memory)
        (value,) = set(memory)
        return value

    def write(self, *links: Link) -> None:
        """Have blocks with contents of their own written, and wait for it."""
        n_before = self.ended()
        for n, each in enumerate(links):
            self.fill(n, 100 + LINKS.index(each))
            assert self.books.keep(each, n)
            self.mover.move()
        self.until(lambda: self.ended() == n_before + len(links))

    def ended(self) -> int:
        return self.books.counters.written + self.books.counters.write_failures


def test_a_block_goes_to_the_disk_and_comes_back_in_a_next_process(tmp_path: Path) -> None:
    first = Rig(tmp_path)
    first.write(*LINKS[:3])
    first.mover.close()
    second = Rig(tmp_path)
    assert second.books.n_disk == 3
    for n, each in enumerate(LINKS[:3]):
        assert second.books.find(each) is Place.DISK
        assert second.books.ask(each)
        second.mover.move()
        second.until(lambda each=each: second.books.find(each) is Place.HOST)  # type: ignore[misc]
        second.books.load(each, 5 - n)
        second.mover.move()
        assert second.content(5 - n) == 100 + n
    assert second.books.counters.disk_tokens == 48


def test_a_file_that_is_gone_or_damaged_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Rig(tmp_path)
    first.write(*LINKS[:2])
    first.mover.close()
    second = Rig(tmp_path)
    second.folder.path(LINKS[0].name).unlink()
    damaged = second.folder.path(LINKS[1].name)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    for each in LINKS[:2]:
        assert second.books.ask(each)
        second.mover.move()
        second.until(lambda each=each: second.books.find(each) is Place.NOWHERE)  # type: ignore[misc]
    assert second.books.counters.read_failures == 1, "a file that is gone is no failure"
    (record,) = caplog.records
    assert "its data are damaged" in record.message
    assert not damaged.exists()


def test_a_full_disk_is_told_once_and_tried_again_later(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ballast = small_disk / "ballast"
    rig = Rig(small_disk)
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(2 << 20))
    caplog.set_level(logging.WARNING)
    rig.write(LINKS[0])
    assert rig.books.counters.write_failures == 1
    assert rig.books.room_for_writes == 0
    assert not rig.books.wants(LINKS[1].name)
    rig.now = PAUSE_S
    rig.mover.note_outcomes(rig.now)
    assert rig.books.room_for_writes > 0
    rig.write(LINKS[1])
    assert len(caplog.records) == 1, "it is the same failure still"
    assert "No space left on device" in caplog.text
    ballast.unlink()
    rig.now = 2 * PAUSE_S
    rig.mover.note_outcomes(rig.now)
    rig.write(LINKS[2])
    assert rig.books.counters.written == 1
    assert "written to the disk again" in caplog.records[-1].message


def test_a_folder_that_cannot_be_made_costs_nothing_but_the_tier(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kv").write_text("a file where a folder should be")
    rig = Rig(tmp_path)
    rig.write(LINKS[0])
    assert rig.books.find(LINKS[0]) is Place.HOST, "host memory still has it"
    assert "Not a directory" in caplog.text


def test_the_thread_ends_with_what_it_has_written(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for n, each in enumerate(LINKS[:4]):
        rig.fill(n, 100 + n)
        assert rig.books.keep(each, n)
    rig.mover.move()
    rig.mover.close()
    assert len(list(tmp_path.glob("kv/*/*/*.kv"))) == 4
