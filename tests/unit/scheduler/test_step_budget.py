"""How many prompt tokens a step takes: never none, never too many, no more than the time allows."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.step import BLOCK_TOKENS
from stoker.core.work import TYPICAL_WORK, StepWork
from stoker.scheduler.budget import StepBudget
from stoker.scheduler.cost import CostModel
from stoker.testing.timed_machine import TimedMachine


def costs(seed: int) -> CostModel:
    """Return costs of a machine of its own."""
    chance = random.Random(seed)
    machine = TimedMachine(row_s=10 ** chance.uniform(-6, -2), pair_s=10 ** chance.uniform(-9, -5))
    model = CostModel(TYPICAL_WORK)
    for _ in range(20):
        work = StepWork()
        work.add_run(chance.randint(0, 1000), chance.randint(1, 300), 1)
        model.observe(work, machine.mean_s(work))
    return model


PROMPTS = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 3000)), min_size=1, max_size=8)


@given(
    st.integers(0, 9),
    st.integers(0, 64),
    st.integers(1, 2048),
    st.none() | st.floats(-1, 2),
    PROMPTS,
    st.booleans(),
)
def test_prompts_always_advance_within_the_limits(
    seed: int,
    n_decodes: int,
    n_more: int,
    seconds: float | None,
    prompts: list[tuple[int, int]],
    scored: bool,
) -> None:
    model = costs(seed)
    decodes = StepWork(n_decodes, 100 * n_decodes, 100 * n_decodes, n_decodes)
    before = model.predict(decodes)
    budget = StepBudget(decodes, n_decodes + n_more, seconds, model)
    assert n_decodes < budget.n_tokens <= n_decodes + n_more
    taken = []
    for first, n_wanted in prompts:
        taken.append(budget.take(first, n_wanted, scored_from=0 if scored else None))
        assert 0 <= taken[-1] <= n_wanted
        if taken[-1] == 0:
            break
    assert taken[0] > 0
    assert budget.work.rows == n_decodes + sum(taken) <= n_decodes + n_more
    if seconds is None:
        assert sum(taken) == min(n_more, sum(n for _, n in prompts[: len(taken)]))
        return
    if sum(taken) < min(n_more, sum(n for _, n in prompts[: len(taken)])):  # the time was not enough
        cut = next(i for i, n in enumerate(taken) if n < prompts[i][1])
        least = taken[0] == min(BLOCK_TOKENS, n_more, prompts[0][1]) and cut == 0
        assert least or (prompts[cut][0] + taken[cut]) % BLOCK_TOKENS == 0 or taken[cut] == 0
    if taken[0] > BLOCK_TOKENS:
        n_last = sum(n > 0 for n in taken)
        _, row, _, read, output = model.costs_s
        spent = model.predict(budget.work) - before - (0 if scored else n_last * output)
        assert spent <= max(seconds, 0) + 1e-9 * n_last + row * 1e-6 + read


@given(st.integers(0, 9), st.floats(1e-4, 1), st.integers(0, 4000))
def test_the_time_is_used_but_for_a_block(seed: int, seconds: float, first: int) -> None:
    model = costs(seed)
    budget = StepBudget(StepWork(1, first, first, 1), 10**6, seconds, model)
    before = model.predict(budget.work)
    n_taken = budget.take(first, 10**6, scored_from=None)
    budget.work.add_run(first + n_taken, BLOCK_TOKENS, 0)
    assert model.predict(budget.work) - before > seconds * (1 - 1e-6)


@given(st.integers(0, 9), st.integers(0, 3000), st.integers(1, 1000))
def test_more_time_takes_more_tokens(seed: int, first: int, n_wanted: int) -> None:
    model = costs(seed)
    taken = [
        StepBudget(StepWork(1, 9, 9, 1), 512, seconds, model).take(first, n_wanted, scored_from=None)
        for seconds in (0.0, 0.001, 0.01, 0.1, 1.0, 10.0)
    ]
    assert taken == sorted(taken)


def test_without_a_time_a_step_is_filled() -> None:
    budget = StepBudget(StepWork(3, 30, 30, 3), 100, None, costs(0))
    assert budget.n_tokens == 100
    assert budget.take(0, 50, scored_from=None) == 50
    assert budget.take(7, 80, scored_from=None) == 47
    assert budget.take(0, 1, scored_from=None) == 0
    assert budget.work.rows == 100


@pytest.mark.parametrize(
    ("scored_from", "first", "n_wanted", "n_outputs"),
    [(None, 0, 50, 1), (0, 0, 50, 50), (40, 0, 50, 10), (49, 0, 50, 1), (90, 80, 100, 10), (3, 80, 10, 10)],
)
def test_rows_of_logits_are_counted(
    scored_from: int | None, first: int, n_wanted: int, n_outputs: int
) -> None:
    budget = StepBudget(StepWork(), 20 if n_wanted == 100 else 100, 10.0, costs(0))
    budget.take(first, n_wanted, scored_from=scored_from)
    assert budget.work.outputs == n_outputs
