"""`TokenMatcher` holds one sequence to its grammar, `MaskWriter` computes a step's masks."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stoker.grammar.limits import exceeded

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from numpy.typing import NDArray

    from stoker.grammar.forced import TokenCutter

_PLACE = re.compile(r"(?:at )?(?P<line>\d+)\(\d+\): (?P<text>.*)")


class TokenMatcher:
    """A `Constraint`.

    Args:
        matcher: llguidance's state of this sequence.
        field: Path of the request's field that has the grammar.
        eager: The answer is complete as soon as it is of the grammar.
        cutter: Cuts text that has to follow into tokens; None if the model does that.

    Attributes:
        matcher: As given.
        field: As given.
    """

    __slots__ = ("_allowed", "_cutter", "_eager", "field", "matcher")

    def __init__(
        self, matcher: "LLMatcher", field: str, *, eager: bool = False, cutter: "TokenCutter | None" = None
    ) -> None:
        self.matcher = matcher
        self.field = field
        self._eager = eager
        self._cutter = cutter
        self._allowed = memoryview(b"")

    @property
    def allowed(self) -> memoryview:
        """Which tokens may come next, as `MaskWriter.write` has found last."""
        return self._allowed

    def show(self, allowed: memoryview) -> None:
        """Have these words as `allowed`."""
        self._allowed = allowed

    def advance(self, token_ids: Sequence[int]) -> bool:
        """Take in what was sampled, and return whether nothing may follow, or need follow if it is eager.

        What goes wrong is found when the next mask is computed.
        """
        return self.matcher.consume_tokens(list(token_ids)) and self.complete

    @property
    def complete(self) -> bool:
        """Whether nothing may follow, or need follow if it is eager."""
        matcher = self.matcher
        ended = matcher.is_stopped() or (self._eager and matcher.is_accepting())
        return ended and not matcher.is_error()

    def force(self, most: int) -> Sequence[int]:
        """Take in the tokens that have to follow, `most` at most, and return them."""
        cutter = self._cutter
        if cutter is None or most <= 0 or self.matcher.is_error():
            return ()
        tokens = cutter.cut(self.matcher.compute_ff_bytes(), most)
        return tokens[: self.matcher.try_consume_tokens(tokens)] if tokens else ()

    @property
    def fault(self) -> str | None:
        """Why no mask could be computed, or None."""
        return reason(self.matcher.get_error()) if self.matcher.is_error() else None


class MaskWriter:
    """Computes the masks of all constrained sequences of a step.

    Args:
        sayable: Bits of the tokens that any grammar may lead to, as in a mask: text, and what ends an
            answer.
    """

    def __init__(self, sayable: "NDArray[np.uint32]") -> None:
        self._sayable = sayable
        # Control tokens are mostly in one word of the mask, beside those that are beyond the vocabulary.
        self._cut = np.flatnonzero(sayable != _ALL)
        self._cut_sayable = sayable[self._cut]
        self._resize(1)

    def _resize(self, n: int) -> None:
        self._masks = np.empty((n, len(self._sayable)), np.uint32)
        self._address = self._masks.ctypes.data
        self._rows = [row.data for row in self._masks]

    def write(self, matchers: Sequence[TokenMatcher]) -> list[int]:
        """Compute every matcher's mask, valid until the next call.

        Returns:
            Indices of those that have none, because something went wrong or nothing can follow; all tokens
            are allowed there.
        """
        n = len(matchers)
        if len(self._masks) < n:
            self._resize(2 * n)
        row_bytes = self._masks.strides[0]
        for index, each in enumerate(matchers):
            each.matcher.unsafe_compute_mask_ptr(self._address + index * row_bytes, row_bytes)
            each.show(self._rows[index])
        masks = self._masks[:n]
        masks[:, self._cut] &= self._cut_sayable
        some = masks.max(axis=1).tolist()
        lost = [
            index
            for index, (each, has_some) in enumerate(zip(matchers, some, strict=True))
            if not has_some or each.matcher.is_error()
        ]
        masks[lost] = self._sayable
        return lost


_ALL = np.uint32(0xFFFFFFFF)


def reason(message: str, *, head_lines: int = 0) -> str:
    """Return what an error of llguidance says in a sentence, without the state that it may go on with.

    Args:
        message: The error.
        head_lines: Lines before a grammar that its author has not written.
    """
    if (limit := exceeded(message)) is not None:
        return limit
    lines = [line.strip() for line in message.strip().splitlines()] or [""]
    explained = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), None)
    said = _PLACE.match(lines[0])
    text = lines[0] if said is None else said["text"]
    if "oneOf" in text:
        text = "the cases of 'oneOf' may overlap; use 'anyOf'"
    line = 0 if said is None else int(said["line"]) - head_lines
    where = f"line {line}: " if line > 0 else ""
    if explained is not None:
        text = f"regular expression: {explained}"
    return where + text.removeprefix("failed to compile JSON schema: ")[:300]
