"""A drafter that knows what sequences will say, and says something else now and then."""

import random
from collections.abc import Sequence

from stoker.core.drafting import DraftCosts, Drafts, DraftSeat
from stoker.core.step import StepPlan
from stoker.core.tokens import TokenRequest
from stoker.testing.step_engine import DEFAULT_VOCAB_SIZE, reference_tokens

_PASSED_OVER = 0.3


class OracleDrafter:
    """Guesses for every seat that it is given, whatever it costs.

    Args:
        requests: Whose tokens from a `FakeStepEngine` it knows.
        right: Chance of each guess to be right.
        seed: Of its draws.

    Attributes:
        right: As given; may be changed.
        computes: Whether it says that it computes its guesses, so that blocks are there for them.
        costs: What it was told that steps take.
    """

    def __init__(self, requests: Sequence[TokenRequest] = (), right: float = 1.0, seed: int = 1) -> None:
        self.right = right
        self.computes = False
        self.costs: list[DraftCosts] = []
        self._wholes: list[list[int]] = []
        self._random = random.Random(seed)  # noqa: S311 - a test's
        for request in requests:
            self.learn(request)

    def learn(self, request: TokenRequest) -> None:
        """Get to know a further request."""
        self._wholes.append([*request.prompt, *reference_tokens(request)])

    def needs_blocks(self, costs: DraftCosts) -> bool:
        """As it was told."""
        del costs
        return self.computes

    def draft(self, plan: StepPlan, seats: Sequence[DraftSeat], costs: DraftCosts) -> Drafts:
        """Return a draft of any length for every seat, and none for some of them if it computes guesses."""
        del plan
        self.costs.append(costs)
        return Drafts(
            {
                seat.row: self._guess(seat)
                for seat in seats
                if not (self.computes and self._random.random() < _PASSED_OVER)
            }
        )

    def _guess(self, seat: DraftSeat) -> list[int]:
        known = seat.sequence.tokens
        whole = next(each for each in self._wholes if each[: len(known)] == known)
        n = self._random.randint(1, seat.most)
        coming = whole[len(known) :][:n]
        coming += [1] * (n - len(coming))
        return [
            token if self._random.random() < self.right else (token + 1) % DEFAULT_VOCAB_SIZE
            for token in coming
        ]
