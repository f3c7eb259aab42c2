"""Drafts that a model makes: for whom, how many tokens, and whether it is worth the model's time."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from stoker.core.drafting import DraftCosts, Drafts, DraftSeat
from stoker.core.step import StepPlan
from stoker.speculate.chances import Chances, Record
from stoker.speculate.guesser import Asker, Guesser
from stoker.speculate.lengths import choose_lengths, expected_step, may_pay
from stoker.speculate.tries import Tries

MOST_BEHIND = 16
"""Most tokens that a guess computes beside its own; a sequence that lacks more catches up before."""

MOST_CAUGHT_UP = 256
"""Most tokens that are caught up with in one step, which all streams wait for."""

LEAST_TO_COME = 64
"""So many tokens at least are expected of a sequence yet; of one that has given more, as many again."""

LONG_TRY = 4
"""Tokens that are tried where guesses are mostly right, to learn what they take."""

_LIKELY = 0.7
_FIRST_CHANCE = 0.8  # of a guess before anything is known: a try costs little
_COST_KEPT = 0.8


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

    Where drafts do not pay, there is a short one now and then, ever more rarely while it is wrong: so drafts
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
        self._behind_s: float | None = None  # that a token takes which is caught up with; None if unknown
        self._tries = Tries()
        self._caught_up = False  # in the latest step

    def needs_blocks(self, costs: DraftCosts) -> bool:
        """It needs some wherever it could guess."""
        return may_pay(costs)

    def draft(self, plan: StepPlan, seats: Sequence[DraftSeat], costs: DraftCosts) -> Drafts:
        """Return drafts; none where they would not pay, or while sequences are caught up with."""
        if not seats or not may_pay(costs):
            return Drafts()
        states = [self._look(plan, seat) for seat in seats]
        most = [
            min(self._most, seat.most, self._guesser.most_for(state.asker))
            for seat, state in zip(seats, states, strict=True)
        ]
        chances = [self._chances.of(0, state.record) for state in states]
        lengths, shared = self._choose(chances, most, costs)
        late = self._late(plan, states, lengths)
        if not late:
            self._caught_up = False
        else:
            n_tokens, seconds = expected_step(chances, lengths, shared)
            gain_s = costs.plain_s / costs.n_streams - seconds / n_tokens
            ready = [0 if state in late else room for state, room in zip(states, most, strict=True)]
            lengths, _ = self._choose(chances, ready, costs)
            # Those that lack nothing have a draft in every other step.
            self._caught_up = not (self._caught_up and any(lengths)) and self._catch_up(
                plan, late, gain_s, costs
            )
            if self._caught_up:
                return Drafts()
        if not any(lengths):
            return self._try(plan, states, most, costs) if self._tries.due() else Drafts()
        self._tries.end()
        n_rounds = max(lengths)  # of all, so whoever is about to end has none
        chosen = {
            state: n for state, n, room in zip(states, lengths, most, strict=True) if n and room >= n_rounds
        }
        return Drafts(self._guess(plan, chosen, costs))

    def _choose(
        self, chances: Sequence[float], most: Sequence[int], costs: DraftCosts
    ) -> tuple[list[int], DraftCosts]:
        """Return the length of each draft, and costs in which its tokens have their share of the rounds.

        A round of guesses takes a step of the model, which those sequences share that have drafts.
        """
        rooms = list(most)
        while True:
            n_sharing = max(1, sum(map(bool, rooms)))
            round_s = costs.base_s * self._cost_of(n_sharing)
            shared = replace(costs, token_s=costs.token_s + round_s / n_sharing)
            lengths = choose_lengths(chances, rooms, shared)
            if all(lengths) or sum(map(bool, lengths)) in {0, n_sharing}:
                return lengths, shared
            rooms = [room if length else 0 for room, length in zip(rooms, lengths, strict=True)]

    def _look(self, plan: StepPlan, seat: DraftSeat) -> _State:
        """Learn from the tokens that came, and return what is remembered of the sequence."""
        sequence = seat.sequence
        state = sequence.draft_states.get(_State)
        if not isinstance(state, _State):
            state = _State(Asker(sequence, plan.sampling[seat.row]))
            sequence.draft_states[_State] = state
        state.asker.sit(seat.row)
        for guess, token in zip(state.guesses, sequence.tokens[state.n_tokens :], strict=False):
            self._chances.note(0, state.record, right=guess == token)
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
        token_s = self._behind_cost(costs)
        if gain_s * sum(state.n_to_come for state in late) <= token_s * sum(late.values()):
            return False
        most = self._most_behind(costs)
        if most <= MOST_BEHIND:
            return False
        began = self._clock()
        n_tokens = self._guesser.catch_up(plan, [state.asker for state in late], most)
        self._learn_behind((self._clock() - began) / n_tokens)
        return True

    def _behind_cost(self, costs: DraftCosts) -> float:
        """Return how many seconds a token takes that is caught up with."""
        return costs.token_s * self._first_cost if self._behind_s is None else self._behind_s

    def _most_behind(self, costs: DraftCosts) -> int:
        """Return how many tokens can be caught up with beside a step that is to end in time."""
        token_s, left_s = self._behind_cost(costs), costs.most_s - costs.base_s
        return MOST_CAUGHT_UP if token_s * MOST_CAUGHT_UP <= left_s else int(left_s / token_s)

    def _learn_behind(self, seconds: float) -> None:
        """Note what a token took that was caught up with."""
        known = seconds if self._behind_s is None else self._behind_s
        self._behind_s = known + (1.0 - _COST_KEPT) * (seconds - known)

    def _try(
        self, plan: StepPlan, states: Sequence[_State], most: Sequence[int], costs: DraftCosts
    ) -> Drafts:
        """Guess for those that lack little, or for the one that lacks least."""
        rooms = {state: room for state, room in zip(states, most, strict=True) if room}
        behind = {state: self._n_behind(plan, state) for state in rooms}
        ready = [state for state, n in behind.items() if n <= MOST_BEHIND]
        if not ready and behind:
            least = min(behind, key=behind.__getitem__)
            ready = [least] if behind[least] <= self._most_behind(costs) else []
        if not ready:
            return Drafts()
        self._tries.begin()
        likely = min(self._chances.of(0, state.record) for state in ready) > _LIKELY
        n_tokens = min(LONG_TRY if likely else 1, *[rooms[state] for state in ready])
        return Drafts(self._guess(plan, dict.fromkeys(ready, n_tokens), costs), on_trial=True)

    def _guess(self, plan: StepPlan, lengths: dict[_State, int], costs: DraftCosts) -> dict[int, list[int]]:
        """Ask the model, and return drafts of these lengths at most by row."""
        chosen = self._within(plan, lengths)
        if not chosen:
            return {}
        n_behind = sum(self._n_behind(plan, state) for state in chosen)
        began = self._clock()
        guesses = self._guesser.guess(plan, [state.asker for state in chosen], max(chosen.values()))
        seconds = self._clock() - began
        known = self._cost_of(len(chosen))
        if n_behind > MOST_BEHIND * len(chosen):  # a try that had to catch up
            self._learn_behind(max(0.0, seconds - known * costs.base_s) / n_behind)
        else:
            cost = seconds / len(guesses[0]) / costs.base_s
            self._costs[len(chosen).bit_length()] = known + (1.0 - _COST_KEPT) * (cost - known)
        drafts = {}
        for (state, length), own in zip(chosen.items(), guesses, strict=True):
            state.guesses = own
            state.n_tokens = len(state.asker.sequence.tokens)
            drafts[state.asker.row] = self._guesser.verifiable(own[:length])
        return drafts

    def _within(self, plan: StepPlan, lengths: dict[_State, int]) -> dict[_State, int]:
        """Return those of the sequences that a step of the model can compute."""
        apart = set(self._guesser.apart(plan, [state.asker for state in lengths]))
        chosen: dict[_State, int] = {}
        n_left = self._guesser.max_step_tokens
        for state, length in lengths.items():
            n_tokens = 1 + self._n_behind(plan, state)
            if state.asker in apart and n_tokens <= n_left:
                n_left -= n_tokens
                chosen[state] = length
        return chosen
