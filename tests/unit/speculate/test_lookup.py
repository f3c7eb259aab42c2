"""Prompt lookup: what it copies, and when it does not."""

from dataclasses import dataclass, field

from stoker.core.drafting import DraftCosts, DraftSeat
from stoker.core.step import StepPlan
from stoker.speculate.chances import Chances, Record
from stoker.speculate.lookup import PromptLookup

CHEAP = DraftCosts(n_streams=1, plain_s=1.0, base_s=1.0, token_s=0.05)
DEAR = DraftCosts(n_streams=8, plain_s=8.0, base_s=8.0, token_s=1.0)


@dataclass
class Sequence:
    """A running sequence, as far as a drafter sees it."""

    tokens: list[int] = field(default_factory=list)
    draft_states: dict[type, object] = field(default_factory=dict)


def drafts(drafter: PromptLookup, sequence: Sequence, costs: DraftCosts = CHEAP, most: int = 15) -> list[int]:
    return drafter.draft(StepPlan(), [DraftSeat(0, sequence, most)], costs).tokens.get(0, [])


def test_what_followed_before_is_copied() -> None:
    sequence = Sequence([*range(100, 140), 7, 100, 101, 102, 103])
    found = drafts(PromptLookup(15), sequence)
    assert found
    assert found == list(range(104, 104 + len(found)))
    assert drafts(PromptLookup(15), Sequence(list(range(40)))) == []


def test_drafts_are_as_long_as_they_may_be() -> None:
    text = [*range(100, 140), 7, *range(100, 120)]
    assert len(drafts(PromptLookup(2), Sequence(list(text)))) == 2
    assert len(drafts(PromptLookup(15), Sequence(list(text)), most=1)) == 1


def test_nothing_is_looked_for_where_nothing_pays() -> None:
    sequence = Sequence([*range(100, 140), 7, 100, 101, 102, 103])
    assert drafts(PromptLookup(15), sequence, DEAR) == []
    assert not sequence.draft_states


def test_wrong_guesses_end_drafts_and_right_ones_bring_them_back() -> None:
    drafter = PromptLookup(15)
    sequence = Sequence([*range(100, 200), 100, 101, 102])
    assert drafts(drafter, sequence)
    for novel in range(1000, 1040):  # each time the end has been there before, and goes on otherwise
        sequence.tokens += [novel, 100, 101, 102]
        drafts(drafter, sequence)
    assert drafts(drafter, sequence) == []
    lengths = []
    for token in range(103, 200):  # one token at a time, as without drafts
        sequence.tokens.append(token)
        lengths.append(len(drafts(drafter, sequence)))
    assert lengths[0] < lengths[-1]
    assert lengths[-1] > 5


def test_chances_follow_what_was_seen_of_guesses_alike() -> None:
    chances, own = Chances(), Record()
    unknown = chances.of(20, own)
    for _ in range(50):
        chances.note(20, own, right=True)
    assert chances.of(20, own) > 0.9 > unknown
    assert chances.of(20, Record()) > unknown, "others learn from it too"
    assert chances.of(3, Record()) == unknown, "but not of shorter matches"
    for _ in range(50):
        chances.note(20, own, right=False)
    assert chances.of(20, own) < 0.4
