"""Calls of several steps: when they are planned, and what is made of them."""

from dataclasses import replace
from typing import Any

import pytest

from stoker.core.batching import BatchingMode, BatchingPolicy
from stoker.core.errors import EngineError
from stoker.core.sampling import SamplingParams
from stoker.core.step import StepPlan
from stoker.core.tokens import FinishReason
from stoker.scheduler.steps import CallPace
from stoker.testing.scheduler_loop import STEP_S, SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_request


def loop_of(**options: Any) -> SchedulerLoop:
    return SchedulerLoop(**{"max_call_steps": 4} | options)


def n_steps(loop: SchedulerLoop) -> list[int]:
    return [plan.n_steps for plan in loop.plans]


def test_a_sequence_that_is_alone_gets_several_tokens_in_a_call() -> None:
    loop = loop_of()
    request = make_request("a", n_prompt=20, max_tokens=11)
    loop.submit(request)
    loop.run()
    assert tuple(loop.tokens["a"]) == reference_tokens(request)
    assert n_steps(loop) == [1, 4, 4, 2]  # the prompt, then as many as are left
    assert [len(event.token_ids) for event in loop.events] == [1, 4, 4, 2]
    assert [event.finish_reason for event in loop.events] == [None] * 3 + [FinishReason.LENGTH]
    stats = loop.scheduler.stats()
    assert (stats.steps_total, stats.generated_tokens_total) == (11, 11)
    assert stats.step_seconds_total == pytest.approx(11 * STEP_S)


@pytest.mark.parametrize(
    ("mode", "target_s", "expected"), [("latency", 1.0, 4), ("latency", 0.014, 2), ("size", 0.014, 4)]
)
def test_a_call_keeps_the_target_of_streams_that_have_one(
    mode: BatchingMode, target_s: float, expected: int
) -> None:
    """A step takes 5 ms and may exceed its prediction by a quarter."""
    loop = loop_of(batching=BatchingPolicy(mode=mode, itl_target_s=target_s))
    loop.submit(make_request("a", max_tokens=13))
    loop.run()
    assert set(n_steps(loop)[1:-1]) == {expected}
    stats = loop.scheduler.stats()
    assert stats.streaming_steps_total == 12
    n_late = 3 if mode == "size" else 0  # as tokens of a call arrive together
    assert stats.late_steps_total == n_late


def test_what_is_learnt_of_a_step_does_not_depend_on_how_many_a_call_has() -> None:
    ratios = []
    for most in (1, 4):
        loop = loop_of(max_call_steps=most)
        loop.submit(make_request("a", max_tokens=400))
        loop.run()
        stats = loop.scheduler.stats()
        assert stats.interval_seconds_total == pytest.approx(400 * STEP_S)
        ratios.append(stats.predicted_seconds_total / stats.interval_seconds_total)
    assert ratios == [pytest.approx(1.0, rel=0.15)] * 2


def test_time_of_moving_blocks_is_not_taken_for_computing() -> None:
    loop = loop_of(max_call_s=4.5 * STEP_S)
    loop.submit(make_request("a", max_tokens=40))
    while (plan := loop.schedule()) is not None:
        result = loop.engine.forward(plan)
        seconds = STEP_S * len(result.token_ids[0])
        loop.scheduler.commit(plan, result, loop.clock.advance(seconds + 0.3), moved_s=0.3)
    stats = loop.scheduler.stats()
    assert stats.interval_seconds_total == pytest.approx(40 * STEP_S)
    assert stats.late_steps_total == len(loop.plans) - 1  # streams waited for it all the same
    assert set(n_steps(loop)[1:-1]) == {4}


def test_one_step_is_all_that_an_engine_without_the_ability_gets() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a", max_tokens=6))
    loop.run()
    assert n_steps(loop) == [1] * 6


def test_log_probabilities_come_with_each_token() -> None:
    loop = loop_of()
    loop.submit(make_request("a", max_tokens=9, sampling=SamplingParams(logprobs=2)))
    loop.run()
    assert [len(event.logprobs) for event in loop.events] == [1, 4, 4]
    for event in loop.events:
        assert [entry.top[0][0] for entry in event.logprobs] == list(event.token_ids)


def test_a_call_ends_with_the_first_sequence_that_ends() -> None:
    loop = loop_of()
    request = make_request("a", max_tokens=30)
    whole = reference_tokens(request)
    assert whole[3] not in whole[:3]
    loop.submit(replace(request, stop_token_ids=frozenset({whole[3]})), make_request("b", max_tokens=30))
    loop.run()
    assert tuple(loop.tokens["a"]) == whole[:4]
    assert loop.finished["a"] is FinishReason.STOP
    assert tuple(loop.tokens["b"]) == reference_tokens(make_request("b", max_tokens=30))
    # The prompts, then a call that is cut after three of its four steps.
    assert [len(event.token_ids) for event in loop.events[:4]] == [1, 1, 3, 3]


def test_nobody_waits_for_the_end_of_a_long_call() -> None:
    loop = loop_of(max_running=1)
    loop.submit(make_request("runs", max_tokens=6))
    loop.step()
    loop.submit(make_request("waits", max_tokens=6))
    loop.run()
    assert n_steps(loop) == [1] * 6 + [1, 4, 1]


def test_a_prompt_that_is_being_computed_is_not_held_up() -> None:
    loop = loop_of(max_step_tokens=16)
    loop.submit(make_request("a", n_prompt=4, max_tokens=20))
    loop.step()
    loop.submit(make_request("long", n_prompt=60, max_tokens=2))
    loop.run()
    with_chunks = [plan.n_steps for plan in loop.plans if any(len(run) > 1 for run in plan.tokens)]
    assert with_chunks == [1] * len(with_chunks)
    assert len(with_chunks) >= 5
    assert 4 in n_steps(loop)


def test_scores_come_from_single_steps() -> None:
    loop = loop_of()
    loop.submit(make_request("a", n_prompt=1, max_tokens=0, prompt_logprobs=1))
    loop.submit(make_request("b", n_prompt=2, max_tokens=5, prompt_logprobs=1))
    loop.run()
    assert n_steps(loop) == [1, 4]


def test_a_call_is_no_longer_than_it_may_be() -> None:
    loop = loop_of(max_call_s=2.5 * STEP_S)
    loop.submit(make_request("a", max_tokens=8))
    loop.run()
    assert n_steps(loop) == [1, 2, 2, 2, 1]


def test_the_pace_is_that_of_the_call_before() -> None:
    pace = CallPace()
    assert pace.steps_within(0.01, 4) == 1
    for seconds, steps, expected in [(0.002, 1, 4), (0.016, 4, 2), (0.3, 1, 1), (0.0101, 1, 1), (0.0, 1, 4)]:
        pace.record(seconds, steps)
        assert pace.steps_within(0.01, 4) == expected


def test_blocks_are_taken_ahead_and_nobody_is_preempted_for_it() -> None:
    # Both need their second block with their fourth token; there is one for each, but no more.
    loop = loop_of(kv_blocks=4)
    requests = [make_request(name, n_prompt=14, max_tokens=12) for name in "ab"]
    loop.submit(*requests)
    loop.step()
    plan = loop.schedule()
    assert plan is not None
    assert plan.n_steps == 4
    assert list(map(len, plan.block_tables)) == [2, 2]
    loop.commit(plan)
    loop.run()
    for request in requests:
        assert tuple(loop.tokens[request.request_id]) == reference_tokens(request)
    assert loop.scheduler.stats().preemptions_total == 0


def test_fewer_steps_are_planned_where_blocks_are_short() -> None:
    loop = loop_of(kv_blocks=3)
    loop.submit(*(make_request(name, n_prompt=14, max_tokens=19) for name in "ab"))
    loop.run()
    # Positions 14 and 15 are in the first blocks; after them there is a block for one of the two only.
    assert n_steps(loop)[:2] == [1, 2]
    assert loop.scheduler.stats().preemptions_total > 0
    for name in "ab":
        request = make_request(name, n_prompt=14, max_tokens=19)
        assert tuple(loop.tokens[name]) == reference_tokens(request)


def test_tokens_that_are_banned_for_a_while_are_banned_exactly_so_long() -> None:
    request = make_request("a", max_tokens=20, min_tokens=6, stop_token_ids=frozenset(range(0, 256, 2)))
    loop = loop_of()
    loop.submit(request)
    loop.run()
    assert n_steps(loop)[:3] == [1, 4, 1]
    assert tuple(loop.tokens["a"]) == reference_tokens(request)


def test_an_abort_during_a_call_of_several_steps() -> None:
    loop = loop_of()
    loop.submit(make_request("gone", max_tokens=20), make_request("stays", max_tokens=20))
    loop.step()
    plan = loop.schedule()
    assert plan is not None
    assert plan.n_steps == 4
    loop.abort("gone")
    assert [event.request_id for event in loop.commit(plan)] == ["stays"]
    loop.run()
    assert len(loop.tokens["gone"]) == 1
    assert tuple(loop.tokens["stays"]) == reference_tokens(make_request("stays", max_tokens=20))
    assert loop.scheduler.stats().kv_blocks_used == 0


def multi_step_plan(loop: SchedulerLoop) -> StepPlan:
    loop.submit(make_request("a", max_tokens=20, stop_token_ids=frozenset({300})), make_request("b"))
    loop.step()
    plan = loop.schedule()
    assert plan is not None
    assert plan.n_steps == 4
    return plan


@pytest.mark.parametrize("token_ids", [[[1, 2], [1]], [[], []], [[1] * 5, [1] * 5], [[1, 2]]])
def test_rows_have_equally_many_tokens_and_no_more_than_planned(token_ids: list[list[int]]) -> None:
    loop = loop_of()
    plan = multi_step_plan(loop)
    result = replace(loop.engine.forward(plan), token_ids=token_ids)
    with pytest.raises(EngineError, match="at most 4 steps of 2 sequences"):
        loop.scheduler.commit(plan, result, loop.clock())


def test_an_engine_that_goes_on_after_an_end_token_is_caught() -> None:
    loop = loop_of()
    plan = multi_step_plan(loop)
    result = replace(loop.engine.forward(plan), token_ids=[[300, 1], [1, 2]])
    with pytest.raises(EngineError, match="went on after an end token of 'a'"):
        loop.scheduler.commit(plan, result, loop.clock())
