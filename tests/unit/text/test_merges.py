"""Merges that a SentencePiece vocabulary implies."""

from hypothesis import given
from hypothesis import strategies as st

from stoker.text.merges import merges_of_scores


def test_every_cut_into_known_pieces_is_a_merge_of_the_piece_s_score() -> None:
    merges = merges_of_scores(["a", "b", "ab", "abb", "bb", "xa"], [-9, -8, -3, -1, -2, 0])
    assert merges == [("ab", "b"), ("a", "bb"), ("b", "b"), ("a", "b")]


def test_of_equal_scores_the_longer_left_part_comes_first() -> None:
    assert merges_of_scores(["a", "aa", "aaa"], [0, 0, 0]) == [("aa", "a"), ("a", "aa"), ("a", "a")]


@given(st.sets(st.text("ab", min_size=1, max_size=5)), st.integers(1, 5))
def test_ties_do_not_change_what_is_merged(pieces: set[str], n_scores: int) -> None:
    ordered = sorted(pieces)
    merges = merges_of_scores(ordered, [index % n_scores for index in range(len(ordered))])
    distinct = merges_of_scores(ordered, list(range(len(ordered))))
    assert sorted(merges) == sorted(distinct)
    assert len(set(merges)) == len(merges)
    assert all({left, right, left + right} <= pieces for left, right in merges)
