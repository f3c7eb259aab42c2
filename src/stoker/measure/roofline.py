"""How near a step's phases come to what the machine allows; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stoker.measure.machine import Machine
from stoker.measure.statistics import MEDIAN, percentile
from stoker.measure.step_work import PHASES, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """One phase, or a whole step. Times are in seconds.

    Attributes:
        wall_s: Time measured.
        idle_s: Part of it that threads were idle, on average: at barriers, or while one works alone.
        limit_s: Time that the machine needs at least; 0 for what has no work that is counted.
        bound: What sets that limit: ``compute``, ``memory``, or nothing.
        work: What was computed and read.
    """

    wall_s: float
    idle_s: float
    limit_s: float
    bound: str
    work: Work

    @property
    def reached(self) -> float | None:
        """Share of the machine's limit that was reached; None without work."""
        return self.limit_s / self.wall_s if self.limit_s > 0 and self.wall_s > 0 else None


def limit_of(work: Work, machine: Machine, working_set: int) -> tuple[float, str]:
    """Return the least time for some work, and what sets it."""
    compute_s = work.dot_ops / machine.dot_ops + work.float_ops / machine.fma_ops
    memory_s = work.size_bytes / machine.read_rate(working_set)
    if compute_s == memory_s == 0:
        return 0.0, ""
    return (compute_s, "compute") if compute_s >= memory_s else (memory_s, "memory")


def reach(
    work: Mapping[str, Work],
    machine: Machine,
    wall_s: Sequence[Mapping[str, float]],
    idle_s: Sequence[Mapping[str, float]],
) -> dict[str, Reach]:
    """Compare the measured times of several equal steps with the machine's limits.

    Args:
        work: Of one step, by phase.
        machine: The limits.
        wall_s: Of every step, by phase; at least one step.
        idle_s: Likewise, of all threads together.

    Returns:
        By phase, with medians of the steps; and ``step`` for all together, whose limit is the sum of theirs.
    """
    working_set = int(sum(each.size_bytes for each in work.values()))
    phases = {}
    for phase in PHASES:
        limit_s, bound = limit_of(work[phase], machine, working_set)
        phases[phase] = Reach(
            wall_s=_median([step[phase] for step in wall_s]),
            idle_s=_median([step[phase] for step in idle_s]) / machine.n_threads,
            limit_s=limit_s,
            bound=bound,
            work=work[phase],
        )
    limit_s = sum(each.limit_s for each in phases.values())
    by_memory = sum(each.limit_s for each in phases.values() if each.bound == "memory")
    phases["step"] = Reach(
        wall_s=_median([sum(step.values()) for step in wall_s]),
        idle_s=_median([sum(step.values()) for step in idle_s]) / machine.n_threads,
        limit_s=limit_s,
        bound="memory" if by_memory > limit_s / 2 else "compute",
        work=sum(work.values(), Work()),
    )
    return phases


def _median(values: Sequence[float]) -> float:
    return percentile(sorted(values), MEDIAN)
