"""Drafts that a model makes: for whom, how many tokens, and whether it is worth the model's time."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from stoker.core.drafting import DraftCosts, DraftSeat
from stoker.core.step import StepPlan
from stoker.speculate.chances import Chances, Record
from stoker.speculate.guesser import Asker, Guesser
from stoker.speculate.lengths import choose_lengths, expected_step, may_pay
from stoker.speculate.tries import Tries

MOST_BEHIND = 16
"""Most tokens that a guess computes beside its own; a sequence that lacks more catches up before."""

MOST_CAUGHT_UP = 256
"""Most tokens that are caught up with in one step, which all streams wait for."""

LEAST_TO_COME = 32
"""So many tokens at least are expected of a sequence yet; of one that has given more, as many again."""

_FIRST_CHANCE = 0.8  # of a guess before anything is known: a try costs little
_COST_KEPT = 0.9


class _State:
    """What is remembered of a sequence."""

    __slots__ = ("asker", "guesses", "n_first", "n_tokens", "record")

    def __init__(self, asker: Asker) -> None:
        self.asker = asker
        self.record = Record()
        self.n_first = len(asker.sequence.tokens)
        self.n_tokens = 0  # that it had when guesses were made
        self.guesses: list[int] = []

    @property
    def n_to_come(self) -> int:
        """How many tokens are expected of it yet: who has said much will say much."""
        return max(LEAST_TO_COME, len(self.asker.sequence.tokens) - self.n_first)


class ModelDrafter:
    """A `Drafter` that asks a model, and learns how often it is right and what asking takes.

    Where drafts do not pay, one token is guessed now and then, ever more rarely while that is wrong: so they
    come back when they would pay. A sequence is caught up with only if what it is expected to say yet makes
    up for it.

    Args:
        guesser: Asks the model.
        most: Most tokens of a draft.
        cost: What a step of the model takes, beside one of the served model; taken at first.
        clock: Tells the time.
    """

    def __init__(self, guesser: Guesser, most: int, *, cost: float, clock: Callable[[], float]) -> None:
        self._guesser = guesser
        self._most = most
        self._clock = clock
        self._chances = Chances(_FIRST_CHANCE)
        self._first_cost = cost
        self._costs: dict[int, float] = {}  # by the size of the number of sequences
        self._tries = Tries()
        self._caught_up = False  # in the latest step

    def needs_blocks(self, costs: DraftCosts) -> bool:
        """It needs some wherever it could guess."""
        return may_pay(costs)

    def draft(self, plan: StepPlan, seats: Sequence[DraftSeat], costs: DraftCosts) -> dict[int, list[int]]:
        """Return drafts by row; none where they would not pay, or while sequences are caught up with."""
        if not seats or not may_pay(costs):
            return {}
        states = [self._look(plan, seat) for seat in seats]
        most = [
            min(self._most, seat.most, self._guesser.most_for(state.asker))
            for seat, state in zip(seats, states, strict=True)
        ]
        chances = [self._chances.of(0, state.record) for state in states]
        # A round of guesses takes a step of the model, which the sequences share.
        round_s = costs.base_s * self._cost_of(len(seats))
        shared = replace(costs, token_s=costs.token_s + round_s / len(seats))
        lengths = choose_lengths(chances, most, shared)
        if not any(lengths):
            return self._try(plan, states, most, costs)
        if late := self._late(plan, states, lengths):
            n_tokens, seconds = expected_step(chances, lengths, shared)
            gain_s = costs.plain_s / costs.n_streams - seconds / n_tokens
            lengths = [0 if state in late else n for state, n in zip(states, lengths, strict=True)]
            # Those that lack nothing have a draft in every other step.
            self._caught_up = not (self._caught_up and any(lengths)) and self._catch_up(
                plan, late, gain_s, costs
            )
            if self._caught_up or not any(lengths):
                return {}
        self._tries.begin(None)
        n_rounds = max(lengths)  # of all, so whoever is about to end has none
        lengths = [n if room >= n_rounds else 0 for n, room in zip(lengths, most, strict=True)]
        return self._guess(plan, states, lengths, costs)

    def _look(self, plan: StepPlan, seat: DraftSeat) -> _State:
        """Learn from the tokens that came, and return what is remembered of the sequence."""
        sequence = seat.sequence
        state = sequence.draft_states.get(_State)
        if not isinstance(state, _State):
            state = _State(Asker(sequence, plan.sampling[seat.row]))
            sequence.draft_states[_State] = state
        state.asker.row = seat.row
        for guess, token in zip(state.guesses, sequence.tokens[state.n_tokens :], strict=False):
            self._chances.note(0, state.record, right=guess == token)
            if state is self._tries.latest:
                self._tries.note(right=guess == token)
            if guess != token:
                break
        state.guesses = []
        return state

    def _cost_of(self, n_sequences: int) -> float:
        """Return what a round of guesses takes beside a step of the served model."""
        return self._costs.get(n_sequences.bit_length(), self._first_cost)

    def _n_behind(self, plan: StepPlan, state: _State) -> int:
        return self._guesser.n_behind(state.asker, plan.block_tables[state.asker.row])

    def _late(self, plan: StepPlan, states: Sequence[_State], lengths: Sequence[int]) -> dict[_State, int]:
        """Return which of the sequences lack much before they can have drafts, and how many tokens."""
        late = {}
        for state, length in zip(states, lengths, strict=True):
            if length and (n_behind := self._n_behind(plan, state)) > MOST_BEHIND:
                late[state] = n_behind
        return late

    def _catch_up(self, plan: StepPlan, late: dict[_State, int], gain_s: float, costs: DraftCosts) -> bool:
        """Compute what sequences lack if that pays and the step has time, and return whether it was done.

        Args:
            plan: Has their tables.
            late: Them, and how many tokens they lack.
            gain_s: What drafts are expected to save for each token.
            costs: What the step takes.
        """
        cost = self._cost_of(len(late))
        token_s = costs.token_s * cost
        if gain_s * sum(state.n_to_come for state in late) <= token_s * sum(late.values()):
            return False
        left_s = costs.most_s - costs.base_s * (1.0 + cost)
        most = min(float(MOST_CAUGHT_UP), left_s / token_s)
        if most <= MOST_BEHIND:
            return False
        self._guesser.catch_up(plan, [state.asker for state in late], int(most))
        return True

    def _try(
        self, plan: StepPlan, states: Sequence[_State], most: Sequence[int], costs: DraftCosts
    ) -> dict[int, list[int]]:
        """Guess one token of the sequence that lacks least, now and then."""
        if not self._tries.due():
            return {}
        open_to = [index for index, n in enumerate(most) if n]
        if not open_to:
            return {}
        index = min(open_to, key=lambda each: self._n_behind(plan, states[each]))
        if self._n_behind(plan, states[index]) > MOST_CAUGHT_UP:
            return {}
        self._tries.begin(states[index])
        return self._guess(plan, [states[index]], [1], costs)

    def _guess(
        self, plan: StepPlan, states: Sequence[_State], lengths: Sequence[int], costs: DraftCosts
    ) -> dict[int, list[int]]:
        """Ask the model, and return drafts of these lengths at most."""
        chosen = self._within(plan, states, lengths)
        began = self._clock()
        guesses = self._guesser.guess(plan, [state.asker for state in chosen], max(chosen.values()))
        cost = (self._clock() - began) / len(guesses[0]) / costs.base_s
        size = len(chosen).bit_length()
        self._costs[size] = self._cost_of(len(chosen)) * _COST_KEPT + cost * (1.0 - _COST_KEPT)
        drafts = {}
        for (state, length), own in zip(chosen.items(), guesses, strict=True):
            state.guesses = own
            state.n_tokens = len(state.asker.sequence.tokens)
            drafts[state.asker.row] = own[:length]
        return drafts

    def _within(self, plan: StepPlan, states: Sequence[_State], lengths: Sequence[int]) -> dict[_State, int]:
        """Return those with a length, as many as a step of the model can compute; at least the first."""
        chosen: dict[_State, int] = {}
        n_left = self._guesser.max_step_tokens
        for state, length in zip(states, lengths, strict=True):
            if length:
                n_left -= 1 + self._n_behind(plan, state)
                if chosen and n_left < 0:
                    break
                chosen[state] = length
        return chosen
