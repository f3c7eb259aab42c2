"""Answers that end before they would by themselves: why, and how sure the model was."""

from dataclasses import dataclass
from enum import StrEnum

MAX_EXIT_WINDOW = 256
"""Most tokens that an `ExitRule` looks at."""


class ExitReason(StrEnum):
    """What became of a request to end early."""

    CHOICE = "choice"
    """The most likely choice is the answer; nothing was generated."""

    UNSURE = "unsure"
    """No choice was likely enough: the answer was generated to its end."""

    CONFIDENCE = "confidence"
    """The model was less sure of its last tokens than the request's rule allows."""

    FORMAT = "format"
    """The answer was of its grammar: nothing might follow, or need follow if the grammar is eager."""

    NONE = "none"
    """The answer came to its own end before the rule applied."""


@dataclass(frozen=True, slots=True)
class ExitRule:
    """End a choice when the geometric mean of the probabilities of its last tokens is too low.

    Attributes:
        stop_below: Least mean that it goes on with, within 0 and 1; 0 never ends it.
        window: How many tokens are looked at; before so many there is no end.
    """

    stop_below: float
    window: int


@dataclass(frozen=True, slots=True)
class EarlyExit:
    """What is told of it.

    Attributes:
        reason: What happened.
        confidence: The best choice's probability among the choices, or the mean probability of the last
            tokens; None if too few tokens have come.
        scores: The choices and their probabilities, in the order of the request.
    """

    reason: ExitReason
    confidence: float | None
    scores: tuple[tuple[str, float], ...] = ()
