"""Drafts never change a token, whoever guesses, and take nothing from anybody."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from stoker.core.batching import BatchingPolicy
from stoker.core.drafting import MAX_DRAFT_TOKENS, DraftCosts, DraftSeat
from stoker.core.errors import EngineError
from stoker.core.sampling import SamplingParams
from stoker.core.step import StepPlan, StepResult
from stoker.core.tokens import TokenRequest
from stoker.core.work import TYPICAL_WORK, StepWork
from stoker.scheduler.draft_costs import LEAST_MARGIN, PROBE_EVERY, DraftPace
from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.step_engine import reference_tokens
from stoker.testing.workloads import make_request

SAMPLED = SamplingParams(seed=3, logprobs=2)
PENALIZED = SamplingParams(seed=5, frequency_penalty=0.5, repetition_penalty=1.2)


class Oracle:
    """Knows what requests get, and says something else now and then."""

    def __init__(self, requests: Sequence[TokenRequest], right: float, seed: int = 1) -> None:
        self._wholes = [[*each.prompt, *reference_tokens(each)] for each in requests]
        self._right = right
        self._random = random.Random(seed)
        self.costs: list[DraftCosts] = []

    def draft(self, seats: Sequence[DraftSeat], costs: DraftCosts) -> dict[int, list[int]]:
        self.costs.append(costs)
        return {seat.row: self._guess(seat) for seat in seats}

    def _guess(self, seat: DraftSeat) -> list[int]:
        known = seat.sequence.tokens
        (whole,) = [each for each in self._wholes if each[: len(known)] == known]
        n = self._random.randint(1, seat.most)
        coming = [*whole[len(known) :][:n]]
        coming += [1] * (n - len(coming))
        return [token if self._random.random() < self._right else (token + 1) % 256 for token in coming]


def mixed(n: int) -> list[TokenRequest]:
    samplings = [None, SAMPLED, PENALIZED]
    ends = [frozenset[int](), frozenset(range(0, 256, 16))]
    return [
        make_request(
            f"r{i}",
            n_prompt=5 + 7 * i,
            max_tokens=20 + 3 * i,
            min_tokens=6 if i % 4 == 1 else 0,
            sampling=samplings[i % 3],
            stop_token_ids=ends[i % 2],
        )
        for i in range(n)
    ]


def expect_references(loop: SchedulerLoop, requests: Sequence[TokenRequest]) -> None:
    assert {each.request_id: tuple(loop.tokens[each.request_id]) for each in requests} == {
        each.request_id: reference_tokens(each) for each in requests
    }


@pytest.mark.parametrize("right", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_call_steps": 4},
        {"kv_blocks": 14},
        {"max_step_tokens": 9},
        {"max_running": 3, "max_step_tokens": 16},
    ],
    ids=["alone", "calls of several steps", "few blocks", "few tokens a step", "few places"],
)
def test_tokens_are_those_without_drafts(right: float, options: dict[str, Any]) -> None:
    requests = mixed(8)
    loop = SchedulerLoop(**options, drafter=Oracle(requests, right))
    loop.submit(*requests)
    loop.run()
    expect_references(loop, requests)
    stats = loop.scheduler.stats()
    n_drafted = sum(sum(plan.drafts.values()) for plan in loop.plans)
    assert stats.drafted_tokens_total == n_drafted > 0
    if right in {0.0, 1.0}:
        assert stats.accepted_tokens_total == right * n_drafted
    for plan in loop.plans:
        assert not plan.drafts or all(
            len(run) == 1 + plan.drafts.get(row, 0) for row, run in enumerate(plan.tokens)
        ), "no draft beside a prompt's chunk"


def test_steps_are_saved_and_counted() -> None:
    request = make_request("a", max_tokens=33)
    loop = SchedulerLoop(drafter=Oracle([request], 1.0, seed=2))
    loop.submit(request)
    loop.run()
    assert len(loop.plans) < 12
    stats = loop.scheduler.stats()
    assert stats.steps_total == len(loop.plans)
    assert stats.generated_tokens_total == 33


def test_nobody_is_preempted_for_a_guess() -> None:
    requests = [make_request(f"r{i}", n_prompt=30, max_tokens=17) for i in range(3)]
    loop = SchedulerLoop(kv_blocks=9, drafter=Oracle(requests, 0.5))
    loop.submit(*requests)
    loop.run()
    expect_references(loop, requests)
    assert loop.scheduler.stats().preemptions_total == 0


def test_a_sequence_that_is_aborted_under_its_draft() -> None:
    requests = mixed(3)
    loop = SchedulerLoop(drafter=Oracle(requests, 1.0))
    loop.submit(*requests)
    while not loop.plans or not loop.plans[-1].drafts:
        plan = loop.schedule()
        assert plan is not None
        if plan.drafts:
            loop.abort("r1")
        loop.commit(plan)
    loop.run()
    expect_references(loop, [requests[0], requests[2]])


def planned(loop: SchedulerLoop) -> StepPlan:
    while True:
        plan = loop.schedule()
        assert plan is not None
        if plan.drafts:
            return plan
        loop.commit(plan)


@pytest.mark.parametrize("wrong", [[], [300, 300], "all and more"], ids=["none", "after a wrong one", "more"])
def test_a_result_that_does_not_answer_its_drafts_is_refused(wrong: list[int] | str) -> None:
    request = make_request("a", max_tokens=40)
    loop = SchedulerLoop(drafter=Oracle([request], 1.0))
    loop.submit(request)
    plan = planned(loop)
    sampled = [*plan.tokens[0][1:], 1, 1] if isinstance(wrong, str) else wrong
    with pytest.raises(EngineError, match="report this bug"):
        loop.scheduler.commit(plan, StepResult([sampled], [[]]), loop.clock())


def test_only_the_plan_in_flight_gets_drafts() -> None:
    request = make_request("a", max_tokens=40)
    oracle = Oracle([request], 1.0)
    loop = SchedulerLoop()
    loop.submit(request)
    plan = loop.schedule()
    assert plan is not None
    loop.commit(plan)
    with pytest.raises(EngineError, match="not in flight"):
        loop.scheduler.speculate(plan, oracle)


def test_drafts_are_told_how_long_a_step_may_take() -> None:
    request = make_request("a", max_tokens=40)
    oracle = Oracle([request], 1.0)
    policy = BatchingPolicy(mode="latency", itl_target_s=0.02)
    loop = SchedulerLoop(batching=policy, drafter=oracle)
    loop.submit(request)
    loop.run()
    assert {costs.most_s <= 0.04 for costs in oracle.costs} == {True}


def test_plain_steps_are_looked_at_now_and_then() -> None:
    pace = DraftPace(TYPICAL_WORK)
    decodes = StepWork(1, 100, 100, 1)
    pace.observe_plain(decodes, 0.01, alone=True)
    for _ in range(PROBE_EVERY):
        assert pace.costs(decodes, 1.0).base_s > pace.costs(decodes, 1.0).token_s
        pace.observe_drafted(StepWork(5, 500, 104, 5), 0.011, n_drafted=4, n_accepted=4)
    costs = pace.costs(decodes, 1.0)
    assert costs.base_s == costs.token_s, "no draft pays"
    pace.observe_plain(decodes, 0.01, alone=True)
    assert pace.costs(decodes, 1.0).base_s > pace.costs(decodes, 1.0).token_s


def test_more_is_asked_of_drafts_that_bring_less_than_expected() -> None:
    pace = DraftPace(TYPICAL_WORK)
    decodes = StepWork(2, 200, 200, 2)
    for _ in range(50):
        pace.observe_plain(decodes, 0.01, alone=True)
    for _ in range(20):
        pace.observe_drafted(StepWork(2 + MAX_DRAFT_TOKENS, 1700, 215, 17), 0.02, n_drafted=15, n_accepted=1)
    raised = pace.costs(decodes, 1.0).margin
    assert raised > LEAST_MARGIN + 0.1
    for _ in range(2000):
        pace.observe_plain(decodes, 0.01, alone=True)
    assert pace.costs(decodes, 1.0).margin == LEAST_MARGIN
