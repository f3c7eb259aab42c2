"""What a scheduler and a drafter say to each other.

A draft is a guess at the next tokens of a sequence. A step computes it behind the sequence's last token and
samples after each of its tokens; what was sampled counts up to the first token that was guessed wrong. So a
draft decides how many tokens a step gives, and never which.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stoker.core.step import StepPlan

MAX_DRAFT_TOKENS = 15
"""Most tokens of a draft: with the token before them they fill a KV block."""


class Draftable(Protocol):
    """A running sequence, as a drafter sees it.

    Attributes:
        tokens: Prompt, then what was generated; not to be changed.
        draft_states: What drafters remember of it, by the type that each of them has for that.
    """

    tokens: list[int]
    draft_states: dict[type, object]


@dataclass(frozen=True, slots=True)
class DraftSeat:
    """A sequence whose next step may have a draft.

    Attributes:
        row: Its row in the plan.
        sequence: The sequence.
        most: Most tokens of the draft, at least 1.
    """

    row: int
    sequence: Draftable
    most: int


@dataclass(frozen=True, slots=True)
class DraftCosts:
    """What a step is predicted to take, in seconds.

    Attributes:
        n_streams: Sequences of the step, each of which gives a token at least.
        plain_s: Without drafts, as part of as long a call as there would be.
        base_s: In a call of its own, before the first token of a draft.
        token_s: For each token of a draft.
        most_s: Longest that the step may take.
        margin: How many times as many tokens per second as without drafts must be expected for them.
    """

    n_streams: int
    plain_s: float
    base_s: float
    token_s: float
    most_s: float = inf
    margin: float = 1.1


@dataclass(frozen=True, slots=True)
class Drafts:
    """Guesses for a step.

    Attributes:
        tokens: Drafts by row of the plan, none of them empty.
        on_trial: They are made to learn what drafts bring and take, and not expected to pay.
    """

    tokens: Mapping[int, list[int]] = field(default_factory=dict)
    on_trial: bool = False


class Drafter(Protocol):
    """Guesses how sequences go on."""

    def needs_blocks(self, costs: DraftCosts) -> bool:
        """Whether it may compute guesses into the sequences' KV blocks, which must be there before."""

    def draft(self, plan: "StepPlan", seats: Sequence[DraftSeat], costs: DraftCosts) -> Drafts:
        """Return drafts, none where a draft would not pay.

        Args:
            plan: What will be computed, of one token a row so far.
            seats: The sequences that may have a draft.
            costs: What the step takes.
        """
