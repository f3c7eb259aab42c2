"""What steps that only decode take, with drafts and without."""

from stoker.core.drafting import DraftCosts
from stoker.core.work import ModelWork, StepWork
from stoker.scheduler.cost import CostModel

PROBE_EVERY = 64
"""After so many steps with drafts one has none, so that what plain steps take stays known."""


class DraftPace:
    """Predicts steps of decodes apart from those that compute prompts.

    A row of a small step costs more than one of a prompt's hundreds, which the machine computes in larger
    tiles. Plain steps share a call with others, those with drafts have one of their own, so each kind is
    learnt from its like.

    Args:
        model: Operations and bytes of the model.
    """

    __slots__ = ("_drafted", "_n_since_plain", "_plain")

    def __init__(self, model: ModelWork) -> None:
        self._plain = CostModel(model)
        self._drafted = CostModel(model)
        self._n_since_plain = 0

    def costs(self, work: StepWork) -> DraftCosts:
        """Return what a step of these decodes takes, and what a token of a draft adds."""
        n_streams = work.rows
        plain_s = self._plain.predict(work)
        if self._n_since_plain >= PROBE_EVERY:
            return DraftCosts(n_streams, plain_s, plain_s, plain_s)
        _, row, pair, read, output = self._drafted.costs_s
        token_s = row + pair * work.pairs / max(1, n_streams) + read + output
        return DraftCosts(n_streams, plain_s, self._drafted.predict(work), token_s)

    def observe(self, work: StepWork, seconds: float, *, drafted: bool, alone: bool) -> None:
        """Learn from a step.

        Args:
            work: Its decodes, and drafts.
            seconds: What it took.
            drafted: Whether it had drafts.
            alone: Whether it was a call's only step.
        """
        if drafted:
            self._n_since_plain += 1
        else:
            self._n_since_plain = 0
            self._plain.observe(work, seconds)
        if drafted or alone:
            self._drafted.observe(work, seconds)
