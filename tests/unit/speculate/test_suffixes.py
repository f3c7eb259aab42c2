"""The index of a sequence's ends against a search through all of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.speculate import suffixes
from stoker.speculate.suffixes import GRAM, LONGEST, Match, SuffixIndex, continuation

SEQUENCES = st.lists(st.integers(0, 2), min_size=1, max_size=60)


def search(tokens: list[int]) -> Match | None:
    """Compare the end with every earlier place."""
    best = None
    for place in range(GRAM - 1, len(tokens) - 1):
        n = 0
        while n < min(LONGEST, place + 1) and tokens[place - n] == tokens[-1 - n]:
            n += 1
        if n >= GRAM and (best is None or n >= best.length):
            best = Match(place, n)
    return best


@given(SEQUENCES, st.data())
def test_the_longest_match_is_found_however_the_sequence_grows(whole: list[int], data: st.DataObject) -> None:
    tokens: list[int] = []
    index = SuffixIndex(tokens)
    while len(tokens) < len(whole):
        tokens += whole[len(tokens) :][: data.draw(st.integers(1, 7))]
        assert index.catch_up()
        found, expected = index.match(), search(tokens)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            # Among many occurrences the longest of the latest ones is taken.
            assert found.length <= expected.length
            assert tokens[found.end + 1 - found.length : found.end + 1] == tokens[-found.length :]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_it_is_the_very_best_among_few(tokens: list[int]) -> None:
    index = SuffixIndex(tokens)
    index.catch_up()
    assert index.match() == search(tokens)


def test_a_long_prompt_is_taken_in_by_and_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suffixes, "MAX_ADDED", 10)
    tokens = [*range(25), *range(5)]
    index = SuffixIndex(tokens)
    assert [index.catch_up() for _ in range(3)] == [False, False, True]
    assert index.match() == Match(4, 5)


def test_what_follows_is_copied_and_repeats_itself_at_the_end() -> None:
    tokens = [1, 2, 3, 4, 1, 2, 3]
    assert continuation(tokens, 2, 3) == [4, 1, 2]
    assert continuation(tokens, 2, 10) == [4, 1, 2, 3, 4, 1, 2, 3, 4, 1]
    assert continuation([7, 7, 7, 7], 2, 3) == [7, 7, 7]
