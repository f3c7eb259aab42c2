"""A contender as a process that stays alive, and is stopped while others are timed."""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

SCRIPTS = Path(__file__).parents[1] / "contenders"

Case = tuple[str, int, int]
"""("prefill", 1, tokens) or ("decode", sequences, tokens of context each)."""


def case_name(case: Case) -> str:
    """Spell a case as results do: ``prefill 512``, ``decode 16x512``."""
    kind, n_sequences, n_tokens = case
    return f"prefill {n_tokens}" if kind == "prefill" else f"decode {n_sequences}x{n_tokens}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is started.

    Attributes:
        name: In results.
        python: Interpreter of its environment.
        script: In ``contenders/``.
        model: GGUF file.
        cases: What it is asked for.
        process: Options of the process.
        order: Options of each case's orders, by name of the case.
        note: What a reader must know of it.
    """

    name: str
    python: Path
    script: str
    model: Path
    cases: tuple[Case, ...]
    process: dict[str, str] = field(default_factory=dict)
    order: dict[str, dict[str, str]] = field(default_factory=dict)
    note: str = ""


class Contender:
    """A running one; also a context manager that ends it.

    Args:
        entry: What to start.
        threads: Compute threads.

    Attributes:
        hello: What it says of itself.
    """

    def __init__(self, entry: Entry, threads: int) -> None:
        self.entry = entry
        self._process = subprocess.Popen(
            [entry.python, SCRIPTS / entry.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        job = {
            "model": str(entry.model.resolve()),
            "threads": threads,
            "prefill": [n_tokens for kind, _, n_tokens in entry.cases if kind == "prefill"],
            "decode": [(n, context) for kind, n, context in entry.cases if kind == "decode"],
            "options": entry.process,
        }
        self.hello: dict[str, Any] = self._ask(job)
        self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGCONT)
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def time(
        self,
        case: Case,
        *,
        repeats: int,
        steps: int,
        warm_s: float = 0.2,
        options: dict[str, str] | None = None,
    ) -> list[float]:
        """Time a case; returns seconds of each call.

        Args:
            case: Which.
            repeats: How often a prefill is timed.
            steps: How many steps of a decode case are timed.
            warm_s: Untimed steps before them, in seconds.
            options: Those of the order, instead of the entry's for this case.
        """
        kind, n_sequences, n_tokens = case
        chosen = self.entry.order.get(case_name(case), {}) if options is None else options
        order: dict[str, Any] = {"order": kind, "options": chosen}
        if kind == "prefill":
            order |= {"n_tokens": n_tokens, "repeats": repeats}
        else:
            order |= {"sequences": n_sequences, "context": n_tokens, "warm_s": warm_s, "steps": steps}
        self._process.send_signal(signal.SIGCONT)
        try:
            seconds: list[float] = self._ask(order)["seconds"]
        finally:
            self._process.send_signal(signal.SIGSTOP)
        return seconds

    def _ask(self, order: object) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a contender is started with pipes")
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        # Libraries may print lines of their own; an answer begins with a brace.
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        sys.exit(f"{self.entry.name} ({self.entry.script}) ended with {self._process.wait()}; see above")
