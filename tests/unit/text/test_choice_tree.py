"""`ChoiceTree`: every stem of every choice is scored, once, and in as few sequences as can be."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from stoker.text.choice_tree import ChoiceTree, StemRun

CHOICES = st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=12)


def stems_of(run: StemRun) -> list[tuple[int, ...]]:
    """Return the stems that a run scores after, the shortest first."""
    whole = [(), *accumulate(((token,) for token in run.tokens), lambda some, one: some + one)]
    return whole[len(whole) - len(run.candidates) :]


def test_choices_of_one_token_need_nothing_behind_the_prompt() -> None:
    (run,) = ChoiceTree([[5], [3], [9]]).runs
    assert (run.tokens, run.candidates) == ((), ((5, 3, 9),))


def test_choices_that_differ_in_their_last_token_need_one_stem() -> None:
    (run,) = ChoiceTree([[5, 6, 1], [5, 6, 2], [7]]).runs
    assert (run.tokens, run.candidates) == ((5, 6), ((5, 7), (6,), (1, 2)))


def test_other_stems_are_scored_behind_the_shared_one() -> None:
    tree = ChoiceTree([[1, 2, 3], [1, 4, 5], [6, 7]])
    assert [(run.tokens, run.candidates) for run in tree.runs] == [
        ((1, 2), ((1, 6), (2, 4), (3,))),
        ((1, 4), ((5,),)),
        ((6,), ((7,),)),
    ]


def test_nothing_is_scored_for_choices_without_tokens() -> None:
    tree = ChoiceTree([[], []])
    assert tree.runs == ()
    assert tree.logprobs([]) == [0.0, 0.0]


@given(CHOICES)
def test_every_token_after_every_stem_is_scored_once(choices: list[list[int]]) -> None:
    told = [
        (*stem, token)
        for run in ChoiceTree(choices).runs
        for stem, tokens in zip(stems_of(run), run.candidates, strict=True)
        for token in tokens
    ]
    wanted = {tuple(choice[:end]) for choice in choices for end in range(1, len(choice) + 1)}
    assert sorted(told) == sorted(wanted)


@given(CHOICES)
def test_there_are_no_more_sequences_than_longest_stems(choices: list[list[int]]) -> None:
    stems = {tuple(choice[:end]) for choice in choices for end in range(len(choice))}
    longest = [stem for stem in stems if not any(each[:-1] == stem for each in stems if each)]
    assert sorted(run.tokens for run in ChoiceTree(choices).runs) == sorted(longest)


@given(CHOICES)
def test_a_choice_has_the_sum_of_its_tokens(choices: list[list[int]]) -> None:
    def logprob(stem: tuple[int, ...], token: int) -> float:
        return -float(token + 1) / (len(stem) + 3) - sum(stem)

    tree = ChoiceTree(choices)
    told = [
        [
            logprob(stem, token)
            for stem, tokens in zip(stems_of(run), run.candidates, strict=True)
            for token in tokens
        ]
        for run in tree.runs
    ]
    for choice, total in zip(choices, tree.logprobs(told), strict=True):
        each = [logprob(tuple(choice[:at]), token) for at, token in enumerate(choice)]
        assert abs(total - sum(each)) < 1e-9


def test_long_choices_are_no_deep_recursion() -> None:
    tree = ChoiceTree([[1] * 5000, [1] * 4999 + [2]])
    (run,) = tree.runs
    assert run.n_candidates == 5001
    assert tree.logprobs([[-1.0] * 5001]) == [-5000.0, -5000.0]
