"""Drafts never change a token, whoever guesses, and take nothing from anybody."""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from stoker.core.batching import BatchingPolicy
from stoker.core.drafting import MAX_DRAFT_TOKENS
from stoker.core.errors import EngineError
from stoker.core.pooling import Pooling
from stoker.core.sampling import SamplingParams
from stoker.core.step import StepPlan, StepResult
from stoker.core.tokens import TokenRequest
from stoker.core.work import TYPICAL_WORK, StepWork
from stoker.kvcache import TierBooks
from stoker.scheduler.draft_costs import LEAST_MARGIN, PROBE_EVERY, DraftPace
from stoker.speculate.guesser import Guesser
from stoker.speculate.model import ModelDrafter
from stoker.testing.cheap_drafts import AtAnyCost
from stoker.testing.oracle_drafter import OracleDrafter
from stoker.testing.scheduler_loop import SchedulerLoop
from stoker.testing.step_engine import DEFAULT_VOCAB_SIZE, FakeStepEngine, reference_tokens
from stoker.testing.workloads import make_request, make_tokens

SAMPLED = SamplingParams(seed=3, logprobs=2)
PENALIZED = SamplingParams(seed=5, frequency_penalty=0.5, repetition_penalty=1.2)


class AnyToken:
    """A grammar of whatever there is."""

    allowed = memoryview(array("I", [2**32 - 1] * 8))
    complete = False

    def advance(self, token_ids: Sequence[int]) -> bool:
        assert len(token_ids) == 1
        return False

    def force(self, most: int) -> Sequence[int]:
        assert most >= 0
        return ()


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
@pytest.mark.parametrize("computes", [False, True], ids=["copied", "computed"])
def test_tokens_are_those_without_drafts(right: float, options: dict[str, Any], *, computes: bool) -> None:
    requests = mixed(8)
    oracle = OracleDrafter(requests, right)
    oracle.computes = computes
    loop = SchedulerLoop(**options, drafter=oracle)
    loop.submit(*requests)
    loop.run()
    expect_references(loop, requests)
    stats = loop.scheduler.stats()
    n_drafted = sum(sum(plan.drafts.values()) for plan in loop.plans)
    assert stats.drafted_tokens_total == n_drafted > 0
    if "max_call_steps" not in options:  # each row that samples gives one token beside those of its draft
        n_rows = sum(sum(plan.samples) for plan in loop.plans)
        assert stats.accepted_tokens_total == stats.generated_tokens_total - n_rows
    for plan in loop.plans:
        assert not plan.drafts or all(
            len(run) == 1 + plan.drafts.get(row, 0) for row, run in enumerate(plan.tokens)
        ), "no draft beside a prompt's chunk"


@pytest.mark.parametrize("layers", [(), (1,)], ids=["a model of its own", "without layers"])
@pytest.mark.parametrize(
    "options",
    [{}, {"max_call_steps": 4}, {"kv_blocks": 14}, {"max_running": 3, "max_step_tokens": 16}],
    ids=["alone", "calls of several steps", "few blocks", "few places"],
)
def test_what_a_model_computes_for_guesses_changes_nothing(
    layers: tuple[int, ...], options: dict[str, Any]
) -> None:
    """The fake engine's memory tells: what guesses leave there without a layer is wrong."""
    shared = make_request("shared", n_prompt=40, max_tokens=24)
    choices = [
        replace(shared, request_id=f"c{n}", sampling=SamplingParams(seed=1, choice=n)) for n in range(3)
    ]
    requests = [*mixed(5), *choices]
    loop = SchedulerLoop(**options)
    guesser = Guesser(
        loop.engine if layers else FakeStepEngine(loop.engine.kv_blocks),
        longest=1024,
        max_step_tokens=64,
        vocab_size=DEFAULT_VOCAB_SIZE,
        skipped=layers,
    )
    loop.drafter = AtAnyCost(ModelDrafter(guesser, MAX_DRAFT_TOKENS, cost=0.1, clock=loop.clock))
    loop.submit(*requests)
    loop.run()
    expect_references(loop, requests)
    stats = loop.scheduler.stats()
    assert stats.accepted_tokens_total > 0
    if not layers:
        assert stats.accepted_tokens_total == stats.drafted_tokens_total, "it is the same model"


@pytest.mark.parametrize("computes", [False, True], ids=["copied", "computed"])
def test_what_is_evicted_for_a_draft_is_saved_before_it_is_overwritten(*, computes: bool) -> None:
    """Else host memory would have the draft's keys and values under the prefix's name."""
    prefix = make_tokens("conversation", 81)
    first = make_request("first", prompt=prefix, max_tokens=4)
    other = make_request("other", n_prompt=30, max_tokens=80)
    again = make_request("again", prompt=prefix, max_tokens=8)
    oracle = OracleDrafter([first, other, again])
    oracle.computes = computes
    loop = SchedulerLoop(kv_blocks=8, tiers=TierBooks(16), drafter=oracle)
    for request in (first, other, again):
        loop.submit(request)
        loop.run()
    assert loop.events[-1].cached_tokens >= 64
    assert loop.scheduler.stats().host_restored_tokens_total > 0
    expect_references(loop, [first, other, again])


def test_steps_are_saved_and_counted() -> None:
    request = make_request("a", max_tokens=33)
    loop = SchedulerLoop(drafter=OracleDrafter([request], 1.0, seed=2))
    loop.submit(request)
    loop.run()
    assert len(loop.plans) < 12
    stats = loop.scheduler.stats()
    assert stats.steps_total == len(loop.plans)
    assert stats.generated_tokens_total == 33


@pytest.mark.parametrize(
    ("kv_blocks", "n_prompts"),
    [(5, (16, 11, 6, 1)), (5, (20, 28, 5)), (7, (20, 28, 5)), (9, (16, 11, 6, 1)), (10, (14, 9, 4))],
)
@pytest.mark.parametrize("computes", [False, True], ids=["copied", "computed"])
def test_wrong_guesses_take_no_block_from_anybody(
    kv_blocks: int, n_prompts: tuple[int, ...], *, computes: bool
) -> None:
    """Every step gives one token, so all goes as without guesses if they hold no block after their step."""
    requests = [make_request(f"r{i}", n_prompt=n, max_tokens=50) for i, n in enumerate(n_prompts)]
    plain = SchedulerLoop(kv_blocks=kv_blocks)
    oracle = OracleDrafter(requests, 0.0)
    oracle.computes = computes
    wrong = SchedulerLoop(kv_blocks=kv_blocks, drafter=oracle)
    for loop in (plain, wrong):
        loop.submit(*requests)
        loop.run()
        expect_references(loop, requests)
    assert plain.scheduler.stats().preemptions_total > 0
    assert wrong.scheduler.stats().preemptions_total == plain.scheduler.stats().preemptions_total
    assert [each.request_ids for each in wrong.plans] == [each.request_ids for each in plain.plans]
    assert wrong.scheduler.stats().drafted_tokens_total > 0


def test_a_draft_ends_where_every_block_is_held() -> None:
    request = make_request("a", n_prompt=10, max_tokens=30)
    loop = SchedulerLoop(kv_blocks=3, drafter=OracleDrafter([request], 1.0, seed=5))
    loop.submit(request)
    plan = planned(loop)
    assert plan.first_positions[0] + len(plan.tokens[0]) > 16, "it goes on into a second block"
    holder = SchedulerLoop(kv_blocks=3, max_pinned_blocks=2, drafter=OracleDrafter([request], 1.0, seed=5))
    holder.submit(make_request("pin", n_prompt=32, max_tokens=1, hold=True))
    holder.run()
    holder.submit(request)
    cut = planned(holder)
    assert cut.first_positions[0] + len(cut.tokens[0]) == 16
    assert holder.scheduler.stats().preemptions_total == 0


def test_a_sequence_that_is_aborted_under_its_draft() -> None:
    requests = mixed(3)
    loop = SchedulerLoop(drafter=OracleDrafter(requests, 1.0))
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


def none(_: list[int]) -> list[int]:
    return []


def after_a_wrong_guess(draft: list[int]) -> list[int]:
    return [(draft[0] + 1) % 256, *draft[1:2], 7]


def more_than_all(draft: list[int]) -> list[int]:
    return [*draft, 7, 7]


@pytest.mark.parametrize("sampled", [none, after_a_wrong_guess, more_than_all])
def test_a_result_that_does_not_answer_its_drafts_is_refused(
    sampled: Callable[[list[int]], list[int]],
) -> None:
    request = make_request("a", max_tokens=40)
    loop = SchedulerLoop(drafter=OracleDrafter([request], 1.0, seed=2))
    loop.submit(request)
    plan = planned(loop)
    draft = plan.tokens[0][1:]
    assert len(draft) > 2
    with pytest.raises(EngineError, match="report this bug"):
        loop.scheduler.commit(plan, StepResult([sampled(draft)], [[]]), loop.clock())


def test_what_is_held_to_a_grammar_or_pooled_has_no_draft() -> None:
    free = make_request("free", max_tokens=30)
    held = make_request("held", max_tokens=30)
    oracle = OracleDrafter([free], 1.0)
    loop = SchedulerLoop(drafter=oracle)
    loop.scheduler.submit(held, loop.clock(), AnyToken())
    loop.submit(free, make_request("pooled", n_prompt=40, max_tokens=0, pooling=Pooling.MEAN))
    loop.run()
    assert loop.finished.keys() == {"free", "held", "pooled"}
    assert tuple(loop.tokens["free"]) == reference_tokens(free)
    drafted = {plan.request_ids[row] for plan in loop.plans for row in plan.drafts}
    assert drafted == {"free"}
    assert not any(plan.drafts and plan.pooling for plan in loop.plans)


def test_only_the_plan_in_flight_gets_drafts() -> None:
    request = make_request("a", max_tokens=40)
    oracle = OracleDrafter([request], 1.0)
    loop = SchedulerLoop()
    loop.submit(request)
    plan = loop.schedule()
    assert plan is not None
    loop.commit(plan)
    with pytest.raises(EngineError, match="not in flight"):
        loop.scheduler.speculate(plan, oracle)


def test_drafts_are_told_how_long_a_step_may_take() -> None:
    request = make_request("a", max_tokens=40)
    oracle = OracleDrafter([request], 1.0)
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
        pace.observe_drafted(
            StepWork(5, 500, 104, 5), 0.011, drafting_s=0.0, n_drafted=4, n_accepted=4, on_trial=False
        )
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
        work = StepWork(2 + MAX_DRAFT_TOKENS, 1700, 215, 17)
        pace.observe_drafted(work, 0.015, drafting_s=0.005, n_drafted=15, n_accepted=1, on_trial=False)
    raised = pace.costs(decodes, 1.0).margin
    assert raised > LEAST_MARGIN + 0.1
    pace.observe_drafted(work, 0.015, drafting_s=0.005, n_drafted=15, n_accepted=1, on_trial=True)
    assert pace.costs(decodes, 1.0).margin == raised, "of a trial nothing was expected"
    for _ in range(2000):
        pace.observe_plain(decodes, 0.01, alone=True)
    assert pace.costs(decodes, 1.0).margin == LEAST_MARGIN
