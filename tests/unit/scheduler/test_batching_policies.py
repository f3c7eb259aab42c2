"""What each way of filling steps does, with the fake engine and a clock that is told what steps take."""

from typing import Any

import pytest

from stoker.core.batching import MAX_DEFERRAL_S, BatchingPolicy
from stoker.core.errors import SettingsError
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.core.tokens import TokenRequest
from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.timed_machine import TimedMachine, work_of
from stoker.testing.workloads import make_request, mixed_lengths

TARGET_S = 0.03


def latency(**options: float) -> BatchingPolicy:
    return BatchingPolicy(mode="latency", **{"itl_target_s": TARGET_S, **options})


def loop_on(machine: TimedMachine, batching: BatchingPolicy, **options: Any) -> SchedulerLoop:
    return SchedulerLoop(
        batching=batching,
        step_time=machine.step_time,
        **{
            "kv_blocks": 300,
            "context_length": 2048,
            "max_running": 64,
            "max_waiting": 64,
            "max_step_tokens": 512,
            **options,
        },
    )


def learn(loop: SchedulerLoop) -> None:
    """Have steps of all kinds, so that their times are known."""
    loop.submit(*mixed_lengths(16, (16, 100, 300), max_tokens=8))
    loop.run()


def chunk_of(plan: StepPlan, request_id: str) -> int:
    return len(plan.tokens[plan.request_ids.index(request_id)]) if request_id in plan.request_ids else 0


def test_beside_a_stream_a_prompt_is_cut_to_hold_the_target_and_no_smaller() -> None:
    machine = TimedMachine()
    loop = loop_on(machine, latency())
    learn(loop)
    loop.submit(make_request("stream", n_prompt=20, max_tokens=100))
    loop.step()
    loop.submit(make_request("long", n_prompt=1000, max_tokens=1))
    chunks = []
    while "long" not in loop.finished:
        plan = loop.schedule()
        assert plan is not None
        chunks.append((chunk_of(plan, "long"), machine.mean_s(work_of(plan))))
        loop.commit(plan)
    assert all(seconds <= 1.02 * TARGET_S for _, seconds in chunks)
    assert all(seconds >= 0.6 * TARGET_S for _, seconds in chunks[:-1])
    assert all(n % BLOCK_TOKENS == 0 for n, _ in chunks[:-1])
    assert chunks[0][0] > chunks[-2][0], "the longer the context, the fewer tokens fit"


def test_with_nobody_streaming_a_step_is_filled() -> None:
    loop = loop_on(TimedMachine(), latency())
    learn(loop)
    loop.submit(make_request("long", n_prompt=2000, max_tokens=1))
    loop.run()
    plans = [plan for plan in loop.plans if "long" in plan.request_ids]
    assert [chunk_of(plan, "long") for plan in plans] == [512, 512, 512, 464]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_where_streams_alone_exceed_the_target_prompts_have_their_share(share: float) -> None:
    machine = TimedMachine(row_s=2e-3)
    loop = loop_on(machine, latency(itl_target_s=0.001, prefill_share=share))
    learn(loop)
    loop.submit(*(make_request(f"stream {i}", n_prompt=8, max_tokens=100) for i in range(20)))
    while len(loop.plans[-1].request_ids) < 20 or loop.plans[-1].n_tokens > 20:
        loop.step()
    loop.submit(make_request("long", n_prompt=600, max_tokens=1))
    while "long" not in loop.finished:
        plan = loop.schedule()
        assert plan is not None
        n_chunk = chunk_of(plan, "long")
        whole_s = machine.mean_s(work_of(plan))
        chunk_s = n_chunk * machine.row_s
        if n_chunk % BLOCK_TOKENS == 0 and n_chunk > BLOCK_TOKENS:
            block_s = BLOCK_TOKENS * machine.row_s
            assert share * whole_s - 1.3 * block_s <= chunk_s <= 1.15 * share * whole_s
        assert n_chunk >= min(BLOCK_TOKENS, 600 - plan.first_positions[-1])
        loop.commit(plan)
    assert loop.scheduler.stats().late_steps_total > 0


def test_late_steps_are_counted_by_the_target_in_force() -> None:
    loop = loop_on(TimedMachine(), BatchingPolicy(mode="size", itl_target_s=10.0))
    loop.submit(make_request("a", n_prompt=20, max_tokens=20))
    loop.step()
    loop.step()
    assert loop.scheduler.stats().late_steps_total == 0
    loop.scheduler.retune(BatchingPolicy(mode="size", itl_target_s=1e-6))
    loop.run()
    stats = loop.scheduler.stats()
    assert (stats.streaming_steps_total, stats.late_steps_total) == (19, 18)
    assert stats.interval_seconds_total == pytest.approx(stats.step_seconds_total)
    assert stats.predicted_seconds_total > 0


def test_what_was_learnt_of_steps_outlives_a_change_of_policy() -> None:
    machine = TimedMachine()
    loop = loop_on(machine, BatchingPolicy())
    learn(loop)
    loop.scheduler.retune(latency())
    loop.submit(make_request("stream", n_prompt=20, max_tokens=30))
    loop.step()
    loop.submit(make_request("long", n_prompt=1000, max_tokens=1))
    plan = loop.schedule()
    assert plan is not None
    assert 0.6 * TARGET_S <= machine.mean_s(work_of(plan)) <= 1.02 * TARGET_S


def test_a_time_between_steps_counts_but_idling_does_not() -> None:
    loop = SchedulerLoop(step_time=lambda _: 0.01)
    loop.submit(make_request("a", max_tokens=3))
    for _ in range(3):
        loop.step()
        loop.clock.advance(0.002)
    assert loop.step() is None
    loop.clock.advance(60)
    loop.submit(make_request("b", max_tokens=1))
    loop.step()
    stats = loop.scheduler.stats()
    assert stats.step_seconds_total == pytest.approx(0.04)
    assert stats.interval_seconds_total == pytest.approx(0.044)


ALL = (
    BatchingPolicy(),
    BatchingPolicy(prompt_patience_s=0.01),
    BatchingPolicy(mode="time", batch_wait_s=0.02),
    latency(),
    latency(itl_target_s=1e-9, prefill_share=0.0, prompt_patience_s=1.0),
)


@pytest.mark.parametrize("batching", ALL)
def test_no_token_depends_on_the_policy(batching: BatchingPolicy) -> None:
    requests = mixed_lengths(30, (1, 15, 17, 100, 700))
    loop = loop_on(TimedMachine(noise=0.3), batching, max_running=6)
    for request in requests:
        loop.submit(request)
        if loop.step() is None:
            loop.clock.advance(0.02)
    while len(loop.finished) < len(requests):
        loop.run()
        loop.clock.advance(0.02)
    assert {request.request_id: tuple(loop.tokens[request.request_id]) for request in requests} == {
        request.request_id: reference_tokens(request) for request in requests
    }


class TestTime:
    policy = BatchingPolicy(mode="time", batch_wait_s=0.1)

    def test_a_request_waits_for_others_and_no_longer_than_it_may(self) -> None:
        loop = loop_on(TimedMachine(), self.policy)
        loop.submit(make_request("a"))
        assert loop.schedule() is None
        assert loop.scheduler.wake_at == pytest.approx(0.1)
        loop.clock.advance(0.06)
        loop.submit(make_request("b"))
        assert loop.schedule() is None
        assert loop.scheduler.wake_at == pytest.approx(0.1)
        loop.clock.advance(0.04)
        plan = loop.schedule()
        assert plan is not None
        assert plan.request_ids == ["a", "b"]

    def test_a_full_step_does_not_wait(self) -> None:
        loop = loop_on(TimedMachine(), self.policy)
        loop.submit(make_request("a", n_prompt=500))
        assert loop.schedule() is None
        loop.submit(make_request("b", n_prompt=12))
        plan = loop.schedule()
        assert plan is not None
        assert plan.n_tokens == 512

    def test_nor_do_as_many_as_there_are_places(self) -> None:
        loop = loop_on(TimedMachine(), self.policy, max_running=2)
        loop.submit(make_request("a"), make_request("b"))
        plan = loop.schedule()
        assert plan is not None
        assert plan.request_ids == ["a", "b"]

    def test_streams_go_on_meanwhile(self) -> None:
        loop = loop_on(TimedMachine(), self.policy)
        loop.submit(make_request("stream", max_tokens=1000))
        loop.clock.advance(0.1)
        loop.step()
        begun = loop.clock()
        loop.submit(make_request("later"))
        while (plan := loop.schedule()) is not None and plan.request_ids == ["stream"]:
            loop.commit(plan)
        assert loop.clock() - begun == pytest.approx(0.1, abs=0.005)
        assert plan is not None
        assert plan.request_ids == ["stream", "later"]

    def test_nothing_wakes_for_a_request_that_left(self) -> None:
        loop = loop_on(TimedMachine(), self.policy)
        loop.submit(make_request("a"))
        assert loop.schedule() is None
        loop.abort("a")
        assert loop.scheduler.wake_at is None
        assert loop.schedule() is None
        loop.clock.advance(5)
        loop.submit(make_request("b"))
        assert loop.schedule() is None, "its wait begins with itself"
        assert loop.scheduler.wake_at == pytest.approx(5.1)

    def test_another_policy_ends_the_wait(self) -> None:
        loop = loop_on(TimedMachine(), self.policy)
        loop.submit(make_request("a"))
        assert loop.schedule() is None
        loop.scheduler.retune(BatchingPolicy())
        assert loop.schedule() is not None


class TestOrder:
    def ran_first(self, batching: BatchingPolicy, *requests: TokenRequest, pause_s: float = 0.0) -> str:
        """Return the request of several that is computed first, while one place is free."""
        loop = loop_on(TimedMachine(), batching, max_running=1)
        for request in requests:
            loop.submit(request)
            loop.clock.advance(pause_s)
        plan = loop.schedule()
        assert plan is not None
        return plan.request_ids[0]

    def test_a_short_prompt_goes_before_a_long_one_that_came_a_little_earlier(self) -> None:
        long, short = make_request("long", n_prompt=1000), make_request("short", n_prompt=50)
        patient = BatchingPolicy(prompt_patience_s=0.001)
        assert self.ran_first(patient, long, short, pause_s=0.9) == "short"
        assert self.ran_first(patient, long, short, pause_s=1.0) == "long"
        assert self.ran_first(BatchingPolicy(), long, short) == "long"

    def test_nobody_is_overtaken_for_longer_than_there_is_a_bound(self) -> None:
        long = make_request("long", n_prompt=1000)
        short = make_request("short", n_prompt=10)
        patient = BatchingPolicy(prompt_patience_s=1.0)
        assert self.ran_first(patient, long, short, pause_s=MAX_DEFERRAL_S - 1) == "long"
        assert self.ran_first(BatchingPolicy(prompt_patience_s=0.5), long, short, pause_s=4.9) == "short"

    def test_priorities_stay_above_it(self) -> None:
        long = make_request("long", n_prompt=1000, priority=1)
        assert self.ran_first(BatchingPolicy(prompt_patience_s=1), long, make_request("short")) == "long"

    def test_a_short_prompt_goes_before_the_rest_of_a_long_one(self) -> None:
        loop = loop_on(TimedMachine(), BatchingPolicy(prompt_patience_s=0.001), max_step_tokens=64)
        loop.submit(make_request("long", n_prompt=1000))
        loop.step()
        loop.submit(make_request("short", n_prompt=40))
        plan = loop.schedule()
        assert plan is not None
        assert (chunk_of(plan, "short"), chunk_of(plan, "long")) == (40, 24)

    def test_tokens_that_are_cached_do_not_count(self) -> None:
        loop = loop_on(TimedMachine(), BatchingPolicy(prompt_patience_s=0.001), max_running=1)
        known = make_request("known", n_prompt=1000, max_tokens=1)
        loop.submit(known)
        loop.run()
        loop.submit(make_request("running", n_prompt=10, max_tokens=2))
        loop.step()
        loop.submit(make_request("new", n_prompt=100), make_request("again", prompt=known.prompt))
        loop.run()
        firsts = [plan.request_ids[0] for plan in loop.plans]
        assert firsts.index("again") < firsts.index("new")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "fast"}, "batching is 'fast'; set it to one of latency, size, time"),
        ({"itl_target_s": 0.0}, "itl_target_s is 0.0"),
        ({"itl_target_s": float("nan")}, "itl_target_s is nan"),
        ({"prefill_share": 0.95}, "prefill_share is 0.95; set it to 0 up to 0.9"),
        ({"prefill_share": -0.1}, "prefill_share"),
        ({"batch_wait_s": 1.5}, "batch_wait_s"),
        ({"prompt_patience_s": float("inf")}, "prompt_patience_s"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        BatchingPolicy(**change)  # type: ignore[arg-type]
