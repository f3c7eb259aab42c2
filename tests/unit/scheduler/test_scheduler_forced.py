"""Forced tokens: taken at once, computed as a run, and the same whatever else runs."""

from dataclasses import replace
from typing import Any

import pytest

from stoker.core.tokens import FinishReason, TokenRequest
from stoker.testing.forcing import FIRST_FORCED, FORCING
from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_request


def forcing(name: str, **fields: Any) -> TokenRequest:
    return replace(make_request(name, **fields), grammar=FORCING)


def mixed(n: int) -> list[TokenRequest]:
    return [
        (forcing if i % 2 else make_request)(f"r{i}", n_prompt=5 + 9 * i, max_tokens=30 + 8 * i)
        for i in range(n)
    ]


@pytest.mark.parametrize(
    "options",
    [{}, {"max_call_steps": 4}, {"kv_blocks": 16}, {"max_step_tokens": 9}, {"max_running": 2}],
    ids=["alone", "calls of several steps", "few blocks", "few tokens a step", "few places"],
)
def test_the_same_tokens_beside_anything(options: dict[str, Any]) -> None:
    loop = SchedulerLoop(**options)
    requests = mixed(7)
    loop.submit(*requests)
    loop.run()
    assert {name: tuple(tokens) for name, tokens in loop.tokens.items()} == {
        each.request_id: reference_tokens(each) for each in requests
    }
    assert set(loop.finished.values()) == {FinishReason.LENGTH}
    stats = loop.scheduler.stats()
    assert stats.generated_tokens_total == sum(each.max_tokens for each in requests)
    assert 0 < stats.forced_tokens_total < stats.generated_tokens_total
    assert stats.kv_blocks_used == 0


def test_they_take_no_step_each_and_are_sampled_after_once() -> None:
    loop = SchedulerLoop()
    request = forcing("a", max_tokens=200)
    loop.submit(request)
    loop.run()
    stats = loop.scheduler.stats()
    assert stats.steps_total == request.max_tokens - stats.forced_tokens_total
    assert len(loop.plans) == len(loop.events) == stats.steps_total
    for plan, event, next_plan in zip(loop.plans, loop.events, loop.plans[1:], strict=False):
        assert plan.samples == [True]
        assert next_plan.tokens == [list(event.token_ids)]


def test_a_long_run_goes_through_several_steps() -> None:
    loop = SchedulerLoop(max_step_tokens=8, max_running=2)
    loop.submit(forcing("a", max_tokens=150))
    loop.run()
    assert max(plan.n_tokens for plan in loop.plans) == 8
    assert any(not plan.samples[0] for plan in loop.plans[10:])


def test_they_end_with_max_tokens() -> None:
    whole = reference_tokens(forcing("a", max_tokens=100))
    for max_tokens in range(1, 60):
        loop = SchedulerLoop()
        loop.submit(forcing("a", max_tokens=max_tokens))
        loop.run()
        assert tuple(loop.tokens["a"]) == whole[:max_tokens]
        assert loop.finished == {"a": FinishReason.LENGTH}


def test_they_end_with_an_end_token() -> None:
    in_the_midst = 0
    for end in range(FIRST_FORCED, 216, 3):
        request = replace(forcing("a", max_tokens=100), stop_token_ids=frozenset({end}))
        loop = SchedulerLoop()
        loop.submit(request)
        loop.run()
        assert tuple(loop.tokens["a"]) == reference_tokens(request)
        stopped = loop.tokens["a"][-1] == end
        assert loop.finished == {"a": FinishReason.STOP if stopped else FinishReason.LENGTH}
        in_the_midst += stopped and len(loop.events[-1].token_ids) > 1
    assert in_the_midst > 5
