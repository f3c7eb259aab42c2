"""What `bench/engine.py` and a contender say to each other: lines of JSON, one answer to each order.

A contender is a process that stays alive through all rounds of a run, so that every round can time every
contender at every case without loading a model or filling a KV cache again. It runs in an environment of
its own, so this file imports nothing but the standard library.

    → {"model": "…", "threads": 2, "prefill": [512], "decode": [[16, 512]], "options": {…}}
    ← {"engine": "…", "version": "…", "settings": {…}}
    → {"order": "prefill", "n_tokens": 512, "repeats": 1, "options": {…}}
    ← {"seconds": [0.2231]}
    → {"order": "decode", "sequences": 16, "context": 512, "warm_s": 0.2, "steps": 8, "options": {…}}
    ← {"seconds": [0.0309, …]}

The end of its standard input ends it.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Protocol

MAX_WARM_STEPS = 48
MIN_WARM_STEPS = 2
MAX_TIMED_STEPS = 128
ROOM = MAX_WARM_STEPS + MAX_TIMED_STEPS
"""Tokens that a sequence of a decode case grows by at most."""

VOCABULARY = 30_000
"""Token ids stay below this, and so below the size of every model's vocabulary."""

Options = dict[str, str]


@dataclass(frozen=True)
class Job:
    """What a contender is started for.

    Attributes:
        model: GGUF file.
        threads: Compute threads.
        prefill: Prompt lengths that will be asked for; each is computed whole, for one sequence.
        decode: (sequences, tokens of context each) that will be asked for.
        options: The contender's own, for the whole process.
    """

    model: str
    threads: int
    prefill: list[int]
    decode: list[tuple[int, int]]
    options: Options = field(default_factory=dict)

    @property
    def most_sequences(self) -> int:
        """Sequences of the widest case."""
        return max((n for n, _ in self.decode), default=1)

    def longest(self, sequence: int) -> int:
        """Return how many tokens the sequence of this number has at most, counted from 0."""
        steps = [context + ROOM for n, context in self.decode if n > sequence]
        return max([64, *steps, *(self.prefill if sequence == 0 else [])])


@dataclass(frozen=True)
class Hello:
    """What a contender is: engine, its version, and how it was set up."""

    engine: str
    version: str
    settings: dict[str, str]


class Contender(Protocol):
    """An engine under test; options are those of one order."""

    def prefill(self, n_tokens: int, options: Options) -> float:
        """Compute a prompt of this length that is nowhere cached; returns seconds."""

    def place(self, n_sequences: int, context: int, options: Options) -> None:
        """Have this many sequences with their context computed, and nothing else running."""

    def step(self, number: int) -> float:
        """Compute one token for every sequence that was placed, the `number`-th; returns seconds."""

    def clear(self) -> None:
        """End the sequences that were placed."""


def serve(start: Callable[[Job], tuple[Contender, Hello]]) -> None:
    """Read the job, start the contender and obey until standard input ends."""
    fields = json.loads(sys.stdin.readline())
    fields["decode"] = [(n, context) for n, context in fields["decode"]]
    contender, hello = start(Job(**fields))
    _say(asdict(hello))
    for line in sys.stdin:
        order = json.loads(line)
        options: Options = order.get("options", {})
        if order["order"] == "prefill":
            times = [contender.prefill(order["n_tokens"], options) for _ in range(order["repeats"])]
        else:
            contender.place(order["sequences"], order["context"], options)
            times = _time_steps(contender, order["warm_s"], order["steps"])
            contender.clear()
        _say({"seconds": [round(t, 7) for t in times]})


def _time_steps(contender: Contender, warm_s: float, n_steps: int) -> list[float]:
    """Step until the processor has settled after what came before, then time some steps."""
    started, number = time.perf_counter(), 0
    while number < MIN_WARM_STEPS or (number < MAX_WARM_STEPS and time.perf_counter() - started < warm_s):
        contender.step(number)
        number += 1
    return [contender.step(number + i) for i in range(min(n_steps, MAX_TIMED_STEPS))]


def _say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def prompt(sequence: int, first: int, n_tokens: int) -> list[int]:
    """Synthetic token ids, different for every sequence."""
    return [(100 + sequence * 31 + (first + i) * 7) % VOCABULARY for i in range(n_tokens)]
