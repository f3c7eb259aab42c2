"""Finds llama.cpp's best setting of each case before the rounds begin.

One axis after the other, since all combinations would take longer than the run: with the Q4_0 file flash
attention and unified KV, then the micro-batch (which only prompts depend on), then the file as it came. Every
setting that was tried goes into the result.
"""

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from harness.contender import Case, Contender, Entry, case_name

UBATCHES = ("128", "256", "1024", "2048")


class Setting(NamedTuple):
    """Of a llama.cpp context."""

    flash: str = "0"
    unified: str = "0"
    ubatch: str = "512"


Tried = dict[str, Any]
"""``case``, ``file``, ``flash``, ``unified``, ``ubatch``, ``seconds`` of each call."""


class LlamaSweep:
    """Tries settings of llama.cpp.

    Args:
        python: Interpreter of the peers' environment.
        files: GGUF files by type; the first is tried with every setting, the others with the best one.
        cases: What is timed.
        threads: Compute threads.

    Attributes:
        tried: Every setting with what it took.
    """

    def __init__(
        self, python: Path, files: Mapping[str, Path], cases: tuple[Case, ...], threads: int
    ) -> None:
        self._python = python
        self._files = files
        self._cases = cases
        self._threads = threads
        self.tried: list[Tried] = []

    def run(self) -> None:
        """Try them."""
        first, *others = self._files
        with self._open(first) as contender:
            # A context is kept until another setting is asked for, so settings go around cases.
            for flash in ("0", "1"):
                self._try(contender, first, [*self._prompts(), *self._steps(alone=True)], Setting(flash))
                for unified in ("0", "1"):
                    self._try(contender, first, self._steps(alone=False), Setting(flash, unified))
            for case in self._prompts():
                flash = self.best(case)["flash"]
                for ubatch in UBATCHES:
                    if int(ubatch) < 2 * case[2]:
                        self._try(contender, first, [case], Setting(flash, ubatch=ubatch))
        for other in others:
            with self._open(other) as contender:
                settings = [
                    (Setting(*(self.best(case)[name] for name in Setting._fields)), case)
                    for case in self._cases
                ]
                for setting, case in sorted(settings):
                    self._try(contender, other, [case], setting)

    def best(self, case: Case) -> Tried:
        """Return the setting with the least median of those tried for a case."""
        of_case = [tried for tried in self.tried if tried["case"] == case_name(case)]
        return min(of_case, key=lambda tried: statistics.median(tried["seconds"]))

    def _prompts(self) -> list[Case]:
        return [case for case in self._cases if case[0] == "prefill"]

    def _steps(self, *, alone: bool) -> list[Case]:
        return [case for case in self._cases if case[0] == "decode" and (case[1] == 1) == alone]

    def _open(self, file: str) -> Contender:
        entry = Entry(
            name=f"llama.cpp {file} (sweep)",
            python=self._python,
            script="peer_llamacpp.py",
            model=self._files[file],
            cases=self._cases,
            process={"keep": "0"},
        )
        return Contender(entry, self._threads)

    def _try(self, contender: Contender, file: str, cases: Iterable[Case], setting: Setting) -> None:
        options = setting._asdict()
        for case in cases:
            seconds = contender.time(case, repeats=1, steps=3, warm_s=0.0, options=options)
            self.tried.append({"case": case_name(case), "file": file, **options, "seconds": seconds})
