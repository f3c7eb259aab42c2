"""What steps that only decode take, with drafts and without."""

from stoker.core.drafting import DraftCosts
from stoker.core.work import ModelWork, StepWork
from stoker.scheduler.cost import CostModel

PROBE_EVERY = 64
"""After so many steps with drafts one has none, so that what plain steps take stays known."""

LEAST_MARGIN, MOST_MARGIN = 1.1, 3.0
"""Drafts are made where so many times the tokens per second of plain steps are expected of them."""

_RAISE = 0.05  # of the margin, for each unit that a step with drafts brought less than the least margin
_LOWER = 0.0005  # with each plain step
_LEAST_GAIN, _MOST_GAIN = 0.5, 2.0  # what one step can say of that


class DraftPace:
    """Predicts steps of decodes apart from those that compute prompts.

    A row of a small step costs more than one of a prompt's hundreds, which the machine computes in larger
    tiles. Plain steps share a call with others, those with drafts have one of their own, so each kind is
    learnt from its like.

    Predictions of steps and chances of guesses may both be off. So what steps with drafts bring is held
    against what plain steps are predicted to bring, and the margin rises while it is less than asked for.

    Args:
        model: Operations and bytes of the model.
    """

    __slots__ = ("_drafted", "_margin", "_n_since_plain", "_plain")

    def __init__(self, model: ModelWork) -> None:
        self._plain = CostModel(model)
        self._drafted = CostModel(model)
        self._n_since_plain = 0
        self._margin = LEAST_MARGIN

    def costs(self, work: StepWork, most_s: float) -> DraftCosts:
        """Return what a step of these decodes takes, and what a token of a draft adds.

        Args:
            work: The decodes.
            most_s: Longest that the step may be predicted to take with drafts.
        """
        n_streams = work.rows
        plain_s = self._plain.predict(work)
        if self._n_since_plain >= PROBE_EVERY:
            return DraftCosts(n_streams, plain_s, plain_s, plain_s)
        _, row, pair, read, output = self._drafted.costs_s
        token_s = row + pair * work.pairs / max(1, n_streams) + read + output
        return DraftCosts(n_streams, plain_s, self._drafted.predict(work), token_s, most_s, self._margin)

    def observe_plain(self, work: StepWork, seconds: float, *, alone: bool) -> None:
        """Learn from a step without drafts.

        Args:
            work: Its decodes.
            seconds: What it took.
            alone: Whether it was a call's only step.
        """
        self._n_since_plain = 0
        self._margin = max(LEAST_MARGIN, self._margin - _LOWER)
        self._plain.observe(work, seconds)
        if alone:
            self._drafted.observe(work, seconds)

    def observe_drafted(
        self,
        work: StepWork,
        seconds: float,
        *,
        drafting_s: float,
        n_drafted: int,
        n_accepted: int,
        on_trial: bool,
    ) -> None:
        """Learn from a step with drafts.

        Args:
            work: Its decodes, and drafts.
            seconds: What it took.
            drafting_s: What making the drafts took, before it.
            n_drafted: Tokens of its drafts.
            n_accepted: Those of them that were right.
            on_trial: The drafts were not expected to pay, so nothing is to be asked for that they did not.
        """
        self._n_since_plain += 1
        n_streams = work.rows - n_drafted
        plain = StepWork(n_streams, work.pairs * n_streams // work.rows, work.reads, n_streams)
        plain_s = self._plain.predict(plain)
        self._drafted.observe(work, seconds)
        if on_trial:
            return
        gain = (n_streams + n_accepted) / n_streams * plain_s / (seconds + drafting_s)
        shortfall = LEAST_MARGIN - max(_LEAST_GAIN, min(_MOST_GAIN, gain))
        self._margin = max(LEAST_MARGIN, min(MOST_MARGIN, self._margin + _RAISE * shortfall))
