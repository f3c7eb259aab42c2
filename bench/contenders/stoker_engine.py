"""Stoker's native engine without HTTP. See `protocol.py`.

Options of the process: ``packs`` (folder of packs, as `stoker serve` uses them; none), and what else
`NativeEngineSettings` has to be set as text: ``isa``, ``kv_type`` (their defaults).
"""

import time
from itertools import accumulate
from pathlib import Path
from typing import Any

from protocol import Contender, Hello, Job, Options, prompt, serve

from stoker import __version__
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.engine.native import NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.models.packs import PackFolder

GREEDY = SamplingParams(temperature=0.0)
MAX_PACKS_BYTES = 64 << 30
CHUNK = 512


class Stoker:
    """Steps of several sequences, each in KV blocks of its own that lie one after the other.

    What the blocks hold changes no time, so that cases share them: a context of 512 tokens is the
    beginning of one of 2,048. All are written once before, since memory that nobody has written is read
    from one page of zeros.
    """

    def __init__(self, job: Job) -> None:
        sizes = [-(-job.longest(sequence) // BLOCK_TOKENS) for sequence in range(job.most_sequences)]
        ends = list(accumulate(sizes))
        self._tables = [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
        self._written = 0
        self._placed = range(0)
        self._first = 0
        settings: dict[str, Any] = {**job.options}
        folder = settings.pop("packs", None)
        packs = None if folder is None else PackFolder(Path(folder), MAX_PACKS_BYTES)
        with open_model(Path(job.model)) as source:
            self.engine = load_engine(
                source,
                NativeEngineSettings(
                    threads=job.threads,
                    context_length=min(source.config.context_length, max(sizes) * BLOCK_TOKENS),
                    max_running=job.most_sequences,
                    step_tokens=max([CHUNK, *job.prefill]),
                    **settings,
                ),
                packs,
            )
        needed = ends[-1]
        if self.engine.kv_blocks < needed:
            raise SystemExit(
                f"there is memory for {self.engine.kv_blocks} KV blocks, but {needed} are needed: free some,"
                " or time fewer sequences or shorter contexts"
            )
        self.fingerprint = self.engine.fingerprint
        self.prefill(64, {})

    def prefill(self, n_tokens: int, options: Options) -> float:  # noqa: ARG002 - it has none
        """Compute the first sequence's first tokens anew."""
        return self._compute(range(1), 0, n_tokens)

    def place(self, n_sequences: int, context: int, options: Options) -> None:  # noqa: ARG002 - it has none
        """See that the sequences' blocks have been written."""
        for sequence in range(self._written, n_sequences):
            size = len(self._tables[sequence]) * BLOCK_TOKENS
            for first in range(0, size, CHUNK):
                n_tokens = min(CHUNK, size - first)
                self._compute(range(sequence, sequence + 1), first, n_tokens)
        self._written = max(self._written, n_sequences)
        self._placed, self._first = range(n_sequences), context

    def step(self, number: int) -> float:
        """Compute one token for every sequence."""
        return self._compute(self._placed, self._first + number, 1)

    def clear(self) -> None:
        """Leave the blocks as they are."""

    def _compute(self, sequences: range, first: int, n_tokens: int) -> float:
        plan = StepPlan(
            request_ids=[str(s) for s in sequences],
            tokens=[prompt(s, first, n_tokens) for s in sequences],
            first_positions=[first] * len(sequences),
            block_tables=[self._tables[s] for s in sequences],
            samples=[True] * len(sequences),
            sampling=[GREEDY] * len(sequences),
        )
        start = time.perf_counter()
        self.engine.forward(plan)
        return time.perf_counter() - start


def start(job: Job) -> tuple[Contender, Hello]:
    """Load the model."""
    contender = Stoker(job)
    return contender, Hello("stoker", __version__, {"fingerprint": contender.fingerprint})


if __name__ == "__main__":
    serve(start)
