"""The shelf of adapters: read one at a time, kept by use, never taken from under a sequence."""

import socket
from collections.abc import Iterator
from threading import Event
from typing import Literal

import pytest

from stoker.core.errors import CorruptFileError, DeadlineError, EngineError, QueueFullError, QueueTimeoutError
from stoker.core.stats import EngineStats
from stoker.core.tokens import AdapterRef, TokenRequest
from stoker.worker.adapters import AdapterShelf, Settled, WaitingSubmission
from stoker.worker.peer import Peer

MOST = 2


class FakeAdapters:
    """An engine that takes adapters; `may_read` lets reading end."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.may_read = Event()
        self.may_read.set()

    def read_adapter(self, adapter: AdapterRef) -> object:
        assert self.may_read.wait(10)
        if adapter.path == "bad":
            raise CorruptFileError("It is damaged.")
        return adapter.digest

    def place_adapter(self, digest: str, ready: object) -> None:
        assert ready == digest
        assert len(self.held) < MOST
        self.held.append(digest)

    def drop_adapter(self, digest: str) -> None:
        self.held.remove(digest)


class Bench:
    """A shelf, its engine and one gateway."""

    def __init__(self, peer: Peer) -> None:
        self.engine = FakeAdapters()
        self.in_use: set[str] = set()
        self.nudged = Event()
        self.peer = peer
        self.shelf = AdapterShelf(
            self.engine, most=MOST, max_waiting=4, in_use=lambda: self.in_use, nudge=self.nudged.set
        )
        self.n = 0

    def ask(
        self,
        digest: str,
        path: str = "good",
        limit_s: float | None = None,
        queue_limit_s: float | Literal["the same"] | None = "the same",
    ) -> str:
        self.n += 1
        request = TokenRequest(
            request_id=str(self.n),
            prompt=(1,),
            max_tokens=1,
            adapter=AdapterRef(path, digest),
            queue_timeout_s=limit_s if queue_limit_s == "the same" else queue_limit_s,
            timeout_s=limit_s,
        )
        self.shelf.wait(WaitingSubmission(self.peer, self.n, request, 0.0))
        return request.request_id

    def settle(self, now: float = 1.0) -> list[Settled]:
        """Begin to read, wait for the end, take over."""
        self.nudged.clear()
        first = self.shelf.settle(now)
        assert self.nudged.wait(10)
        return first + self.shelf.settle(now)


@pytest.fixture
def bench() -> Iterator[Bench]:
    ours, theirs = socket.socketpair()
    bench = Bench(Peer(ours, lambda: None, max_unread_bytes=1))
    yield bench
    bench.engine.may_read.set()
    bench.shelf.close()
    ours.close()
    theirs.close()


def test_it_is_read_once_for_all_that_wait(bench: Bench) -> None:
    ids = [bench.ask("a"), bench.ask("a")]
    assert not bench.shelf.use(AdapterRef("good", "a"))
    settled = bench.settle()
    assert [each.submission.request.request_id for each in settled] == ids
    assert all(each.error is None for each in settled)
    assert bench.shelf.use(AdapterRef("good", "a"))
    assert bench.shelf.counted(EngineStats()).adapter_loads_total == 1
    assert bench.shelf.settle(2.0) == []


def test_nothing_waits_for_the_reader(bench: Bench) -> None:
    bench.engine.may_read.clear()
    bench.ask("a")
    assert bench.shelf.settle(1.0) == []
    assert bench.shelf.settle(2.0) == []


def test_the_one_used_least_recently_makes_room(bench: Bench) -> None:
    for digest in "ab":
        bench.ask(digest)
        bench.settle()
    assert bench.shelf.use(AdapterRef("good", "a"))
    bench.ask("c")
    assert len(bench.settle()) == 1
    assert bench.engine.held == ["a", "c"]
    stats = bench.shelf.counted(EngineStats())
    assert (stats.adapters_resident, stats.adapter_loads_total, stats.adapter_evictions_total) == (2, 3, 1)


def test_one_in_use_stays_until_its_sequences_have_ended(bench: Bench) -> None:
    for digest in "ab":
        bench.ask(digest)
        bench.settle()
    bench.in_use = {"a", "b"}
    bench.ask("c")
    assert bench.settle() == []
    assert bench.engine.held == ["a", "b"]
    bench.in_use = {"a"}
    assert len(bench.shelf.settle(1.0)) == 1
    assert bench.engine.held == ["a", "c"]


def test_one_that_cannot_be_read_fails_its_own_sequences(bench: Bench) -> None:
    bench.ask("a", path="bad")
    bench.ask("b")
    (failed,) = bench.settle()
    assert isinstance(failed.error, EngineError)
    assert "damaged" in str(failed.error)
    (taken,) = bench.settle()
    assert taken.error is None


def test_who_leaves_is_forgotten(bench: Bench) -> None:
    bench.shelf.forget(bench.ask("a"))
    bench.ask("b")
    bench.shelf.forget_peer(bench.peer)
    assert bench.shelf.settle(1.0) == []
    assert bench.engine.held == []


def test_one_that_nobody_waits_for_any_more_is_not_kept(bench: Bench) -> None:
    request_id = bench.ask("a")
    bench.shelf.settle(1.0)
    bench.shelf.forget(request_id)
    assert bench.nudged.wait(10)
    assert bench.shelf.settle(1.0) == []
    assert bench.engine.held == []


def test_time_limits_hold_while_it_waits(bench: Bench) -> None:
    bench.engine.may_read.clear()
    bench.ask("a", limit_s=5.0)
    assert bench.shelf.settle(4.0) == []
    (late,) = bench.shelf.settle(5.0)
    assert isinstance(late.error, QueueTimeoutError)


def test_whichever_time_limit_is_over_first_ends_the_waiting(bench: Bench) -> None:
    bench.engine.may_read.clear()
    bench.ask("a", limit_s=5.0)
    bench.ask("b", limit_s=9.0, queue_limit_s=None)
    bench.ask("c")
    assert bench.shelf.settle(1.0) == []
    assert bench.shelf.wake_at == 5.0
    assert len(bench.shelf.settle(6.0)) == 1
    assert bench.shelf.wake_at == 9.0
    (late,) = bench.shelf.settle(9.0)
    assert isinstance(late.error, DeadlineError)
    assert bench.shelf.wake_at is None


def test_what_is_left_of_the_limits_goes_on(bench: Bench) -> None:
    bench.ask("a", limit_s=5.0)
    (taken,) = bench.settle(now=2.0)
    request = taken.submission.at(2.0)
    assert (request.queue_timeout_s, request.timeout_s) == (3.0, 3.0)


def test_no_more_wait_than_may(bench: Bench) -> None:
    for _ in range(4):
        bench.ask("a")
    with pytest.raises(QueueFullError, match="adapters"):
        bench.ask("a")


def test_one_adapter_in_two_places_is_read_once(bench: Bench) -> None:
    for path in ("good", "elsewhere"):
        bench.ask("a", path)
    assert [each.error for each in bench.settle()] == [None, None]
    assert bench.engine.held == ["a"]
    assert bench.shelf.counted(EngineStats()).adapter_loads_total == 1


def test_one_that_cannot_be_read_in_one_place_is_read_in_the_other(bench: Bench) -> None:
    for path in ("bad", "good"):
        bench.ask("a", path)
    assert [type(each.error) for each in bench.settle()] == [EngineError]
    assert [each.error for each in bench.settle()] == [None]
