"""A request that does not begin, or end, in its time is given up, and its blocks are free at once."""

import pytest

from stoker.core.errors import DeadlineError, QueueFullError, QueueTimeoutError
from stoker.core.tokens import FinishReason
from stoker.testing.scheduler_loop import STEP_S, SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_request


def test_who_does_not_begin_in_time_is_refused_before_any_of_it_is_computed() -> None:
    loop = SchedulerLoop(max_running=1)
    loop.submit(make_request("first", max_tokens=50), make_request("late", queue_timeout_s=0.02))
    loop.run()
    assert isinstance(loop.expired["late"], QueueTimeoutError)
    assert loop.expired["late"].retry_after_s >= 1
    assert all("late" not in plan.request_ids for plan in loop.plans)
    assert loop.finished == {"first": FinishReason.LENGTH}
    assert loop.scheduler.stats().expired_total == 1


def test_who_has_begun_is_not_given_up_for_the_time_in_the_queue_even_when_preempted() -> None:
    loop = SchedulerLoop(max_running=1)
    loop.submit(make_request("low", max_tokens=20, queue_timeout_s=0.01))
    loop.step()
    loop.submit(make_request("high", max_tokens=30, priority=1))
    loop.step()
    assert loop.scheduler.stats().preemptions_total == 1
    loop.run()
    assert not loop.expired
    assert tuple(loop.tokens["low"]) == reference_tokens(make_request("low", max_tokens=20))


def test_a_deadline_ends_a_running_request_and_frees_its_blocks_before_the_next_step() -> None:
    loop = SchedulerLoop(max_running=1, kv_blocks=4)
    loop.submit(make_request("long", n_prompt=30, max_tokens=30, timeout_s=3 * STEP_S))
    loop.submit(make_request("next", n_prompt=30, max_tokens=5))
    for _ in range(3):
        loop.step()
    assert loop.plans[-1].request_ids == ["long"]
    loop.step()
    assert isinstance(loop.expired["long"], DeadlineError)
    assert loop.plans[-1].request_ids == ["next"]
    loop.run()
    assert list(loop.finished) == ["next"]
    assert loop.scheduler.stats().kv_blocks_used == 0


def test_a_deadline_also_ends_who_waits_and_comes_before_the_queue_time_limit() -> None:
    loop = SchedulerLoop(max_running=1)
    loop.submit(make_request("first", max_tokens=50))
    loop.submit(make_request("late", timeout_s=0.02, queue_timeout_s=0.02))
    loop.run()
    assert isinstance(loop.expired["late"], DeadlineError)


def test_a_deadline_under_a_step_in_flight_drops_that_steps_result() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a", timeout_s=0.001))
    plan = loop.schedule()
    assert plan is not None
    loop.clock.advance(1.0)
    loop.expire()
    assert list(loop.expired) == ["a"]
    assert loop.commit(plan) == []
    assert loop.scheduler.stats().kv_blocks_used == 0
    loop.submit(make_request("a"))


def test_time_limits_of_requests_that_ended_or_were_aborted_mean_nothing() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("ends", timeout_s=10, queue_timeout_s=10))
    loop.submit(make_request("goes", timeout_s=10, queue_timeout_s=10))
    loop.abort("goes")
    loop.run()
    loop.clock.advance(100)
    loop.expire()
    assert not loop.expired


def test_tokens_of_those_that_wait_are_bounded_together_but_one_may_be_long() -> None:
    loop = SchedulerLoop(max_running=1, max_waiting_tokens=100)
    loop.submit(make_request("long", n_prompt=150))
    with pytest.raises(QueueFullError, match="have 150 tokens and this one 20, over the limit of 100"):
        loop.submit(make_request("refused"))
    loop.step()
    loop.submit(make_request("a", n_prompt=60), make_request("b", n_prompt=40))
    assert loop.scheduler.stats().waiting_tokens == 100
    with pytest.raises(QueueFullError):
        loop.submit(make_request("c", n_prompt=1))
    loop.abort("a")
    loop.submit(make_request("c", n_prompt=1))
    loop.run()
    assert loop.scheduler.stats().waiting_tokens == 0
    assert sorted(loop.finished) == ["b", "c", "long"]
