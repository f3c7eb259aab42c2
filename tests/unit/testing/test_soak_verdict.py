"""When a soak calls memory flat, and what it asks."""

import random
from dataclasses import replace

import pytest

from stoker.testing.soak.asks import KINDS, make_asks
from stoker.testing.soak.client import Ending, Manner, Outcome
from stoker.testing.soak.run import Seen
from stoker.testing.soak.trend import medians, trend
from stoker.testing.soak.verdict import judge
from stoker.testing.soak.view import Sample

RIGHT = Outcome("ask-1", Manner.READS, Ending.COMPLETE, status=200)


def samples(growth_kib_per_minute: float, *, minutes: float = 20.0, pid: int = 1) -> list[Sample]:
    """A process's samples, every 2 s: some warm-up, the growth, and noise."""
    noise = random.Random(pid)
    return [
        Sample(
            at_s=at,
            pid=pid,
            rss_kib=int(100_000 + min(at, 60) * 50 + growth_kib_per_minute * at / 60 + noise.randrange(400)),
            pss_kib=90_000,
            fds=20,
            threads=4,
        )
        for at in range(0, int(60 * minutes), 2)
    ]


def seen(growth_kib_per_minute: float = 0.0, *, minutes: float = 20.0) -> Seen:
    gateway = samples(growth_kib_per_minute, minutes=minutes)
    return Seen(
        before=gateway[0],
        after=gateway[-1],
        load_s=60 * minutes,
        outcomes=[RIGHT],
        gateway=gateway,
        engines=[
            Sample(10.0 * pid, pid, rss_kib=500_000 - 10_000 * (pid % 3), pss_kib=0, fds=1, threads=1)
            for pid in range(9)
        ],
    )


def test_a_slope_is_found_in_noise_and_with_outliers() -> None:
    points = [(60.0 * minute, 1000 + 10.0 * minute) for minute in range(20)]
    exact = trend(points)
    assert exact is not None
    assert (exact.slope, exact.low, exact.high) == (10.0, 10.0, 10.0)
    points[7] = (points[7][0], 10**6)
    disturbed = trend(points)
    assert disturbed is not None
    assert disturbed.slope == 10.0
    noise = random.Random(1)
    for grows in (0.0, 5.0, -5.0):
        found = trend([(60.0 * minute, grows * minute + noise.gauss(0, 20)) for minute in range(40)])
        assert found is not None
        assert found.low < grows < found.high
    assert trend(points[:7]) is None


def test_samples_are_reduced_to_medians_of_stretches() -> None:
    assert medians([(1, 5), (2, 9), (3, 6), (31, 1), (95, 2)], 30) == [(2, 6), (31, 1), (95, 2)]


@pytest.mark.parametrize(("growth", "flat"), [(0.0, True), (20.0, True), (150.0, False), (1000.0, False)])
def test_a_gateway_that_grows_is_not_flat(growth: float, *, flat: bool) -> None:
    verdict = judge(seen(growth))
    assert verdict.gateway_flat is flat
    assert verdict.passed is flat


def test_too_short_a_load_says_nothing_of_memory() -> None:
    verdict = judge(seen(1000.0, minutes=1))
    assert verdict.gateway_flat is None
    assert verdict.passed


def test_engines_that_become_larger_one_after_the_other_are_not_flat() -> None:
    good = seen()
    assert judge(good).engines_flat
    good.engines[8] = replace(good.engines[8], rss_kib=520_000)
    verdict = judge(good)
    assert not verdict.engines_flat
    assert not verdict.passed
    assert judge(replace(good, engines=good.engines[:2])).engines_flat is None


def test_wrong_answers_and_what_is_left_over_are_seen() -> None:
    assert judge(seen()).passed
    wrong = Outcome("ask-2", Manner.READS, Ending.WRONG, detail="no")
    for bad in (
        replace(seen(), outcomes=[RIGHT, wrong]),
        replace(seen(), outcomes=[]),
        replace(seen(), left_over={"stoker_engine_running": 1.0}),
    ):
        assert not judge(bad).answers_right
        assert not judge(bad).passed
    leaking = seen()
    leaking.after = replace(leaking.after, fds=leaking.before.fds + 3)
    assert not judge(leaking).fds_flat
    assert not judge(leaking).passed


def test_requests_depend_on_the_seed_alone_and_are_of_every_kind() -> None:
    asks = make_asks(40, seed=1, model="m")
    assert asks == make_asks(40, seed=1, model="m")
    assert asks != make_asks(40, seed=2, model="m")
    assert len({ask.name.rpartition("-")[0] for ask in asks}) == len(KINDS)
    assert all("seed" in ask.body or ask.body.get("temperature") == 0 for ask in asks), "repeatable"
    assert {ask.stream for ask in asks} == {True, False}
