"""Lengths, calibration, and the requests of a trial."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.core.errors import SettingsError, StokerError
from stoker.measure.calibration import Calibration
from stoker.measure.lengths import Lengths
from stoker.measure.rate_search import RateSearch
from stoker.measure.words import WORDS, words_of
from stoker.measure.workload import Workload, plan_requests

MIXED = Workload(
    prompt=Lengths(64, 2048, mixed=True),
    output=Lengths(16, 256),
    shared_share=0.5,
    shared_tokens=200,
    n_shared=3,
    seed=7,
)


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("512", Lengths(512, 512)),
        (" 64-2048 ", Lengths(64, 2048)),
        ("mixed:64-2048", Lengths(64, 2048, mixed=True)),
    ],
)
def test_lengths_are_read_and_written(text: str, lengths: Lengths) -> None:
    assert Lengths.parse(text, "--prompt-tokens") == lengths
    assert str(lengths) == text.strip()


@pytest.mark.parametrize("text", ["", "0", "9-3", "many", "1-", "mixed:", "2000000", "1-2-3", "-5"])
def test_lengths_that_are_none_are_refused_by_the_flag_s_name(text: str) -> None:
    with pytest.raises(SettingsError, match="--output-tokens"):
        Lengths.parse(text, "--output-tokens")


@given(st.integers(1, 3000), st.integers(0, 3000), st.booleans(), st.integers())
def test_drawn_lengths_are_in_range(low: int, more: int, mixed: bool, seed: int) -> None:
    lengths = Lengths(low, low + more, mixed)
    numbers = random.Random(seed)
    assert all(low <= lengths.draw(numbers) <= low + more for _ in range(20))


def test_each_doubling_of_mixed_lengths_is_alike() -> None:
    numbers = random.Random(0)
    drawn = [Lengths(64, 2047, mixed=True).draw(numbers) for _ in range(5000)]
    for low in (64, 128, 256, 512, 1024):
        assert 900 < sum(low <= n < 2 * low for n in drawn) < 1100


def test_words_are_common_and_many() -> None:
    assert len(WORDS) == len(set(WORDS)) >= 400
    assert len(words_of(random.Random(0), 33).split(" ")) == 33


def test_the_same_seed_plans_the_same_requests() -> None:
    calibration = Calibration()
    plan = plan_requests(MIXED, calibration, 50, trial=0, rate=2.0)
    assert plan == plan_requests(MIXED, calibration, 50, trial=0, rate=2.0)
    assert plan[:20] == plan_requests(MIXED, calibration, 20, trial=0, rate=2.0)
    other = plan_requests(replace(MIXED, seed=8), calibration, 50, trial=0, rate=2.0)
    assert {each.text for each in plan}.isdisjoint(each.text for each in other)


def test_another_trial_shares_no_prompt_and_no_prefix() -> None:
    first, second = (plan_requests(MIXED, Calibration(), 40, trial=trial, rate=None) for trial in (0, 1))
    assert {each.text for each in first}.isdisjoint(each.text for each in second)
    assert {each.shared for each in first} & {each.shared for each in second} <= {""}


def test_another_rate_stretches_the_same_arrivals() -> None:
    slow, fast = (plan_requests(MIXED, Calibration(), 200, trial=0, rate=rate) for rate in (1.0, 4.0))
    for one, other in zip(slow, fast, strict=True):
        assert one.due_s == pytest.approx(4 * (other.due_s or 0.0))
        assert one.text == other.text
    assert slow[0].due_s == 0
    assert 150 < (slow[-1].due_s or 0) < 250  # 200 arrivals, one a second


def test_shared_parts_are_known_from_their_second_request_on() -> None:
    plan = plan_requests(MIXED, Calibration(), 60, trial=0, rate=None)
    shared = [each for each in plan if each.shared]
    assert 20 < len(shared) < 40
    assert len({each.shared for each in shared}) == 3
    assert sum(each.known_tokens == 0 for each in shared) == 3
    assert all(each.known_tokens == 200 for each in shared[10:])
    assert not any(each.known_tokens for each in plan if not each.shared)


@given(st.floats(0.5, 3.0), st.integers(0, 60), st.integers(0, 90), st.integers(400, 2048))
def test_prompts_have_the_wanted_length_by_the_server_s_count(
    ratio: float, overhead: int, overhead_shared: int, length: int
) -> None:
    calibration = Calibration(tokens_per_word=ratio, overhead=overhead, overhead_shared=overhead_shared)
    workload = replace(MIXED, prompt=Lengths(length, length))
    for each in plan_requests(workload, calibration, 6, trial=0, rate=None):
        words = len(each.text.split()) + len(each.shared.split())
        counted = words * ratio + (overhead_shared if each.shared else overhead)
        assert abs(counted - length) <= 2 * ratio
        assert abs(each.prompt_tokens - counted) <= 1


def test_a_prompt_is_longer_than_its_shared_part() -> None:
    workload = replace(MIXED, prompt=Lengths(10, 10), shared_share=1.0)
    for each in plan_requests(workload, Calibration(), 5, trial=0, rate=None):
        assert len(each.text.split()) == 16
        assert len(each.shared.split()) == 200
        assert each.prompt_tokens == 216


def test_too_many_requests_are_refused() -> None:
    with pytest.raises(SettingsError, match="100,000"):
        plan_requests(MIXED, Calibration(), 100_001, trial=0, rate=None)
    with pytest.raises(SettingsError, match="fewer or shorter"):
        plan_requests(replace(MIXED, prompt=Lengths(9000, 9000)), Calibration(), 90_000, trial=0, rate=None)


def test_calibration_finds_ratio_and_overhead() -> None:
    calibration = Calibration.of_counts(short=64 * 2 + 31, long=320 * 2 + 31, shared=128 * 2 + 12)
    assert calibration == Calibration(
        tokens_per_word=2.0, overhead=31, overhead_shared=12, counted_by="usage"
    )
    assert calibration.words(512) == 256
    assert calibration.words(0) == 1


@pytest.mark.parametrize("long", [0, 64, 30, 10**9])
def test_counts_that_cannot_be_right_are_refused(long: int) -> None:
    with pytest.raises(StokerError, match="usage"):
        Calibration.of_counts(short=64, long=long, shared=100)


@given(st.floats(0.01, 500), st.floats(0.01, 64))
def test_the_search_finds_the_rate_to_within_its_tolerance(limit: float, start: float) -> None:
    search = RateSearch(start, tolerance=0.1, max_trials=100)
    n_trials = 0
    while (rate := search.next_rate()) is not None:
        search.record(rate, borne=rate <= limit)
        n_trials += 1
    assert search.settled
    assert search.borne is not None
    assert search.refused is not None
    assert search.borne <= limit < search.refused <= 1.1 * search.borne
    assert n_trials < 30


def test_the_search_ends_after_so_many_trials() -> None:
    search = RateSearch(1.0, tolerance=0.1, max_trials=3)
    tried = []
    while (rate := search.next_rate()) is not None:
        tried.append(rate)
        search.record(rate, borne=False)
    assert tried == [1.0, 0.5, 0.25]
    assert (search.borne, search.refused, search.settled) == (None, 0.25, False)
