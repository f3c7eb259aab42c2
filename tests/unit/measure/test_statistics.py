"""Percentiles, spreads, service levels and summaries of samples."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.measure.sample import Sample
from stoker.measure.slo import Slo
from stoker.measure.statistics import Spread, percentile
from stoker.measure.summary import Trial, summarize

finite = st.floats(min_value=0, max_value=1e6)


@given(st.lists(finite, min_size=2, max_size=50))
def test_percentiles_are_those_of_the_standard_library(samples: list[float]) -> None:
    ascending = sorted(samples)
    wanted = statistics.quantiles(ascending, n=100, method="inclusive")
    for i in (50, 95, 99):
        assert percentile(ascending, i / 100) == pytest.approx(wanted[i - 1])
    assert percentile(ascending, 0) == ascending[0]
    assert percentile(ascending, 1) == ascending[-1]


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="0 samples"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match=r"1\.5"):
        percentile([1.0], 1.5)
    assert Spread.of([]) is None


def test_a_spread_does_not_depend_on_the_order() -> None:
    assert Spread.of([3, 1, 2]) == Spread.of([1, 2, 3])
    spread = Spread.of([1, 2, 3, 10])
    assert spread is not None
    assert (spread.n, spread.mean, spread.p50, spread.max) == (4, 4, 2.5, 10)


def sample(
    *,
    ttft_s: float | None = 0.1,
    gaps_s: tuple[float, ...] = (0.01, 0.01),
    error: str | None = None,
    prompt_tokens: int = 100,
    known_tokens: int = 0,
    output_tokens: int = 3,
    index: int = 0,
) -> Sample:
    return Sample(
        index=index,
        sent_s=0.0,
        late_s=None,
        ttft_s=ttft_s,
        duration_s=1.0,
        gaps_s=gaps_s,
        n_events=len(gaps_s) + 1,
        prompt_tokens=prompt_tokens,
        known_tokens=known_tokens,
        cached_tokens=None,
        output_tokens=output_tokens,
        wanted_tokens=3,
        counted_by="usage",
        error=error,
    )


@pytest.mark.parametrize(
    ("one", "met"),
    [
        (sample(ttft_s=0.6), True),
        (sample(ttft_s=0.601), False),
        (sample(ttft_s=0.6, known_tokens=50), False),
        (sample(ttft_s=0.55, known_tokens=50), True),
        (sample(ttft_s=0.51, known_tokens=500), False),
        (sample(gaps_s=(0.08, 0.08)), True),
        (sample(gaps_s=(0.01, 0.2)), False),
        (sample(gaps_s=(*(0.01 for _ in range(40)), 0.9)), True),
        (sample(gaps_s=()), True),
        (sample(error="cut_off"), False),
        (sample(ttft_s=None), False),
    ],
)
def test_a_request_meets_the_slo_or_does_not(one: Sample, met: bool) -> None:
    slo = Slo(ttft_s=0.5, ttft_per_token_s=0.001, itl_s=0.08)
    assert slo.met_by(one) is met


def trial(*samples: Sample, n_planned: int, n_given_up: int = 0) -> Trial:
    return Trial(
        number=0,
        rate=None,
        clients=1,
        n_planned=n_planned,
        n_given_up=n_given_up,
        duration_s=2.0,
        client_cpu_s=0.5,
        samples=samples,
    )


def test_a_summary_counts_what_failed_and_what_was_never_sent() -> None:
    samples = [
        sample(),
        sample(ttft_s=9.0),
        sample(error="http_429", output_tokens=7),
        sample(error="timeout"),
    ]
    summary = summarize(trial(*samples, n_planned=8, n_given_up=1), Slo())
    assert summary.errors == {"given_up": 1, "http_429": 1, "timeout": 1, "unsent": 3}
    assert (summary.n_complete, summary.n_met, summary.share_met) == (2, 1, 1 / 8)
    assert summary.goodput_per_s == 0.5
    assert summary.output_tokens_per_s == 3.0  # those of complete answers alone
    assert summary.good_tokens_per_s == 1.5
    assert summary.input_tokens_per_s == 100.0
    assert summary.client_cpu_share == 0.25


def test_tokens_that_arrive_together_are_no_gaps_of_nothing() -> None:
    joined = sample(gaps_s=(0.04,), output_tokens=8)
    summary = summarize(trial(joined, n_planned=1), Slo())
    assert summary.gap_s is not None
    assert summary.gap_s.n == 1
    assert summary.gap_s.p50 == 0.04
    assert summary.tpot_s is not None
    assert summary.tpot_s.mean == pytest.approx(0.04 / 7)
    assert summary.tokens_per_arrival == 4.0


def test_a_trial_without_answers_has_no_spreads() -> None:
    summary = summarize(trial(sample(error="connect", ttft_s=None), n_planned=1), Slo())
    assert summary.ttft_s is None
    assert summary.gap_s is None
    assert summary.counted_by == "nobody"
    assert summary.tokens_per_arrival is None
