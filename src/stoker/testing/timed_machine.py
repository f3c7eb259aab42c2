"""A machine whose steps take a known time, with noise, drift and disturbances: for tests of pacing."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from stoker.core.step import StepPlan
from stoker.core.work import StepWork


def work_of(plan: StepPlan) -> StepWork:
    """Return what a plan has to do, counted from the plan alone."""
    work = StepWork()
    for row, (tokens, first) in enumerate(zip(plan.tokens, plan.first_positions, strict=True)):
        scoring = plan.scoring.get(row)
        n_outputs = int(plan.samples[row]) if scoring is None else len(set(scoring.rows))
        work.add_run(first, len(tokens), n_outputs)
    return work


@dataclass(kw_only=True)
class TimedMachine:
    """Says what each step takes; the same on every run.

    Attributes:
        fixed_s, row_s, pair_s, read_s, output_s: True costs, of `StepWork`'s counts.
        noise: Standard deviation of a step's time, relative to it.
        spike_share: Share of steps during which the machine does something else, too.
        spike: What those take, in times their own time.
        slowness: What everything takes at a time, in times the costs; called with seconds.
        seed: Of the noise.
        now_s: Time spent so far.
    """

    fixed_s: float = 1.5e-3
    row_s: float = 4e-4
    pair_s: float = 2e-7
    read_s: float = 5e-7
    output_s: float = 1e-4
    noise: float = 0.0
    spike_share: float = 0.0
    spike: float = 5.0
    slowness: Callable[[float], float] = lambda _: 1.0
    seed: int = 0
    now_s: float = 0.0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - noise is no secret

    def mean_s(self, work: StepWork) -> float:
        """Return what a step of this work takes on a machine that nothing disturbs."""
        return (
            self.fixed_s
            + self.row_s * work.rows
            + self.pair_s * work.pairs
            + self.read_s * work.reads
            + self.output_s * work.outputs
        )

    def step_time(self, plan: StepPlan) -> float:
        """Return what this step takes now."""
        seconds = self.mean_s(work_of(plan)) * self.slowness(self.now_s)
        seconds *= max(0.5, self._random.gauss(1.0, self.noise))
        if self._random.random() < self.spike_share:
            seconds *= self.spike
        self.now_s += seconds
        return seconds
