from typing import Any

import pytest

from stoker.core.errors import ContextLengthError, InvalidRequestError, QueueFullError, SettingsError
from stoker.scheduler import SchedulerLimits
from stoker.testing.scheduler_loop import STEP_S, SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_request


@pytest.mark.parametrize(
    ("limits", "name"),
    [
        ({"context_length": 0}, "context_length is 0"),
        ({"context_length": 9, "max_running": 0}, "max_running is 0"),
        ({"context_length": 9, "max_waiting": -1}, "max_waiting is -1"),
        ({"context_length": 9, "max_running": 8, "max_step_tokens": 7}, "max_step_tokens is 7"),
    ],
)
def test_limits_out_of_range(limits: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        SchedulerLimits(**limits)


def test_default_limits() -> None:
    limits = SchedulerLimits(context_length=2048)
    assert (limits.max_running, limits.max_waiting, limits.max_step_tokens) == (64, 256, 512)


def test_an_id_is_unique_while_in_flight_only() -> None:
    loop = SchedulerLoop()
    request = make_request("a")
    loop.submit(request)
    with pytest.raises(InvalidRequestError, match="'a' is in flight") as caught:
        loop.submit(request)
    assert caught.value.param == "request_id"
    loop.run()
    loop.submit(request)
    loop.run()
    assert tuple(loop.tokens["a"]) == 2 * reference_tokens(request)


def test_over_the_context_says_by_how_much() -> None:
    loop = SchedulerLoop(context_length=32)
    loop.submit(make_request("fits", n_prompt=24, max_tokens=8))
    with pytest.raises(ContextLengthError, match=r"24 tokens .* exceed the context of 32 tokens by 3"):
        loop.submit(make_request("long", n_prompt=24, max_tokens=11))
    loop.run()
    assert list(loop.finished) == ["fits"]


def test_more_blocks_than_exist() -> None:
    loop = SchedulerLoop(kv_blocks=2)
    # The last token sampled needs no room: 33 tokens in all, 32 of them computed.
    fits = make_request("fits", n_prompt=30, max_tokens=3)
    loop.submit(fits)
    with pytest.raises(InvalidRequestError, match="need 3 KV blocks and the engine has 2"):
        loop.submit(make_request("long", n_prompt=30, max_tokens=4))
    loop.run()
    assert tuple(loop.tokens["fits"]) == reference_tokens(fits)


@pytest.mark.parametrize(
    ("changes", "param"), [({"n_prompt": 0}, "prompt"), ({"max_tokens": 0}, "max_tokens")]
)
def test_malformed(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SchedulerLoop().submit(make_request("a", **changes))
    assert caught.value.param == param


def test_a_burst_may_take_every_place() -> None:
    loop = SchedulerLoop(max_running=2, max_waiting=3)
    loop.submit(*(make_request(str(i)) for i in range(5)))
    with pytest.raises(QueueFullError, match="all 5 places"):
        loop.submit(make_request("one more"))
    assert (loop.scheduler.stats().running, loop.scheduler.stats().waiting) == (0, 5)
    loop.run()
    assert len(loop.finished) == 5


def test_a_place_is_free_once_a_sequence_ended_or_was_aborted() -> None:
    loop = SchedulerLoop(max_running=1, max_waiting=1)
    loop.submit(make_request("a"), make_request("b"))
    loop.step()
    loop.abort("b")
    loop.submit(make_request("c"))
    loop.run()
    loop.submit(make_request("d"), make_request("e"))


def retry_after_s(loop: SchedulerLoop) -> float:
    with pytest.raises(QueueFullError) as caught:
        loop.submit(make_request("refused"))
    return caught.value.retry_after_s


def test_retry_after_is_the_time_to_drain_the_queue_at_the_measured_rate() -> None:
    loop = SchedulerLoop(max_running=1, max_waiting=100, max_step_tokens=16)
    # Each takes 100 steps: one to compute the prompt and sample, 99 to sample the rest.
    for i in range(101):
        loop.submit(make_request(str(i), n_prompt=1, max_tokens=100))
    for _ in range(500):
        loop.step()
    for i in range(5):
        loop.submit(make_request(f"new {i}"))
    assert loop.scheduler.stats().waiting == 101
    assert retry_after_s(loop) == pytest.approx(101 * 100 * STEP_S)


def test_retry_after_is_bounded_below_before_anything_is_measured() -> None:
    loop = SchedulerLoop(max_running=1, max_waiting=0)
    loop.submit(make_request("a"))
    assert retry_after_s(loop) == 1.0


def test_retry_after_is_bounded_above_when_nothing_ends() -> None:
    loop = SchedulerLoop(max_running=1, max_waiting=1)
    loop.submit(make_request("a"), make_request("b"))
    loop.schedule()
    loop.clock.advance(3600)
    assert retry_after_s(loop) == 60.0


def test_an_idle_hour_does_not_count_as_slowness() -> None:
    loop = SchedulerLoop(max_running=1, max_waiting=1)
    loop.submit(make_request("a"))
    loop.run()
    loop.clock.advance(3600)
    loop.submit(make_request("b"), make_request("c"))
    assert retry_after_s(loop) == 1.0
