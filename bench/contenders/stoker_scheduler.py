"""Stoker's native engine under its scheduler, in one process without HTTP. See `protocol.py`.

Option of an order: ``through``: ``engine`` for plans that were made before, as `stoker_engine.py` times them,
or ``scheduler``: each step is scheduled, computed and committed.
"""

import time

from protocol import ROOM, Contender, Hello, Job, Options, prompt, serve
from stoker_engine import CHUNK, GREEDY, Stoker

from stoker import __version__
from stoker.core.tokens import TokenRequest
from stoker.scheduler import Scheduler, SchedulerLimits


class Scheduled:
    """The engine of a `Stoker`, with and without a scheduler before it."""

    def __init__(self, job: Job) -> None:
        self.alone = Stoker(job)
        limits = SchedulerLimits(
            context_length=max(map(job.longest, range(job.most_sequences))),
            max_running=job.most_sequences,
            max_waiting=job.most_sequences,
            max_step_tokens=CHUNK,
        )
        self._scheduler = Scheduler(limits, self.alone.engine.kv_blocks, "bench")
        self._submitted: list[str] = []
        self._n_submitted = 0

    def prefill(self, n_tokens: int, options: Options) -> float:
        """Compute a prompt by the engine alone."""
        return self.alone.prefill(n_tokens, options)

    def place(self, n_sequences: int, context: int, options: Options) -> None:
        """Place the sequences, or submit them and step until all of them have a first token."""
        if options["through"] == "engine":
            self.alone.place(n_sequences, context, options)
            return
        for sequence in range(n_sequences):
            self._n_submitted += 1
            request = TokenRequest(
                request_id=f"{self._n_submitted}",
                prompt=tuple(prompt(sequence, 0, context)),
                max_tokens=ROOM,
                sampling=GREEDY,
            )
            self._scheduler.submit(request, 0.0)
            self._submitted.append(request.request_id)
        # Prompts are cached after the first time; the KV that they find need not be theirs.
        while self._step() != n_sequences:
            pass

    def step(self, number: int) -> float:
        """Run a step."""
        if not self._submitted:
            return self.alone.step(number)
        start = time.perf_counter()
        self._step()
        return time.perf_counter() - start

    def clear(self) -> None:
        """Abort what was submitted."""
        for request_id in self._submitted:
            self._scheduler.abort(request_id)
        self._submitted.clear()

    def _step(self) -> int:
        """Run one step as the engine's loop does; returns how many sequences only decoded."""
        now = time.monotonic()
        self._scheduler.expire(now)
        plan = self._scheduler.schedule(now)
        if plan is None:
            raise RuntimeError("nothing is left to run")
        result = self.alone.engine.forward(plan)
        self._scheduler.commit(plan, result, now)
        self._scheduler.stats()
        return sum(len(run) == 1 and samples for run, samples in zip(plan.tokens, plan.samples, strict=True))


def start(job: Job) -> tuple[Contender, Hello]:
    """Load the model."""
    contender = Scheduled(job)
    return contender, Hello("stoker", __version__, {"fingerprint": contender.alone.fingerprint})


if __name__ == "__main__":
    serve(start)
