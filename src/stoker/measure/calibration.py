"""How many words make a prompt of so many tokens, by the server's own count; pure."""

from dataclasses import dataclass
from typing import Self

from stoker.core.errors import StokerError

SHORT_WORDS, LONG_WORDS = 64, 320
"""Lengths of the prompts that the ratio is measured with."""

ANSWER_TOKENS = 8
"""Tokens that are asked for with each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What one server makes of words.

    Attributes:
        tokens_per_word: Tokens that each further word adds.
        overhead: Tokens of a prompt beside its words: those of the template and of the fixed last sentence.
        overhead_shared: The same for a prompt that begins with a shared part (in chat a system message).
        counted_by: ``usage`` if the server's own count was read; ``assumed`` if it gives none.
    """

    tokens_per_word: float = 1.0
    overhead: int = 0
    overhead_shared: int = 0
    counted_by: str = "assumed"

    @classmethod
    def of_counts(cls, *, short: int, long: int, shared: int) -> Self:
        """Return it from the server's counts of three prompts.

        Args:
            short: Tokens of a prompt of `SHORT_WORDS`.
            long: Tokens of a prompt of `LONG_WORDS`.
            shared: Tokens of a shared part of `SHORT_WORDS` followed by as many.

        Raises:
            StokerError: The counts cannot be those of these prompts.
        """
        tokens_per_word = (long - short) / (LONG_WORDS - SHORT_WORDS)
        if not 0 < tokens_per_word <= max(short, 1):
            raise StokerError(
                f"the server counts {short} tokens in {SHORT_WORDS} words and {long} in {LONG_WORDS}: "
                "its usage cannot be right, so prompts of a known length cannot be made"
            )
        return cls(
            tokens_per_word=tokens_per_word,
            overhead=max(0, round(short - SHORT_WORDS * tokens_per_word)),
            overhead_shared=max(0, round(shared - 2 * SHORT_WORDS * tokens_per_word)),
            counted_by="usage",
        )

    def words(self, n_tokens: int) -> int:
        """Return how many words come nearest to so many tokens, at least one."""
        return max(1, round(n_tokens / self.tokens_per_word))
