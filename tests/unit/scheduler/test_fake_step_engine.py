"""The fake engine is the oracle of the scheduler's tests, so it must notice each kind of mistake."""

from dataclasses import replace
from typing import Any

import pytest

from stoker.core.errors import EngineError
from stoker.core.sampling import SamplingParams
from stoker.core.step import LogitEdits, StepPlan
from stoker.testing.step_engine import FakeStepEngine, reference_tokens
from stoker.testing.workloads import make_request, make_tokens

GREEDY = SamplingParams(temperature=0.0)
PROMPT = list(make_tokens("p", 40))


def plan_of(*rows: tuple[list[int], int, list[int]]) -> StepPlan:
    """Return a plan of (tokens, first position, block table) rows that all sample."""
    return StepPlan(
        request_ids=[str(i) for i in range(len(rows))],
        tokens=[tokens for tokens, _, _ in rows],
        first_positions=[first for _, first, _ in rows],
        block_tables=[table for _, _, table in rows],
        samples=[True] * len(rows),
        sampling=[GREEDY] * len(rows),
    )


def edited_plan(**changes: int) -> StepPlan:
    """Return a plan of one row with edits, some of whose fields are changed."""
    request = make_request("a", prompt=PROMPT, sampling=SamplingParams(presence_penalty=1.0))
    edits = LogitEdits.of(request)
    assert edits is not None
    for name, value in changes.items():
        setattr(edits, name, value)
    return replace(plan_of((PROMPT, 0, [0, 1, 2])), edits={0: edits})


def last_token(*plans: StepPlan) -> int:
    engine = FakeStepEngine(8)
    return [engine.forward(plan).token_ids[0][0] for plan in plans][-1]


RIGHT = last_token(plan_of((PROMPT, 0, [0, 1, 2])))


def test_the_reference_agrees() -> None:
    request = make_request("a", prompt=PROMPT, max_tokens=30)
    engine = FakeStepEngine(8)
    run, first = PROMPT, 0
    output = []
    for _ in range(30):
        ((token,),) = engine.forward(plan_of((run, first, [3, 1, 4, 5, 2]))).token_ids
        output.append(token)
        first += len(run)
        run = [token]
    assert reference_tokens(request) == tuple(output)
    assert len(set(output)) > 20


@pytest.mark.parametrize("border", [1, 15, 16, 17, 31, 32, 39])
def test_neither_chunks_nor_block_ids_change_the_token(border: int) -> None:
    table = [5, 0, 7]
    assert (
        last_token(plan_of((PROMPT[:border], 0, table)), plan_of((PROMPT[border:], border, table))) == RIGHT
    )


@pytest.mark.parametrize(
    "table", [[1, 0, 2], [0, 1, 3], [0, 3, 2]], ids=["swapped", "wrong last", "wrong middle"]
)
def test_a_wrong_table_changes_the_token(table: list[int]) -> None:
    assert last_token(plan_of((PROMPT[:36], 0, [0, 1, 2])), plan_of((PROMPT[36:], 36, table))) != RIGHT


def test_a_missed_token_changes_the_token() -> None:
    assert last_token(plan_of((PROMPT[:38], 0, [0, 1, 2])), plan_of((PROMPT[39:], 39, [0, 1, 2]))) != RIGHT


def test_an_overwritten_block_changes_the_token() -> None:
    first = plan_of((PROMPT[:36], 0, [0, 1, 2]))
    intruder = plan_of((PROMPT[5:9], 0, [0]))
    assert last_token(first, intruder, plan_of((PROMPT[36:], 36, [0, 1, 2]))) != RIGHT


def test_a_block_shared_behind_another_prefix_changes_the_token() -> None:
    other = [*make_tokens("q", 16), *PROMPT[16:32]]
    shared = plan_of((other, 0, [3, 4]))
    first = plan_of((PROMPT[:16], 0, [0]))
    assert last_token(shared, first, plan_of((PROMPT[32:], 32, [0, 4, 2]))) != RIGHT


def test_seed_and_choice_matter_only_when_sampling() -> None:
    def tokens(**changes: float) -> tuple[int, ...]:
        sampling = SamplingParams(**changes)  # type: ignore[arg-type]  # every field here takes the int given
        return reference_tokens(make_request("a", prompt=PROMPT, sampling=sampling))

    assert tokens(seed=1) != tokens(seed=2)
    assert tokens(seed=1, choice=1) != tokens(seed=1)
    assert tokens(temperature=0, seed=1) == tokens(temperature=0, seed=2)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (plan_of(), "a plan has 0 request ids"),
        (StepPlan(request_ids=["a"]), "a plan has 1 request ids"),
        (plan_of(([], 0, [0])), "do not fit"),
        (plan_of((PROMPT, 0, [0, 1])), "do not fit 2 blocks"),
        (plan_of(([1], -1, [0])), "do not fit"),
        (plan_of(([256], 0, [0])), "outside the vocabulary"),
        (plan_of(([1], 0, [8])), "not of distinct blocks below 8"),
        (plan_of((PROMPT, 0, [0, 1, 0])), "not of distinct blocks"),
        (plan_of(([1], 0, [0]), ([1], 0, [0])), "both write block 0"),
        (plan_of(([1], 16, [0, 1]), ([1], 0, [0])), "row 0 uses block 0, which row 1 writes"),
    ],
)
def test_a_plan_that_no_engine_could_compute(plan: StepPlan, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        FakeStepEngine(8).forward(plan)


def test_edits_change_the_token_and_must_be_those_of_the_row() -> None:
    right = edited_plan()
    assert last_token(right) != RIGHT
    assert last_token(edited_plan(presence_penalty=2)) not in {RIGHT, last_token(right)}
    with pytest.raises(EngineError, match="row 1, which does not sample"):
        FakeStepEngine(8).forward(replace(right, edits={1: right.edits[0]}))
    with pytest.raises(EngineError, match="row 0, which does not sample"):
        FakeStepEngine(8).forward(replace(right, samples=[False]))
    with pytest.raises(EngineError, match="not that of its tokens"):
        FakeStepEngine(8).forward(edited_plan(n_prompt=41))
    right.edits[0].history.append(1)
    with pytest.raises(EngineError, match="not that of its tokens"):
        FakeStepEngine(8).forward(right)


def test_several_steps_give_the_tokens_of_single_ones() -> None:
    request = make_request("a", prompt=PROMPT, max_tokens=4, sampling=SamplingParams(frequency_penalty=1.0))
    expected = reference_tokens(request)
    edits = LogitEdits.of(request)
    assert edits is not None
    steps = replace(edited_plan(), tokens=[list(PROMPT[-1:])], first_positions=[len(PROMPT) - 1])
    steps = replace(
        steps, sampling=[request.sampling], edits={0: edits}, n_steps=4, stop_token_ids=[frozenset()]
    )
    computed: list[list[int]] = []
    engine = FakeStepEngine(8, before_step=computed.append)
    engine.forward(plan_of((PROMPT, 0, [0, 1, 2])))
    assert engine.forward(steps).token_ids == [list(expected)]
    assert computed == [[token] for token in expected[:3]]
    assert edits.history.tolist() == list(PROMPT)
    ending = replace(steps, stop_token_ids=[frozenset({expected[1]})])
    assert engine.forward(ending).token_ids == [list(expected[:2])]
    engine.heed(bytearray([1]))
    assert engine.forward(steps).token_ids == [list(expected[:1])]


@pytest.mark.parametrize(
    "changes",
    [
        {"stop_token_ids": []},
        {"samples": [False]},
        {"n_steps": 0},
        {"tokens": [[1, 2]]},
        {"first_positions": [29]},
    ],
)
def test_several_steps_that_no_engine_could_compute(changes: dict[str, Any]) -> None:
    right = replace(plan_of(([1], 28, [0, 1])), n_steps=4, stop_token_ids=[frozenset()])
    assert len(FakeStepEngine(8).forward(right).token_ids[0]) == 4
    with pytest.raises(EngineError):
        FakeStepEngine(8).forward(replace(right, **changes))


def test_a_closed_engine_refuses() -> None:
    engine = FakeStepEngine(8)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.forward(plan_of((PROMPT, 0, [0, 1, 2])))


def test_before_forward_sees_every_plan() -> None:
    plans: list[StepPlan] = []
    engine = FakeStepEngine(8, before_forward=plans.append)
    plan = plan_of((PROMPT, 0, [0, 1, 2]))
    engine.forward(plan)
    assert plans == [plan]
    assert engine.n_forwards == 1
