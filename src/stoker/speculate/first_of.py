"""Several drafters in one: the first that has drafts makes those of the step."""

from collections.abc import Sequence

from stoker.core.drafting import DraftCosts, Drafter, Drafts, DraftSeat
from stoker.core.step import StepPlan


class FirstOf:
    """A `Drafter` that asks others in order, those first whose guesses cost least.

    Args:
        drafters: At least one.
    """

    def __init__(self, *drafters: Drafter) -> None:
        self._drafters = drafters

    def needs_blocks(self, costs: DraftCosts) -> bool:
        """Whether one of them may need some."""
        return any(each.needs_blocks(costs) for each in self._drafters)

    def draft(self, plan: StepPlan, seats: Sequence[DraftSeat], costs: DraftCosts) -> Drafts:
        """Return the drafts of the first that has any."""
        for each in self._drafters:
            if (drafts := each.draft(plan, seats, costs)).tokens:
                return drafts
        return Drafts()
