"""The figures of `bench/quality.py`: each against its definition, on distributions that are small."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker.engine.native.divergence import Divergence, compare, log_softmax
from stoker.testing.quality import mean_kl_ratio, summarize

VOCAB_SIZE = 11


def logits(seed: int, n_tokens: int) -> NDArray[np.float32]:
    return (4 * np.random.default_rng(seed).standard_normal((n_tokens, VOCAB_SIZE))).astype(np.float32)


def divergence(kl: list[float], same: list[bool], nll: float = 1.0, reference: float = 1.0) -> Divergence:
    n = len(kl) - 1
    return Divergence(np.array(kl), np.array(same), np.full(n, reference), np.full(n, nll))


def test_log_softmax_of_large_logits() -> None:
    found = log_softmax(np.array([[1000.0, 1000.0], [-1000.0, 0.0]], np.float32))
    assert found == pytest.approx(np.array([[-np.log(2), -np.log(2)], [-1000.0, 0.0]]))


@pytest.mark.parametrize("n_tokens", [2, 64, 65, 150])
def test_compare_is_the_definition(n_tokens: int) -> None:
    right, wrong = logits(1, n_tokens), logits(2, n_tokens)
    tokens = np.random.default_rng(3).integers(0, VOCAB_SIZE, n_tokens).astype(np.int32)
    found = compare(right, wrong, tokens)
    for i in range(n_tokens):
        p, q = (np.exp(each[i].astype(np.float64)) for each in (right, wrong))
        p, q = p / p.sum(), q / q.sum()
        assert found.kl[i] == pytest.approx(sum(p * np.log(p / q)))
        assert found.same_top[i] == (p.argmax() == q.argmax())
        if i + 1 < n_tokens:
            assert found.reference_nll[i] == pytest.approx(-np.log(p[tokens[i + 1]]))
            assert found.nll[i] == pytest.approx(-np.log(q[tokens[i + 1]]))
    assert len(found.nll) == len(found.reference_nll) == n_tokens - 1


def test_equal_logits_do_not_diverge() -> None:
    same = logits(1, 20)
    found = compare(same, same + 3, np.zeros(20, np.int32))  # a constant changes no distribution
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.same_top.all()


@pytest.mark.parametrize("other", [(3, VOCAB_SIZE), (4, VOCAB_SIZE - 1), (4,)])
def test_shapes_that_do_not_fit_are_refused(other: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="logits of 4 tokens"):
        compare(logits(1, 4), np.zeros(other, np.float32), np.zeros(4, np.int32))


def test_a_summary_is_of_all_positions() -> None:
    found = summarize(
        [
            divergence([0.1, 0.2, 0.3], [True, True, False], nll=2.0),
            divergence([0.4] * 7, [True] * 7, nll=2.0),
        ]
    )
    assert found.n_tokens == 10
    assert found.mean_kl.value == pytest.approx(3.4 / 10)
    assert found.p99_kl.value == pytest.approx(0.4)
    assert found.top_1_agreement.value == pytest.approx(0.9)
    assert found.perplexity.value == pytest.approx(np.exp(2.0))
    assert found.perplexity_ratio.value == pytest.approx(np.e)


def test_intervals_hold_the_value_and_widen_with_the_spread() -> None:
    generator = np.random.default_rng(4)
    widths = []
    for spread in (0.01, 0.1):
        windows = [
            divergence([float(max(0.0, 0.5 + spread * generator.standard_normal()))] * 8, [True] * 8)
            for _ in range(20)
        ]
        found = summarize(windows).mean_kl
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    # 95 % of a mean of 20: 2 * 1.96 * spread / sqrt(20).
    assert widths[0] == pytest.approx(0.0088, rel=0.5)
    assert widths[1] > 5 * widths[0]


def test_the_same_windows_give_the_same_interval() -> None:
    windows = [divergence([0.1 * i] * 4, [True] * 4) for i in range(1, 9)]
    assert summarize(windows) == summarize(windows)


def test_a_ratio_is_paired() -> None:
    theirs = [divergence([0.1 * i] * 4, [True] * 4) for i in range(1, 9)]
    ours = [divergence([0.05 * i] * 4, [True] * 4) for i in range(1, 9)]
    found = mean_kl_ratio(ours, theirs)
    # Windows differ eightfold, but in each ours is half of theirs.
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_nothing_to_sum_up_is_refused() -> None:
    with pytest.raises(ValueError, match="no window"):
        summarize([])
    with pytest.raises(ValueError, match="cannot be compared"):
        mean_kl_ratio([divergence([0.1, 0.1], [True, True])], [])
