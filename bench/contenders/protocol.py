"""What `bench/engine.py` and the contenders' scripts say to each other: one line of JSON each way.

A contender runs in its own environment, so this file imports nothing but the standard library.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

WARM_UP_S = 0.2
MAX_WARM_STEPS = 64


@dataclass
class Job:
    """What to time.

    Attributes:
        model: GGUF file.
        threads: Compute threads.
        prefill: Prompt lengths; each is computed whole, in one call, for one sequence.
        decode: (sequences, tokens of context each); a step computes one token for every sequence.
        repeats: How often a prefill is timed.
        steps: Timed steps of a decode case, after `warm_up`.
        options: The contender's own.
    """

    model: str
    threads: int
    prefill: list[int]
    decode: list[tuple[int, int]]
    repeats: int
    steps: int
    options: dict[str, str] = field(default_factory=dict)

    @property
    def room(self) -> int:
        """Tokens that a sequence of a decode case grows by at most."""
        return self.steps + MAX_WARM_STEPS


@dataclass
class Report:
    """What was measured: seconds of every timed call, by case."""

    engine: str
    version: str
    settings: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, case: str, times: list[float]) -> None:
        """Add a case."""
        self.seconds[case] = [round(t, 7) for t in times]

    def print(self) -> None:
        """Write the report as the last line of standard output."""
        sys.stdout.write(json.dumps(asdict(self)) + "\n")


def read_job() -> Job:
    """Read the job from standard input."""
    job = Job(**json.load(sys.stdin))
    job.decode = [(n_sequences, context) for n_sequences, context in job.decode]
    return job


def time_steps(job: Job, step: Callable[[int], float]) -> list[float]:
    """Run a decode case's steps until the processor has settled after the prefill, then time some.

    Args:
        job: How many.
        step: Runs the step of this number, counted from 0, and returns its seconds.
    """
    started, number = time.perf_counter(), 0
    while number < MAX_WARM_STEPS and time.perf_counter() - started < WARM_UP_S:
        step(number)
        number += 1
    return [step(number + i) for i in range(job.steps)]


def prompt(sequence: int, first: int, n_tokens: int) -> list[int]:
    """Synthetic token ids, different for every sequence, below every vocabulary's size."""
    return [(100 + sequence * 31 + (first + i) * 7) % 30000 for i in range(n_tokens)]
