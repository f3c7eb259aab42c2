"""Embeddings of prompts: one vector made of the hidden states of a prompt's tokens."""

from array import array
from dataclasses import dataclass, field
from enum import StrEnum
from math import fsum, sqrt


class Pooling(StrEnum):
    """Which hidden states behind the model's last norm an embedding is made of."""

    MEAN = "mean"
    """The mean of all tokens'."""

    LAST = "last"
    """The last token's."""


@dataclass(frozen=True, slots=True)
class PoolRun:
    """Which tokens of one run have their hidden states added to a sum.

    Attributes:
        first: Index in the run of the first of them; the others follow up to its end.
        sums: What they are added to, ``[width]``, as C doubles; empty for zeros.
    """

    first: int
    sums: "array[float]"


@dataclass(slots=True)
class PromptPool:
    """What a sequence has summed so far. Preemption leaves it: no token is added twice.

    Tokens are added one after the other in order of position, so the sums have the same bits however the
    prompt was cut.

    Attributes:
        pooling: What is wanted.
        n_prompt: Tokens of the prompt.
        n_pooled: Leading tokens that are in `sums`, or are not wanted there.
        sums: ``[width]``, as C doubles; empty before the first.
    """

    pooling: Pooling
    n_prompt: int
    n_pooled: int = 0
    sums: "array[float]" = field(default_factory=lambda: array("d"))

    def __post_init__(self) -> None:
        if self.pooling is Pooling.LAST:
            self.n_pooled = self.n_prompt - 1

    def run(self, start: int, end: int) -> PoolRun | None:
        """Return what is to be added when the tokens from `start` to `end` are computed."""
        if end <= self.n_pooled:
            return None
        return PoolRun(self.n_pooled - start, self.sums)

    def take(self, sums: "array[float]", end: int) -> None:
        """Note the sums with all tokens before `end`."""
        self.sums = sums
        self.n_pooled = end

    def embedding(self) -> "array[float]":
        """Return the sums at length 1 (L2), ``[width]``, as C floats; a mean only differs by its length."""
        length = sqrt(fsum(value * value for value in self.sums))
        scale = 1.0 / length if length else 0.0
        return array("f", [value * scale for value in self.sums])
