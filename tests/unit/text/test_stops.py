"""Stop strings against a search of the whole text."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stoker.core.errors import InvalidRequestError
from stoker.text.stops import MAX_STOP_CHARS, StopMatcher

SMALL = st.text(alphabet="ab\u20ac", min_size=1, max_size=4)


def first_match(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Try every end in turn: the definition, word for word."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(
    st.lists(st.text(alphabet="ab\u20acc", max_size=5), max_size=12), st.lists(SMALL, min_size=1, max_size=4)
)
@example(["ab", "c"], ["abcd", "bc"])
@example(["a", "a", "b"], ["aab", "b"])
@example(["aaa", "ab"], ["aab"])
def test_the_first_match_is_found_however_the_text_is_cut(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    out = "".join([matcher.feed(piece) for piece in pieces])
    expected, matched = first_match("".join(pieces), stops)
    assert matcher.matched == matched
    assert out + matcher.flush() == expected


@given(st.text(alphabet="abc", max_size=12), st.lists(SMALL, min_size=1, max_size=3))
def test_no_more_is_held_than_may_begin_a_stop_string(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    out = matcher.feed(text)
    if matcher.matched is None:
        held = text[len(out) :]
        longest = max(
            size
            for size in range(len(text) + 1)
            if any(stop.startswith(text[len(text) - size :]) for stop in stops)
        )
        assert len(held) == longest


def test_text_that_may_begin_a_stop_string_is_held_until_decided() -> None:
    matcher = StopMatcher(["\nUser:"])
    assert matcher.feed("Hello\nUs") == "Hello"
    assert matcher.feed("ual") == "\nUsual"
    assert matcher.feed("\n") == ""
    assert matcher.feed("User:") == ""
    assert matcher.matched == "\nUser:"
    assert matcher.feed("more") == ""
    assert matcher.flush() == ""


def test_what_is_held_at_the_end_is_text() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("the EN") == "the "
    assert matcher.flush() == "EN"
    assert matcher.matched is None


def test_the_match_that_ends_first_wins() -> None:
    matcher = StopMatcher(["abcd", "bc"])
    assert matcher.feed("xabcd") == "xa"
    assert matcher.matched == "bc"


def test_of_matches_with_the_same_end_the_longest_wins() -> None:
    matcher = StopMatcher(["c", "abc", "bc"])
    assert matcher.feed("xab") + matcher.feed("c") == "x"
    assert matcher.matched == "abc"


@pytest.mark.parametrize("stops", [[""], ["a", ""], ["x" * (MAX_STOP_CHARS + 1)]])
def test_stop_strings_that_cannot_be_looked_for_are_refused(stops: list[str]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        StopMatcher(stops)
    assert caught.value.param == "stop"


def test_the_worst_text_takes_time_in_proportion() -> None:
    matcher = StopMatcher(["a" * 4000 + "b", "a" * 3000 + "c"])
    started = time.process_time()
    for _ in range(10_000):
        matcher.feed("aaaaaaaaaa")
    assert time.process_time() - started < 2
