"""Lengths of drafts: the most tokens per second, and none where plain steps are as fast."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from stoker.core.drafting import DraftCosts
from stoker.speculate.lengths import choose_lengths, may_pay

COSTS = st.builds(
    DraftCosts,
    n_streams=st.integers(2, 4),
    plain_s=st.floats(1.0, 4.0),
    base_s=st.floats(1.0, 4.0),
    token_s=st.floats(0.05, 2.0),
)


def rate(lengths: tuple[int, ...], chances: list[float], costs: DraftCosts) -> float:
    """Tokens per second of a step with these drafts."""
    n_tokens = costs.n_streams + sum(
        chance**i for chance, n in zip(chances, lengths, strict=True) for i in range(1, n + 1)
    )
    return n_tokens / (costs.base_s + costs.token_s * sum(lengths))


@given(st.lists(st.floats(0.01, 0.98), min_size=2, max_size=2), COSTS)
def test_no_other_lengths_are_faster(chances: list[float], costs: DraftCosts) -> None:
    most = [4, 3]
    lengths = choose_lengths(chances, most, costs)
    best = max(rate(each, chances, costs) for each in product(range(5), range(4)))
    plain = costs.n_streams / costs.plain_s
    if any(lengths):
        assert rate((lengths[0], lengths[1]), chances, costs) > best * (1 - 1e-9)
        assert best >= costs.margin * plain * (1 - 1e-9)
        assert all(n <= limit for n, limit in zip(lengths, most, strict=True))
    elif best > 1.0001 * costs.n_streams / costs.base_s:
        assert best < costs.margin * plain * (1 + 1e-9)


def test_there_is_none_where_each_row_costs_its_share_of_a_step() -> None:
    costs = DraftCosts(n_streams=16, plain_s=16.0, base_s=16.0, token_s=1.0)
    assert not may_pay(costs)
    assert choose_lengths([0.98] * 16, [15] * 16, costs) == [0] * 16
    assert may_pay(DraftCosts(n_streams=1, plain_s=2.0, base_s=2.0, token_s=0.2))


def test_the_likelier_guesses_get_more_and_a_step_takes_no_longer_than_it_may() -> None:
    costs = DraftCosts(n_streams=2, plain_s=2.0, base_s=2.0, token_s=0.1)
    likely, unlikely = choose_lengths([0.95, 0.5], [15, 15], costs)
    assert likely > unlikely > 0
    short = DraftCosts(n_streams=2, plain_s=2.0, base_s=2.0, token_s=0.1, most_s=2.55)
    assert sum(choose_lengths([0.95, 0.95], [15, 15], short)) == 5


def test_more_is_asked_for_where_drafts_have_disappointed() -> None:
    costs = DraftCosts(n_streams=1, plain_s=2.0, base_s=2.0, token_s=0.2)
    wary = DraftCosts(n_streams=1, plain_s=2.0, base_s=2.0, token_s=0.2, margin=3.0)
    assert choose_lengths([0.6], [15], costs) != [0]
    assert choose_lengths([0.6], [15], wary) == [0]
