"""Restoring prefixes from the tiers below the KV cache, and pinned prefixes."""

from typing import Any

import pytest

from stoker.core.errors import InvalidRequestError
from stoker.core.tokens import FinishReason
from stoker.kvcache import TierBooks
from stoker.scheduler.restore import DISTRUST_S, MAX_WAIT_S, PATIENCE_S
from stoker.testing.kv_tiers import FakeTiers
from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_request, make_tokens

PREFIX = make_tokens("conversation", 81)


def loop_with(
    *, n_slots: int = 32, disk: bool = False, files: dict[bytes, bytes] | None = None, **limits: Any
) -> tuple[SchedulerLoop, FakeTiers]:
    books = TierBooks(n_slots, disk=disk, max_reads=4, max_writes=4)
    loop = SchedulerLoop(tiers=books, files=files, **{"kv_blocks": 8, **limits})
    assert loop.tiers is not None
    return loop, loop.tiers


def ask(loop: SchedulerLoop, request_id: str, prompt: tuple[int, ...] = PREFIX, **fields: Any) -> int:
    """Run a request alone; return how many of its tokens were cached."""
    request = make_request(request_id, prompt=prompt, max_tokens=4, **fields)
    loop.submit(request)
    loop.run()
    assert tuple(loop.tokens[request_id]) == reference_tokens(request)
    return loop.events[-1].cached_tokens


def crowd_out(loop: SchedulerLoop, name: str) -> None:
    ask(loop, name, make_tokens(name, 120))


def test_an_evicted_prefix_comes_back_from_host_memory() -> None:
    loop, _ = loop_with()
    assert ask(loop, "first") == 0
    crowd_out(loop, "other")
    n_computed = loop.engine.n_tokens
    assert ask(loop, "again") == 80
    assert loop.engine.n_tokens - n_computed == 1 + 3
    stats = loop.scheduler.stats()
    assert (stats.host_restored_tokens_total, stats.disk_restored_tokens_total) == (80, 0)
    assert stats.cached_tokens_total == 80
    assert stats.kv_demoted_blocks_total >= 5


def test_without_tiers_it_is_computed_again() -> None:
    loop = SchedulerLoop(kv_blocks=8)
    ask(loop, "first")
    crowd_out(loop, "other")
    assert ask(loop, "again") == 0


def test_a_prefix_of_another_salt_is_not_restored() -> None:
    loop, _ = loop_with()
    ask(loop, "first", cache_salt="one tenant")
    crowd_out(loop, "other")
    assert ask(loop, "again", cache_salt="another") == 0
    assert ask(loop, "own", cache_salt="one tenant") == 80


def test_what_a_sequence_leaves_is_written_and_outlives_the_engine() -> None:
    files: dict[bytes, bytes] = {}
    loop, tiers = loop_with(disk=True, files=files)
    ask(loop, "first")
    for _ in range(10):
        loop.schedule()
        tiers.settle()
    assert len(files) == 5
    assert loop.scheduler.stats().kv_disk_writes_total == 5
    loop, tiers = loop_with(disk=True, files=files)
    assert ask(loop, "again") == 80
    assert loop.engine.n_tokens == 1 + 3
    assert loop.scheduler.stats().disk_restored_tokens_total == 80


def test_others_go_on_and_are_admitted_while_one_waits_for_the_disk() -> None:
    files: dict[bytes, bytes] = {}
    loop, tiers = loop_with(disk=True, files=files, kv_blocks=32)
    ask(loop, "first")
    for _ in range(10):
        loop.schedule()
        tiers.settle()
    loop, tiers = loop_with(disk=True, files=files, kv_blocks=32)
    tiers.settle(0)
    waiting = make_request("waiting", prompt=PREFIX, max_tokens=2)
    loop.submit(waiting)
    assert loop.step() is None
    assert loop.scheduler.wake_at == loop.clock() + PATIENCE_S
    other = make_request("other", prompt=make_tokens("other", 60), max_tokens=4)
    loop.submit(other)
    for _ in range(4):
        loop.step()
    assert loop.finished == {"other": FinishReason.LENGTH}
    tiers.settle()
    loop.run()
    assert tuple(loop.tokens["waiting"]) == reference_tokens(waiting)
    assert loop.events[-1].cached_tokens == 80


def test_a_disk_that_does_not_answer_is_not_waited_for_long_and_then_not_asked() -> None:
    files: dict[bytes, bytes] = {}
    loop, tiers = loop_with(disk=True, files=files)
    ask(loop, "first")
    for _ in range(10):
        loop.schedule()
        tiers.settle()
    loop, tiers = loop_with(disk=True, files=files)
    tiers.settle(0)
    loop.submit(make_request("first", prompt=PREFIX, max_tokens=1))
    assert loop.step() is None
    loop.clock.advance(PATIENCE_S)
    assert loop.step() is not None, "it computes"
    while loop.step() is not None:
        pass
    loop.submit(make_request("second", prompt=make_tokens("conversation", 81)[:17], max_tokens=1))
    assert loop.step() is not None
    assert tiers.n_pending == 4, "what it was asked for"
    tiers.settle()
    loop.clock.advance(DISTRUST_S)
    loop.schedule()
    assert tiers.books.reading


def test_one_waits_for_its_turn_at_a_disk_that_reads_for_another() -> None:
    files: dict[bytes, bytes] = {}
    loop, tiers = loop_with(disk=True, files=files, kv_blocks=32)
    other = make_tokens("another conversation", 81)
    ask(loop, "first")
    ask(loop, "second", other)
    for _ in range(20):
        loop.schedule()
        tiers.settle()
    loop, tiers = loop_with(disk=True, files=files, kv_blocks=32)
    tiers.settle(0)
    loop.submit(make_request("first", prompt=PREFIX, max_tokens=1))
    loop.submit(make_request("second", prompt=other, max_tokens=1))
    while len(loop.finished) < 2:
        loop.step()
        tiers.settle(1)  # a slow one
        loop.clock.advance(PATIENCE_S / 2)
    assert loop.engine.n_tokens == 2, "nothing that was on disk was computed"
    assert tiers.books.reading


def test_a_disk_that_takes_too_long_for_one_is_still_asked_for_others() -> None:
    files: dict[bytes, bytes] = {}
    loop, tiers = loop_with(disk=True, files=files, kv_blocks=32)
    prompt = make_tokens("long conversation", 321)
    ask(loop, "first", prompt)
    for _ in range(20):
        loop.schedule()
        tiers.settle()
    loop, tiers = loop_with(disk=True, files=files, kv_blocks=32)
    tiers.settle(0)
    loop.submit(make_request("first", prompt=prompt, max_tokens=1))
    while "first" not in loop.finished:
        loop.step()
        tiers.settle(1)
        loop.clock.advance(PATIENCE_S * 0.9)
    n_read = int(MAX_WAIT_S / (PATIENCE_S * 0.9)) + 1
    assert n_read < 321 // 16
    assert loop.engine.n_tokens == 321 - 16 * n_read
    assert tiers.books.reading


def test_while_others_compute_a_step_restores_a_few_blocks_only() -> None:
    loop, _ = loop_with(kv_blocks=16, max_restored_blocks=2)
    ask(loop, "first")
    ask(loop, "crowd", make_tokens("crowd", 250))
    loop.submit(make_request("stream", prompt=make_tokens("stream", 10), max_tokens=9))
    loop.step()
    loop.submit(make_request("again", prompt=PREFIX, max_tokens=1))
    restored = []
    while "again" not in loop.finished:
        before = loop.scheduler.stats().host_restored_tokens_total
        events = loop.step()
        assert events is not None
        assert any(event.request_id == "stream" for event in events), "it gets its token in every step"
        restored.append(loop.scheduler.stats().host_restored_tokens_total - before)
    assert restored == [32, 32, 16]


def test_a_held_sequence_keeps_its_blocks_and_takes_no_place() -> None:
    loop = SchedulerLoop(kv_blocks=8, context_length=64, max_running=1, max_waiting=0, max_pinned_blocks=2)
    pinned = make_request("pin", prompt=PREFIX[:40], max_tokens=1, hold=True)
    loop.submit(pinned)
    loop.run()
    assert loop.events[-1].finish_reason is None
    assert loop.scheduler.stats().kv_blocks_pinned == 2
    assert loop.scheduler.stats().running == loop.scheduler.stats().waiting == 0
    for n in range(4):
        ask(loop, f"other {n}", make_tokens(f"other {n}", 60))
    assert ask(loop, "same", PREFIX[:41]) == 32
    assert loop.abort("pin")
    assert loop.scheduler.stats().kv_blocks_pinned == 0
    for n in range(4):
        ask(loop, f"further {n}", make_tokens(f"further {n}", 60))
    assert ask(loop, "now", PREFIX[:41]) == 0


def test_pinned_blocks_are_limited_also_while_they_are_computed() -> None:
    loop = SchedulerLoop(kv_blocks=8, context_length=64, max_pinned_blocks=3)
    loop.submit(make_request("pin", prompt=PREFIX[:40], max_tokens=1, hold=True))
    with pytest.raises(InvalidRequestError, match="2 of at most 3 are pinned") as told:
        loop.submit(make_request("more", prompt=PREFIX[:32], max_tokens=1, hold=True))
    assert told.value.code == "pinned_limit_exceeded"
    loop.submit(make_request("fits", prompt=PREFIX[:31], max_tokens=1, hold=True))
    assert loop.abort("pin")
    loop.submit(make_request("more", prompt=PREFIX[:32], max_tokens=1, hold=True))
    loop.run()
    assert loop.scheduler.stats().kv_blocks_pinned == 3
    with pytest.raises(InvalidRequestError, match="pin 16 or more"):
        loop.submit(make_request("short", prompt=PREFIX[:15], max_tokens=1, hold=True))


def test_a_held_sequence_may_go_during_a_step() -> None:
    loop = SchedulerLoop(kv_blocks=8, context_length=64, max_pinned_blocks=4)
    loop.submit(make_request("pin", prompt=PREFIX[:40], max_tokens=1, hold=True))
    loop.run()
    sharing = make_request("sharing", prompt=PREFIX[:41], max_tokens=3)
    loop.submit(sharing)
    plan = loop.schedule()
    assert plan is not None
    assert loop.abort("pin")
    loop.commit(plan)
    loop.run()
    assert tuple(loop.tokens["sharing"]) == reference_tokens(sharing)
