"""How many tokens of prompts a step takes beside its decodes."""

from math import sqrt

from stoker.core.step import BLOCK_TOKENS
from stoker.core.work import StepWork
from stoker.scheduler.cost import CostModel


class StepBudget:
    """What is left of one step, in tokens and, where a time is to be held, in seconds.

    Chunks that the time cuts end with a KV block. The first chunk has a block's tokens at least, however
    little time is left: prompts always advance.

    Args:
        work: The decodes of the step, one token each; chunks are added to it.
        n_tokens: Most tokens of the step; at least those of `work`.
        seconds: Time for chunks of prompts; None for as many as there are tokens for.
        costs: Predicts what a chunk takes.

    Attributes:
        n_streams: Decodes.
        n_drafted: Tokens of drafts behind them.
        work: All that the step does so far.
    """

    __slots__ = ("_costs", "_n_left", "_seconds", "n_drafted", "n_streams", "work")

    def __init__(self, work: StepWork, n_tokens: int, seconds: float | None, costs: CostModel) -> None:
        self.n_streams = work.rows
        self.n_drafted = 0
        self.work = work
        self._n_left = n_tokens - work.rows
        self._seconds = seconds
        self._costs = costs

    @property
    def n_left(self) -> int:
        """Tokens that the step has room for, whatever the time."""
        return self._n_left

    @property
    def decodes_only(self) -> bool:
        """Whether no prompt is computed in the step."""
        return self.work.rows == self.n_streams + self.n_drafted

    def add_draft(self, n_context: int, n_tokens: int) -> None:
        """Count the tokens of a draft behind a sequence's last token; its keys and values are read anyway."""
        work = self.work
        work.add_run(n_context, n_tokens, n_tokens)
        work.reads -= n_context
        self.n_drafted += n_tokens
        self._n_left -= n_tokens

    @property
    def n_tokens(self) -> int:
        """Most tokens that the step may come to have, were every prompt at its beginning."""
        return self.work.rows + self._within(self._n_left, 0, scored=False)

    def take(self, first: int, n_wanted: int, *, scored_from: int | None) -> int:
        """Return how many tokens of a prompt go into this step, and count them.

        Args:
            first: Position of the first of them.
            n_wanted: Tokens that the prompt still lacks; at least 1.
            scored_from: Position from which on each needs a row of logits; None for the prompt's last token
                alone, which always does.

        Returns:
            0 if nothing is left.
        """
        scored = scored_from is not None and scored_from <= first
        n_tokens = self._within(min(n_wanted, self._n_left), first, scored=scored)
        if n_tokens == 0:
            return 0
        n_outputs = int(n_tokens == n_wanted)
        if scored_from is not None:
            n_outputs = max(n_outputs, first + n_tokens - max(first, scored_from))
        self.work.add_run(first, n_tokens, n_outputs)
        self._n_left -= n_tokens
        if self._seconds is not None:
            _, row, pair, read, output = self._costs.costs_s
            n_pairs = n_tokens * first + n_tokens * (n_tokens + 1) / 2
            took = row * n_tokens + pair * n_pairs + read * (first + n_tokens) + output * n_outputs
            self._seconds -= took
        return n_tokens

    def _within(self, n_most: int, first: int, *, scored: bool) -> int:
        """Return how many of at most `n_most` tokens from position `first` on the time is enough for."""
        if self._seconds is None:
            return n_most
        _, row, pair, read, output = self._costs.costs_s
        # The largest n of: square * n^2 + linear * n <= seconds
        square = pair / 2
        linear = row + pair * (first + 0.5) + read + (output if scored else 0.0)
        seconds = self._seconds - read * first
        n_fit = 0.0 if seconds <= 0 else 2 * seconds / (linear + sqrt(linear**2 + 4 * square * seconds))
        if n_fit >= n_most:
            return n_most
        n_whole = (first + int(n_fit)) // BLOCK_TOKENS * BLOCK_TOKENS - first
        n_least = min(BLOCK_TOKENS, n_most) if self.work.rows == self.n_streams else 0
        return max(n_whole, n_least)
