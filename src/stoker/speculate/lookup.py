"""Drafts out of the conversation itself: what followed when it said the same before.

Text that edits, summarises or quotes its prompt repeats it; so do code, tables and JSON. A guess costs a look
into an index. (Prompt lookup is Saxena's idea, 2023; that the longest match says most, SuffixDecoding's.)
"""

from collections.abc import Sequence

from stoker.core.drafting import Draftable, DraftCosts, Drafts, DraftSeat
from stoker.core.step import StepPlan
from stoker.speculate.chances import Chances, Record
from stoker.speculate.lengths import choose_lengths, may_pay
from stoker.speculate.suffixes import Match, SuffixIndex, continuation


class _State:
    """What is remembered of a sequence."""

    __slots__ = ("index", "match", "n_tokens", "record")

    def __init__(self, tokens: list[int]) -> None:
        self.index = SuffixIndex(tokens)
        self.record = Record()
        self.match: Match | None = None
        self.n_tokens = 0  # that it had when `match` was found


class PromptLookup:
    """A `Drafter` that copies from the sequence, and learns how often that is right.

    Args:
        most: Most tokens of a draft.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._chances = Chances()

    def needs_blocks(self, costs: DraftCosts) -> bool:
        """It needs none."""
        del costs
        return False

    def draft(self, plan: StepPlan, seats: Sequence[DraftSeat], costs: DraftCosts) -> Drafts:
        """Return drafts, none where a draft would not pay."""
        del plan
        if not may_pay(costs):
            return Drafts()
        found = [(seat, match) for seat in seats if (match := self._look(seat.sequence)) is not None]
        if not found:
            return Drafts()
        chances = [self._chances.of(match.length, _state_of(seat.sequence).record) for seat, match in found]
        lengths = choose_lengths(chances, [min(self._most, seat.most) for seat, _ in found], costs)
        return Drafts(
            {
                seat.row: continuation(seat.sequence.tokens, match.end, length)
                for (seat, match), length in zip(found, lengths, strict=True)
                if length
            }
        )

    def _look(self, sequence: Draftable) -> Match | None:
        """Learn from the tokens that came, and return the match of the sequence's new end."""
        state = _state_of(sequence)
        tokens = sequence.tokens
        if state.match is not None:
            self._learn(state, state.match, tokens)
        state.match = state.index.match() if state.index.catch_up() else None
        state.n_tokens = len(tokens)
        return state.match

    def _learn(self, state: _State, match: Match, tokens: list[int]) -> None:
        """Compare the tokens that came with those that followed the match, up to the first other one."""
        distance = state.n_tokens - 1 - match.end
        for place in range(state.n_tokens, len(tokens)):
            right = tokens[place] == tokens[place - distance]
            self._chances.note(match.length, state.record, right=right)
            if not right:
                return


def _state_of(sequence: Draftable) -> _State:
    state = sequence.draft_states.get(_State)
    if not isinstance(state, _State):
        sequence.draft_states[_State] = state = _State(sequence.tokens)
    return state
