"""What a draft model has in the blocks that the scheduler shares, evicts and reuses."""

from hypothesis import given
from hypothesis import strategies as st

from stoker.core.step import BLOCK_TOKENS
from stoker.speculate.held_blocks import Chain, HeldBlocks

TOKENS = list(range(100, 150))


def n_held(held: HeldBlocks, tokens: list[int], table: list[int]) -> int:
    return held.n_held(tokens, table, Chain(tokens))


def note(held: HeldBlocks, tokens: list[int], table: list[int], first: int = 0) -> None:
    held.note(tokens, first, table, Chain(tokens))


def test_what_was_computed_is_there_whoever_asks() -> None:
    held = HeldBlocks()
    assert n_held(held, TOKENS, [3, 5, 7, 9]) == 0
    note(held, TOKENS[:20], [3, 5])
    assert n_held(held, TOKENS, [3, 5, 7, 9]) == 20
    note(held, TOKENS, [3, 5, 7, 9], first=20)
    assert n_held(held, TOKENS, [3, 5, 7, 9]) == len(TOKENS)
    other = [*TOKENS[:32], 1, 2, 3]
    assert n_held(held, other, [3, 5, 8]) == 32, "a shared prefix"
    assert n_held(held, [*TOKENS[:18], 0, 0], [3, 5]) == 18, "up to the first other token"


def test_a_block_that_was_reused_is_found_out() -> None:
    held = HeldBlocks()
    note(held, TOKENS, [3, 5, 7, 9])
    note(held, [0] * 16, [5])
    assert n_held(held, TOKENS, [3, 5, 7, 9]) == 16
    note(held, TOKENS[:32], [3, 5], first=16)
    assert n_held(held, TOKENS, [3, 5, 7, 9]) == len(TOKENS), "it has again what the later ones go on from"


def test_the_same_tokens_after_others_are_not_the_same() -> None:
    held = HeldBlocks()
    note(held, TOKENS[:32], [3, 5])
    assert n_held(held, [*([0] * 16), *TOKENS[16:32]], [8, 5]) == 0
    note(held, [0] * 16, [8])
    assert n_held(held, [*([0] * 16), *TOKENS[16:32]], [8, 5]) == 16


def test_guesses_that_become_tokens_need_not_be_computed_again() -> None:
    held = HeldBlocks()
    known, guessed = TOKENS[:30], [*TOKENS[:33], 0, 0]
    held.note(guessed, 29, [3, 5, 7], Chain(known))
    held.note(known[:29], 0, [3, 5, 7], Chain(known))
    held.note(guessed, 29, [3, 5, 7], Chain(known))
    assert n_held(held, TOKENS, [3, 5, 7, 9]) == 33


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 60)), min_size=1, max_size=30))
def test_never_more_than_there_is(steps: list[tuple[int, int]]) -> None:
    """Three texts that begin alike take turns in the same few blocks; memory tells what is really there."""
    texts = [[7] * 20 + [10 + i] * 40 for i in range(3)]
    held = HeldBlocks()
    memory: dict[int, list[tuple[int, ...]]] = {}  # of each block: what each of its places has come from
    for which, n in steps:
        tokens = texts[which][:n]
        table = [0, 1 + which % 2, 3, 4]
        found = held.n_held(tokens, table, Chain(tokens))
        for position in range(found):
            places = memory[table[position // BLOCK_TOKENS]]
            assert places[position % BLOCK_TOKENS] == tuple(tokens[: position + 1])
        first = min(found, n - 1)
        for position in range(first, n):
            places = memory.setdefault(table[position // BLOCK_TOKENS], [])
            del places[position % BLOCK_TOKENS :]
            places.append(tuple(tokens[: position + 1]))
        held.note(tokens, first, table, Chain(tokens))
