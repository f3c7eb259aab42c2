from dataclasses import replace

import pytest

from stoker.core.errors import EngineError
from stoker.core.sampling import SamplingParams
from stoker.core.step import StepResult
from stoker.core.tokens import FinishReason
from stoker.testing.scheduler_loop import STEP_S, SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_request


def test_length_ends_a_sequence() -> None:
    loop = SchedulerLoop()
    request = make_request("a", max_tokens=5)
    loop.submit(request)
    loop.run()
    assert tuple(loop.tokens["a"]) == reference_tokens(request)
    assert [event.finish_reason for event in loop.events] == [None] * 4 + [FinishReason.LENGTH]


@pytest.mark.parametrize("at", [0, 3, 9])
def test_a_stop_token_ends_a_sequence_and_is_included(at: int) -> None:
    request = make_request("a", max_tokens=10)
    whole = reference_tokens(request)
    assert whole[at] not in whole[:at]
    loop = SchedulerLoop()
    loop.submit(replace(request, stop_token_ids=frozenset({whole[at], 10_000})))
    loop.run()
    assert tuple(loop.tokens["a"]) == whole[: at + 1]
    # Even where max_tokens ends it too.
    assert loop.finished == {"a": FinishReason.STOP}


def test_a_stop_token_in_the_prompt_does_not_end_it() -> None:
    request = make_request("a", prompt=(7, 7, 7), max_tokens=3)
    assert 7 not in reference_tokens(request)
    loop = SchedulerLoop()
    loop.submit(replace(request, stop_token_ids=frozenset({7})))
    loop.run()
    assert loop.finished == {"a": FinishReason.LENGTH}


def test_logprobs_come_with_their_tokens() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("with", max_tokens=3, sampling=SamplingParams(logprobs=2)))
    loop.submit(make_request("none", max_tokens=3))
    loop.run()
    for event in loop.events:
        if event.request_id == "none":
            assert event.logprobs == ()
        else:
            (logprob,) = event.logprobs
            assert logprob.logprob == -0.5
            assert logprob.top[0][0] == event.token_ids[0]
            assert len(logprob.top) == 2


def test_sampling_parameters_reach_the_engine() -> None:
    loop = SchedulerLoop()
    samplings = [SamplingParams(seed=1), SamplingParams(seed=2), SamplingParams(seed=1, choice=1)]
    requests = [
        make_request(str(i), prompt=(1, 2, 3), sampling=sampling) for i, sampling in enumerate(samplings)
    ]
    loop.submit(*requests)
    loop.run()
    assert len({tuple(tokens) for tokens in loop.tokens.values()}) == 3
    for request in requests:
        assert tuple(loop.tokens[request.request_id]) == reference_tokens(request)


@pytest.mark.parametrize(
    "result",
    [
        StepResult([[5]], [[]]),
        StepResult([[], [5]], [[], []]),
        StepResult([[5], [5]], [[], []]),
        StepResult([[], []], [[], []]),
        StepResult([[5], []], [[]]),
        StepResult([[5, 6], []], [[], []]),
    ],
)
def test_a_result_that_does_not_answer_the_plan(result: StepResult) -> None:
    loop = SchedulerLoop(max_step_tokens=20)
    loop.submit(make_request("a", n_prompt=10), make_request("b", n_prompt=30))
    plan = loop.schedule()
    assert plan is not None
    assert plan.samples == [True, False]
    with pytest.raises(EngineError, match="report this bug"):
        loop.scheduler.commit(plan, result, loop.clock())
    loop.scheduler.check()
    # Nothing was changed: the right result is still taken.
    loop.commit(plan)


def test_a_plan_is_committed_once() -> None:
    loop = SchedulerLoop()
    loop.submit(make_request("a"))
    plan = loop.schedule()
    assert plan is not None
    loop.commit(plan)
    with pytest.raises(EngineError, match="not in flight"):
        loop.scheduler.commit(plan, StepResult([[1]], [[]]), 0.0)
    later = loop.schedule()
    assert later is not None
    with pytest.raises(EngineError, match="not in flight"):
        loop.scheduler.commit(plan, StepResult([[1]], [[]]), 0.0)


def test_stats() -> None:
    loop = SchedulerLoop(kv_blocks=64, max_running=2)
    loop.submit(*(make_request(name, n_prompt=20, max_tokens=4) for name in "abc"))
    loop.step()
    stats = loop.scheduler.stats()
    assert (stats.running, stats.waiting) == (2, 1)
    assert (stats.kv_blocks_total, stats.kv_blocks_used, stats.kv_blocks_cached) == (64, 4, 0)
    loop.clock.advance(5)
    loop.run()
    stats = loop.scheduler.stats()
    assert (stats.running, stats.waiting, stats.kv_blocks_used, stats.kv_blocks_cached) == (0, 0, 0, 3)
    assert (stats.prompt_tokens_total, stats.generated_tokens_total) == (60, 12)
    assert stats.steps_total == len(loop.plans) == 8
    assert stats.step_seconds_total == pytest.approx(8 * STEP_S)


def test_what_an_engine_had_by_itself_counts_as_cached() -> None:
    loop = SchedulerLoop(max_step_tokens=16)
    loop.submit(make_request("a", n_prompt=20, max_tokens=2), make_request("b", n_prompt=4, max_tokens=1))
    for reused in ({0: 16}, {0: 50}, {0: 1}):
        plan = loop.scheduler.schedule(loop.clock())
        assert plan is not None
        loop.events += loop.scheduler.commit(
            plan, replace(loop.engine.forward(plan), reused=reused), loop.clock.advance(STEP_S)
        )
        loop.scheduler.check()
    cached = {event.request_id: event.cached_tokens for event in loop.events}
    assert cached == {"a": 19, "b": 0}  # never the whole prompt, and nothing that was generated
    assert loop.scheduler.stats().cached_tokens_total == 19
