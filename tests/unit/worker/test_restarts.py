from hypothesis import given
from hypothesis import strategies as st

from stoker.worker.restarts import RestartHistory, RestartPolicy

POLICY = RestartPolicy(first_delay_s=0.1, max_delay_s=30.0, crash_loop_deaths=5, window_s=60.0)


def test_the_pause_doubles_and_five_deaths_in_the_window_are_a_crash_loop() -> None:
    history = RestartHistory(POLICY)
    delays = [history.record_death(float(now), lived_s=0.0) for now in range(4)]
    assert delays == [0.1, 0.2, 0.4, 0.8]
    assert not history.crash_loop
    assert history.record_death(4.0, lived_s=0.0) == 30.0
    assert history.crash_loop


def test_slow_attempts_do_not_end_a_crash_loop_but_a_long_life_does() -> None:
    history = RestartHistory(POLICY)
    for now in range(5):
        history.record_death(float(now), lived_s=0.0)
    assert history.record_death(1000.0, lived_s=59.0) == 30.0
    assert history.crash_loop
    assert history.record_death(2000.0, lived_s=60.0) == 0.1
    assert not history.crash_loop


def test_deaths_spread_wider_than_the_window_are_no_crash_loop() -> None:
    history = RestartHistory(POLICY)
    for now in range(0, 1000, 16):  # the fifth is 64 s after the first
        history.record_death(float(now), lived_s=9.0)
        assert not history.crash_loop


def test_engines_that_served_for_a_while_are_restarted_soon_however_many_died_before() -> None:
    history = RestartHistory(POLICY)
    unsettled = [history.record_death(100.0 * number, lived_s=9.9) for number in range(4)]
    assert unsettled == [0.1, 0.2, 0.4, 0.8]
    settled = [history.record_death(1000.0 + 16 * number, lived_s=10.0) for number in range(20)]
    assert settled == [0.1] * 20
    assert history.record_death(2000.0, lived_s=0.0) == 0.2


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), max_size=2000))
def test_pauses_stay_within_bounds(deaths: list[tuple[float, float]]) -> None:
    history = RestartHistory(POLICY)
    now = 0.0
    for pause_s, lived_s in deaths:
        now += pause_s
        delay_s = history.record_death(now, lived_s=lived_s)
        assert POLICY.first_delay_s <= delay_s <= POLICY.max_delay_s
