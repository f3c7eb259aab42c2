"""The prediction of a step's time: right, steady under disturbances, quick to follow a change."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.work import TYPICAL_WORK, ModelWork, StepWork
from stoker.scheduler.cost import CostModel
from stoker.scheduler.quantile import LatestQuantile
from stoker.testing.timed_machine import TimedMachine

FAST = ModelWork(weight_bytes=1e7, row_ops=2e7, pair_ops=1e4, kv_bytes=1e4, output_ops=1e7)
SLOW = ModelWork(weight_bytes=8e9, row_ops=2e10, pair_ops=5e5, kv_bytes=1e5, output_ops=1e9)


def mixed_work(chance: random.Random) -> StepWork:
    """Return a step as they come: streams, and often a chunk of a prompt."""
    work = StepWork()
    for _ in range(chance.randint(0, 20)):
        work.add_run(chance.randint(10, 2000), 1, 1)
    if chance.random() < 0.6 or not work.rows:
        work.add_run(chance.randint(0, 1500), chance.randint(16, 400), chance.randint(0, 1))
    return work


def taught(
    machine: TimedMachine, n_steps: int, *, model: ModelWork = TYPICAL_WORK, seed: int = 0
) -> CostModel:
    chance = random.Random(seed)
    costs = CostModel(model)
    for _ in range(n_steps):
        work = mixed_work(chance)
        costs.observe(work, machine.mean_s(work) * max(0.5, chance.gauss(1, machine.noise)))
    return costs


@pytest.mark.parametrize("model", [TYPICAL_WORK, FAST, SLOW])
def test_a_steady_machine_is_known_after_some_tens_of_steps_wherever_it_began(model: ModelWork) -> None:
    machine = TimedMachine()
    costs = taught(machine, 60, model=model)
    chance = random.Random(1)
    for _ in range(100):
        work = mixed_work(chance)
        assert costs.predict(work) == pytest.approx(machine.mean_s(work), rel=0.1)


def test_noise_averages_out() -> None:
    machine = TimedMachine(noise=0.15)
    costs = taught(machine, 400)
    chance = random.Random(1)
    errors = []
    for _ in range(200):
        work = mixed_work(chance)
        errors.append(costs.predict(work) / machine.mean_s(work) - 1)
    assert abs(sum(errors) / len(errors)) < 0.05
    assert max(map(abs, errors)) < 0.3


def test_one_disturbed_step_moves_little() -> None:
    machine = TimedMachine(noise=0.03)
    costs = taught(machine, 200)
    work = mixed_work(random.Random(5))
    before = costs.predict(work)
    costs.observe(work, 1000 * machine.mean_s(work))
    assert costs.predict(work) == pytest.approx(before, rel=0.1)


def test_a_machine_that_became_slower_for_good_is_followed() -> None:
    machine = TimedMachine(noise=0.03)
    costs = taught(machine, 200)
    chance = random.Random(2)
    for _ in range(80):
        work = mixed_work(chance)
        costs.observe(work, 2.5 * machine.mean_s(work))
    assert costs.predict(work) == pytest.approx(2.5 * machine.mean_s(work), rel=0.15)


def test_a_long_time_of_decoding_does_not_forget_what_prompts_cost() -> None:
    machine = TimedMachine()
    costs = taught(machine, 200)
    prompt = StepWork()
    prompt.add_run(0, 256, 1)
    for step in range(20_000):
        decode = StepWork()
        decode.add_run(100 + step % 1000, 1, 1)
        costs.observe(decode, machine.mean_s(decode))
    assert costs.predict(prompt) == pytest.approx(machine.mean_s(prompt), rel=0.05)


def test_the_same_steps_give_the_same_costs() -> None:
    machine = TimedMachine(noise=0.1)
    assert taught(machine, 300).costs_s == taught(machine, 300).costs_s


WORK = st.builds(
    StepWork,
    st.integers(1, 16384),
    st.integers(1, 10**8),
    st.integers(1, 10**7),
    st.integers(0, 16384),
)
SECONDS = st.floats(1e-9, 1e6)


@given(st.lists(st.tuples(WORK, SECONDS), min_size=1, max_size=40), WORK)
def test_whatever_is_measured_predictions_are_positive_and_more_work_takes_longer(
    measured: list[tuple[StepWork, float]], work: StepWork
) -> None:
    costs = CostModel(TYPICAL_WORK)
    for done, seconds in measured:
        assert costs.observe(done, seconds) > 0
    assert all(cost > 0 for cost in costs.costs_s)
    assert 0 < costs.predict(work) < float("inf")
    more = StepWork(work.rows + 1, work.pairs + 1, work.reads + 1, work.outputs)
    assert costs.predict(more) > costs.predict(work)
    for index, row in enumerate(costs._covariance):
        assert row[index] >= -1e-9


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=60), st.integers(1, 20))
def test_a_quantile_is_exact_over_the_latest_values(values: list[float], size: int) -> None:
    quantile = LatestQuantile(0.95, size=size, at_first=-1.0, least=min(3, size))
    for n_seen, value in enumerate(values, start=1):
        quantile.add(value)
        latest = sorted(values[max(0, n_seen - size) : n_seen])
        if len(latest) < min(3, size):
            assert quantile.value == -1.0
        else:
            assert sum(each <= quantile.value for each in latest) >= 0.95 * len(latest)
            assert sum(each < quantile.value for each in latest) < 0.95 * len(latest)
