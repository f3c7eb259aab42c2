"""Runs a model for guesses: one that is smaller, or the served one without some of its layers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from stoker.core.drafting import Draftable
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, StepPlan, StepResult
from stoker.speculate.held_blocks import Chain, HeldBlocks


class Computes(Protocol):
    """What a guesser needs of an engine."""

    def forward(self, plan: StepPlan) -> StepResult:
        """Compute a plan, as `StepEngine.forward`."""


class Asker:
    """A sequence that wants guesses.

    Args:
        sequence: The sequence.
        sampling: How its tokens are chosen.

    Attributes:
        row: Its row in the plan that is made.
        n_behind: What `Guesser.n_behind` has found for this plan; None before it was asked.
        sequence: As given.
        sampling: Without log-probabilities, which nobody wants of a guess.
        chain: Names of its blocks.
    """

    __slots__ = ("_highest", "_n_seen", "chain", "n_behind", "row", "sampling", "sequence")

    def __init__(self, sequence: Draftable, sampling: SamplingParams) -> None:
        self.row = -1
        self.n_behind: int | None = None
        self.sequence = sequence
        self.sampling = sampling if sampling.logprobs is None else replace(sampling, logprobs=None)
        self.chain = Chain(sequence.tokens)
        self._highest = self._n_seen = 0

    def sit(self, row: int) -> None:
        """Take the row of a plan that is being made; tokens and blocks may have changed since the last."""
        self.row = row
        self.n_behind = None

    @property
    def highest_token(self) -> int:
        """The highest of the sequence's token ids."""
        tokens = self.sequence.tokens
        if len(tokens) > self._n_seen:
            self._highest = max(*tokens[self._n_seen :], self._highest)
            self._n_seen = len(tokens)
        return self._highest


class Guesser:
    """Guesses as a model would go on, with the random numbers that the served one will choose by.

    A smaller model keeps its keys and values in blocks of the same numbers, so that one table is good for
    both. It computes a sequence when it is asked to guess, and costs nothing where nobody asks. It has no
    adapters: for sequences with one it guesses as for the base.

    The served model without some layers works on its own blocks, where it has all that is before; what it
    leaves there is computed anew when its guesses are verified.

    Args:
        engine: Computes the model.
        longest: Most tokens of a sequence, guesses among them.
        max_step_tokens: Most tokens of one step.
        vocab_size: Its token ids are below this.
        served_vocab_size: Those of the served model are. If it has more, biases and penalties of sequences
            cannot be had; if it has fewer, drafts end before a token that it has not. None for as many.
        skipped: The layers that the served model leaves out; none for another model.

    Attributes:
        max_step_tokens: As given.
    """

    def __init__(
        self,
        engine: Computes,
        *,
        longest: int,
        max_step_tokens: int,
        vocab_size: int,
        served_vocab_size: int | None = None,
        skipped: tuple[int, ...] = (),
    ) -> None:
        self._engine = engine
        self._vocab_size = vocab_size
        self._served_vocab_size = vocab_size if served_vocab_size is None else served_vocab_size
        self._takes_edits = vocab_size >= self._served_vocab_size
        self._skipped = skipped
        self._held = None if skipped else HeldBlocks()
        self._longest = longest
        self.max_step_tokens = max_step_tokens

    def most_for(self, asker: Asker) -> int:
        """Return how many tokens of a sequence can be guessed at most.

        None of one with tokens that the model has not: vocabularies may differ in what stands unused.
        """
        if asker.highest_token >= self._vocab_size:
            return 0
        return max(0, self._longest - len(asker.sequence.tokens))

    def verifiable(self, guesses: list[int]) -> list[int]:
        """Return guesses up to the first token that the served model has not, and would refuse a step for."""
        if max(guesses, default=0) < self._served_vocab_size:
            return guesses
        return guesses[: next(n for n, token in enumerate(guesses) if token >= self._served_vocab_size)]

    def n_behind(self, asker: Asker, table: list[int]) -> int:
        """Return how many tokens before a sequence's last one are to be computed before, or with, a guess."""
        if self._held is None:
            return 0
        if asker.n_behind is None:  # looking costs time for each block
            tokens = asker.sequence.tokens
            asker.n_behind = max(0, len(tokens) - 1 - self._held.n_held(tokens, table, asker.chain))
        return asker.n_behind

    def apart(self, plan: StepPlan, askers: Sequence[Asker]) -> list[Asker]:
        """Return those of some sequences whose blocks can be computed in one step.

        Of those that lack the same block, which they share, the first computes it for all.
        """
        written: set[int] = set()
        chosen = []
        for asker in askers:
            table = plan.block_tables[asker.row]
            first = len(asker.sequence.tokens) - 1 - self.n_behind(asker, table)
            own = table[first // BLOCK_TOKENS :]
            if written.isdisjoint(own):
                written.update(own)
                chosen.append(asker)
        return chosen

    def catch_up(self, plan: StepPlan, askers: Sequence[Asker], most: int) -> int:
        """Compute what sequences lack, those first that come first, and return how many tokens that was.

        Args:
            plan: Has their tables.
            askers: The sequences.
            most: Tokens in all.
        """
        part = StepPlan()
        n_left = min(most, self.max_step_tokens)
        caught_up = []
        for asker in self.apart(plan, askers):
            n_behind = min(n_left, self.n_behind(asker, plan.block_tables[asker.row]))
            if n_behind:
                n_left -= n_behind
                self._add(part, plan, asker, n_behind)
                caught_up.append(asker)
        if caught_up:
            part.samples = [False] * len(caught_up)
            self._engine.forward(part)
            self._note(part, caught_up)
        return part.n_tokens

    def guess(self, plan: StepPlan, askers: Sequence[Asker], n: int) -> list[list[int]]:
        """Return guesses at the next tokens of sequences, from 1 to `n` of them and equally many for all.

        Args:
            plan: Has their tables, which cover the guesses but for the last.
            askers: The sequences, `apart` from each other, with `max_step_tokens` tokens in all at most.
            n: Most guesses for each.
        """
        part = StepPlan(n_steps=n, skipped_layers=self._skipped)
        for row, asker in enumerate(askers):
            self._add(part, plan, asker)
            if self._takes_edits and (edits := plan.edits.get(asker.row)) is not None:
                part.edits[row] = edits
            if self._held is None and (adapter := plan.adapters.get(asker.row)) is not None:
                part.adapters[row] = adapter
        part.samples = [True] * len(askers)
        if n > 1:
            part.stop_token_ids = [frozenset()] * len(askers)
        guesses = self._engine.forward(part).token_ids
        self._note(part, askers, guesses)
        return guesses

    def _add(self, part: StepPlan, plan: StepPlan, asker: Asker, most: int | None = None) -> None:
        """Add the tokens that a sequence lacks, `most` at most, as a run."""
        tokens, table = asker.sequence.tokens, plan.block_tables[asker.row]
        first = len(tokens) - 1 - self.n_behind(asker, table)
        part.request_ids.append(plan.request_ids[asker.row])
        part.tokens.append(tokens[first:] if most is None else tokens[first : first + most])
        part.first_positions.append(first)
        part.block_tables.append(table)
        part.sampling.append(asker.sampling)

    def _note(self, part: StepPlan, askers: Sequence[Asker], guesses: Sequence[list[int]] = ()) -> None:
        """Remember what has been computed: runs, and all guesses but the last."""
        if self._held is None:
            return
        for row, asker in enumerate(askers):
            first = part.first_positions[row]
            computed = asker.sequence.tokens[: first + len(part.tokens[row])]
            if guesses:
                computed += guesses[row][:-1]
            self._held.note(computed, first, part.block_tables[row], asker.chain)
            asker.n_behind = None
