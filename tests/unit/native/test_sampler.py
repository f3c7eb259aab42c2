"""Greedy choice, ties, log-probabilities and hopeless logits."""

from typing import TypedDict, Unpack

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stoker._native import MAX_LOGPROBS, kernels

Floats = NDArray[np.float32]
Sampled = tuple[int, float, list[tuple[int, float]]]

SIZES = [1, 2, 15, 16, 17, 100, 1023, 1024, 1025, 2049, 49152]
INF = float("inf")


def greedy(isa: str, logits: Floats, n_logprobs: int = -1) -> Sampled:
    return kernels.sample(isa, logits, 0.0, 0, 1.0, 0.0, 0, 0, 0, n_logprobs)


class Limits(TypedDict, total=False):
    top_k: int
    top_p: float
    min_p: float


def draw(
    isa: str, logits: Floats, *, temperature: float = 1.0, seed: int = 0, **limits: Unpack[Limits]
) -> int:
    top_k, top_p, min_p = limits.get("top_k", 0), limits.get("top_p", 1.0), limits.get("min_p", 0.0)
    return kernels.sample(isa, logits, temperature, top_k, top_p, min_p, seed, 0, 0, -1)[0]


def random_logits(seed: int, n: int) -> Floats:
    return (np.random.default_rng(seed).standard_normal(n) * 5).astype(np.float32)


@pytest.mark.parametrize("n", SIZES)
def test_greedy_takes_the_highest(isa: str, n: int) -> None:
    for seed in range(5):
        logits = random_logits(seed, n)
        assert greedy(isa, logits)[0] == logits.argmax()


@settings(derandomize=True, deadline=None, max_examples=100)
@given(values=st.lists(st.sampled_from([-INF, -1.5, 0.0, 0.25, 3.0]), min_size=1, max_size=70))
def test_greedy_ties_go_to_the_lowest_token(isa: str, values: list[float]) -> None:
    assert greedy(isa, np.array(values, np.float32))[0] == values.index(max(values))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("n_logprobs", [0, 1, 5, 20])
def test_logprobs(isa: str, n: int, n_logprobs: int) -> None:
    logits = random_logits(n, n)
    logits[::7] = logits[0]  # ties
    token, logprob, top = greedy(isa, logits, n_logprobs)
    exact = logits.astype(np.float64) - logits.max()
    expected = exact - np.log(np.exp(exact).sum())
    order = np.lexsort((np.arange(n), -logits))[:n_logprobs]
    assert [token_id for token_id, _ in top] == order.tolist()
    np.testing.assert_allclose([value for _, value in top], expected[order], rtol=3e-7, atol=1e-6)
    np.testing.assert_allclose(logprob, expected[token], rtol=3e-7, atol=1e-6)


def test_logprobs_are_those_before_temperature(isa: str) -> None:
    logits = random_logits(1, 200)
    plain = kernels.sample(isa, logits, 1.0, 1, 1.0, 0.0, 7, 0, 3, 4)
    assert kernels.sample(isa, logits, 0.2, 1, 0.5, 0.1, 7, 0, 3, 4) == plain
    assert greedy(isa, logits, 4) == plain


def test_no_logprobs_unless_asked_for(isa: str) -> None:
    logits = random_logits(2, 50)
    assert greedy(isa, logits) == (int(logits.argmax()), 0.0, [])


def test_logprobs_of_impossible_tokens(isa: str) -> None:
    logits = np.full(40, -INF, np.float32)
    logits[[3, 30]] = 1.0
    _, logprob, top = greedy(isa, logits, 3)
    assert logprob == pytest.approx(np.log(0.5))
    assert [token for token, _ in top] == [3, 30, 0]
    assert top[2][1] == -INF


def test_fewer_tokens_than_logprobs(isa: str) -> None:
    assert [token for token, _ in greedy(isa, np.array([1, 3, 2], np.float32), MAX_LOGPROBS)[2]] == [1, 2, 0]


def test_impossible_tokens_are_never_drawn(isa: str) -> None:
    logits = np.full(1100, -INF, np.float32)
    possible = {0, 16, 1023, 1024, 1099}
    logits[list(possible)] = 0.0
    for limits in (Limits(), Limits(top_p=0.999), Limits(min_p=0.01), Limits(top_k=5)):
        assert {draw(isa, logits, seed=seed, **limits) for seed in range(200)} == possible


@pytest.mark.parametrize("top_k", [1, 3, 4])
def test_ties_at_the_end_of_top_k_go_to_the_lowest_tokens(isa: str, top_k: int) -> None:
    logits = np.zeros(50, np.float32)
    logits[40] = 1.0
    assert {draw(isa, logits, top_k=top_k, seed=seed) for seed in range(100)} == {40, *range(top_k - 1)}


def test_ties_at_the_end_of_top_p_go_to_the_lowest_tokens(isa: str) -> None:
    logits = np.zeros(100, np.float32)
    assert {draw(isa, logits, top_p=0.025, seed=seed) for seed in range(100)} == {0, 1, 2}


@pytest.mark.parametrize("limits", [{"top_k": 1}, {"top_p": 0.0}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_limits_that_leave_the_best_token_alone(isa: str, limits: Limits) -> None:
    logits = random_logits(3, 300)
    for seed in range(50):
        assert draw(isa, logits, temperature=5.0, seed=seed, **limits) == logits.argmax()


@pytest.mark.parametrize("temperature", [1e-45, 1e-40, 1e-30, 1e-6])
def test_temperatures_near_zero_are_greedy(isa: str, temperature: float) -> None:
    logits = random_logits(4, 300)
    for seed in range(20):
        assert draw(isa, logits, temperature=temperature, seed=seed) == logits.argmax()


def test_a_very_high_temperature_is_uniform(isa: str) -> None:
    counts = np.bincount(
        [draw(isa, random_logits(5, 8), temperature=1e30, seed=seed) for seed in range(4000)], minlength=8
    )
    assert np.all(np.abs(counts - 500) < 5 * 500**0.5)


@pytest.mark.parametrize("value", [-INF, np.nan])
@pytest.mark.parametrize("n", [1, 16, 33, 1025])
def test_hopeless_logits_give_token_0(isa: str, n: int, value: float) -> None:
    logits = np.full(n, value, np.float32)
    assert greedy(isa, logits, 5)[0] == 0
    assert draw(isa, logits) == 0
    assert draw(isa, logits, top_k=3, top_p=0.9, min_p=0.1) == 0


def test_huge_logits(isa: str) -> None:
    logits = np.array([-3e38, 0, 3e38, 2e38], np.float32)
    token, logprob, _ = greedy(isa, logits, 1)
    assert (token, logprob) == (2, 0.0)
    assert draw(isa, logits) == 2


def test_refused(isa: str) -> None:
    with pytest.raises(ValueError, match="too many logprobs"):
        greedy(isa, np.zeros(50, np.float32), MAX_LOGPROBS + 1)
    with pytest.raises(ValueError, match="no logits"):
        greedy(isa, np.zeros(0, np.float32))
