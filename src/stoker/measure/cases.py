"""Cases of the engine alone: prompts of one sequence, steps of several; how they are spelled; pure."""

import re
from dataclasses import dataclass
from typing import Self

from stoker.core.errors import SettingsError

MAX_SEQUENCES = 256
MAX_CONTEXT = 1_000_000
MAX_CASES = 64

DEFAULT_CASES = "512,2048,1x128,1x2048,16x512,32x512"

_SPELLING = re.compile(r"(?:(\d{1,4})x)?(\d{1,7})")


@dataclass(frozen=True, slots=True)
class Case:
    """What is timed.

    Attributes:
        n_seqs: Sequences; 0 for the prefill of one.
        n_tokens: Tokens of the prompt that is computed, or of each sequence's context.
    """

    n_seqs: int
    n_tokens: int

    def __str__(self) -> str:
        if self.n_seqs == 0:
            return f"prefill of {self.n_tokens:,} tokens"
        return f"decode of {self.n_seqs} x {self.n_tokens:,} tokens"

    @classmethod
    def parse(cls, text: str) -> list[Self]:
        """Read a list such as ``512,2048,16x512``.

        Raises:
            SettingsError: It is spelled otherwise, or too large.
        """
        cases = []
        for word in text.split(","):
            found = _SPELLING.fullmatch(word.strip())
            if found is None:
                raise SettingsError(f"--cases: {word!r} is none: 512 is a prefill, 16x512 a decode")
            case = cls(int(found[1]) if found[1] is not None else 0, int(found[2]))
            in_range = case.n_seqs <= MAX_SEQUENCES and 1 <= case.n_tokens <= MAX_CONTEXT
            if not in_range or (found[1] is not None and case.n_seqs == 0):
                raise SettingsError(
                    f"--cases: {word!r} is out of range: 1 to {MAX_SEQUENCES} sequences of 1 to "
                    f"{MAX_CONTEXT:,} tokens"
                )
            cases.append(case)
        if len(cases) > MAX_CASES:
            raise SettingsError(f"--cases: {len(cases)} are too many: at most {MAX_CASES}")
        return cases
