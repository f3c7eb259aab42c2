"""Which slot of llama.cpp a sequence gets, and which ones make room."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.engine.llamacpp.slots import Slot, SlotBook, Tokens, shared


def tokens(*values: int) -> Tokens:
    return np.array(values, np.int32)


def compute(book: SlotBook, sequences: dict[str, Tokens]) -> list[Slot]:
    """Do to the book what the engine does for one step."""
    slots = book.assign(list(sequences), list(sequences.values()), [True] * len(sequences))
    book.room_for(list(zip(slots, sequences.values(), strict=True)))
    for slot, history in zip(slots, sequences.values(), strict=True):
        slot.tokens = history
    return slots


@pytest.mark.parametrize(
    ("one", "other", "n"),
    [((), (), 0), ((1, 2), (), 0), ((1, 2, 3), (1, 2, 4), 2), ((1, 2), (1, 2, 3), 2), ((5, 2), (1, 2), 0)],
)
def test_what_two_sequences_begin_with(one: Sequence[int], other: Sequence[int], n: int) -> None:
    assert shared(tokens(*one), tokens(*other)) == n


def test_a_sequence_keeps_its_slot() -> None:
    book = SlotBook(2, 100, 100)
    (first,) = compute(book, {"a": tokens(1, 2)})
    assert compute(book, {"b": tokens(1, 2, 3), "a": tokens(1, 2, 9)})[1] is first


def test_a_new_sequence_takes_the_slot_that_begins_as_it_does() -> None:
    book = SlotBook(3, 100, 100)
    old = compute(book, {"a": tokens(1, 2, 3), "b": tokens(7, 8, 9)})
    (taken,) = compute(book, {"c": tokens(7, 8, 9, 10)})
    assert taken is old[1]


def test_a_long_sequence_is_not_given_up_for_a_short_beginning() -> None:
    book = SlotBook(2, 100, 100)
    (old,) = compute(book, {"a": tokens(1, 2, 3, 4, 5, 6)})
    (taken,) = compute(book, {"b": tokens(1, 2, 9)})
    assert taken is not old
    assert taken.request_id == "b"


def test_the_first_part_of_a_prompt_may_go_on_as_a_long_sequence_does() -> None:
    book = SlotBook(2, 100, 100)
    (old,) = compute(book, {"a": tokens(1, 2, 3, 4, 5, 6)})
    assert book.assign(["b"], [tokens(1, 2)], [False]) == [old]


def test_without_a_likeness_the_slot_not_used_for_longest_is_taken() -> None:
    book = SlotBook(2, 100, 100)
    (oldest,) = compute(book, {"a": tokens(1)})
    compute(book, {"b": tokens(2)})
    (taken,) = compute(book, {"c": tokens(3)})
    assert taken is oldest
    # and a, if it comes back, gets another one
    assert compute(book, {"c": tokens(3, 4), "a": tokens(1, 5)})[1] is not oldest


def test_idle_slots_make_room_oldest_first() -> None:
    book = SlotBook(3, 10, 10)
    compute(book, {"a": tokens(1, 1, 1)})
    compute(book, {"b": tokens(2, 2, 2)})
    (slot,) = book.assign(["c"], [tokens(3)], [True])
    assert [each.request_id for each in book.room_for([(slot, np.full(5, 3, np.int32))])] == ["a"]
    assert [each.request_id for each in book.room_for([(slot, np.full(5, 3, np.int32))])] == []


def test_idle_slots_hold_no_more_than_they_may() -> None:
    book = SlotBook(4, 1000, 4)
    for name in "abc":
        compute(book, {name: tokens(*[ord(name)] * 3)})
    (slot,) = book.assign(["d"], [tokens(9)], [True])
    assert [each.request_id for each in book.room_for([(slot, tokens(9))])] == ["b"]  # a went when c came


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 12), min_size=1, max_size=3), max_size=20
    )
)
def test_slots_never_hold_more_than_their_pool(steps: list[dict[str, int]]) -> None:
    book = SlotBook(3, 36, 20)
    for step in steps:
        slots = compute(book, {name: np.full(n, ord(name), np.int32) for name, n in step.items()})
        assert len(set(slots)) == len(slots)
        assert [slot.request_id for slot in slots] == list(step)
        held = [len(slot.tokens) for slot in book._slots]
        assert sum(held) <= 36
        assert sum(held) - sum(step.values()) <= 20
