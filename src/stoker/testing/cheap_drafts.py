"""Drafts that a drafter makes where they would not pay."""

from collections.abc import Sequence
from dataclasses import replace

from stoker.core.drafting import DraftCosts, Drafter, Drafts, DraftSeat
from stoker.core.step import StepPlan


class AtAnyCost:
    """Has another `Drafter` believe that drafts cost next to nothing.

    Args:
        drafter: The other one.
    """

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter

    def needs_blocks(self, costs: DraftCosts) -> bool:
        """As the other says."""
        return self._drafter.needs_blocks(_cheap(costs))

    def draft(self, plan: StepPlan, seats: Sequence[DraftSeat], costs: DraftCosts) -> Drafts:
        """Return the other's drafts."""
        return self._drafter.draft(plan, seats, _cheap(costs))


def _cheap(costs: DraftCosts) -> DraftCosts:
    return replace(costs, plain_s=1.0, base_s=1.0, token_s=1e-4, margin=1.0)
