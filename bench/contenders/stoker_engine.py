"""Stoker's native engine without HTTP: prefill and decode times on one GGUF file. See `protocol.py`."""

import time
from pathlib import Path

from protocol import Job, Report, prompt, read_job, time_steps

from stoker import __version__
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model

GREEDY = SamplingParams(temperature=0.0)


class Runner:
    """Steps of several sequences whose KV blocks lie one after the other."""

    def __init__(self, job: Job) -> None:
        longest = max([*job.prefill, *(context + job.room for _, context in job.decode)])
        with open_model(Path(job.model)) as source:
            self._engine: NativeEngine = load_engine(
                source,
                NativeEngineSettings(
                    threads=job.threads,
                    isa=job.options.get("isa", "auto"),
                    context_length=min(source.config.context_length, longest + BLOCK_TOKENS),
                    kv_memory_bytes=2 << 30,
                    step_tokens=max(job.prefill, default=512),
                ),
            )
        self.fingerprint = self._engine.fingerprint

    def step(self, sequences: range, first: int, n_tokens: int, longest: int) -> float:
        """Compute `n_tokens` of each sequence from position `first` on; returns seconds."""
        n_blocks = -(-longest // BLOCK_TOKENS)
        plan = StepPlan(
            request_ids=[str(s) for s in sequences],
            tokens=[prompt(s, first, n_tokens) for s in sequences],
            first_positions=[first] * len(sequences),
            block_tables=[list(range(s * n_blocks, (s + 1) * n_blocks)) for s in sequences],
            samples=[True] * len(sequences),
            sampling=[GREEDY] * len(sequences),
        )
        start = time.perf_counter()
        self._engine.forward(plan)
        return time.perf_counter() - start


def main() -> None:
    """Run the job on standard input; print the report."""
    job = read_job()
    runner = Runner(job)
    report = Report(engine="stoker", version=__version__, settings={"fingerprint": runner.fingerprint})
    runner.step(range(1), 0, 64, 64)
    for n_tokens in job.prefill:
        times = [runner.step(range(1), 0, n_tokens, n_tokens) for _ in range(job.repeats)]
        report.add(f"prefill {n_tokens}", times)
    for n_sequences, context in job.decode:
        longest = context + job.room
        for s in range(n_sequences):
            runner.step(range(s, s + 1), 0, context, longest)
        sequences = range(n_sequences)

        def step(i: int, sequences: range = sequences, first: int = context, longest: int = longest) -> float:
            return runner.step(sequences, first + i, 1, longest)

        report.add(f"decode {n_sequences}x{context}", time_steps(job, step))
    report.print()


if __name__ == "__main__":
    main()
