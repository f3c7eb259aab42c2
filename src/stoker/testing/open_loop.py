"""An open loop of requests against a scheduler, on a clock of its own: arrivals do not wait for answers."""

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from stoker.core.step import StepPlan, StepResult
from stoker.core.tokens import TokenRequest
from stoker.scheduler import Scheduler

Compute = Callable[[StepPlan], tuple[StepResult, float]]
"""Computes a plan; returns the result and the seconds that it took."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request and when it comes, in seconds."""

    at_s: float
    request: TokenRequest


@dataclass(slots=True)
class Trace:
    """When a request came and its tokens were there, in seconds.

    Attributes:
        at_s: When it came.
        n_prompt: Tokens of its prompt.
        n_cached: Those of them that came from the prefix cache.
        token_times_s: When each of its tokens was there.
        ended: Whether it got its last one.
    """

    at_s: float
    n_prompt: int
    n_cached: int = 0
    token_times_s: list[float] = field(default_factory=list)
    ended: bool = False

    @property
    def ttft_s(self) -> float:
        """Time to its first token; infinite if there was none."""
        return self.token_times_s[0] - self.at_s if self.token_times_s else float("inf")

    @property
    def gaps_s(self) -> list[float]:
        """Times from token to token."""
        times = self.token_times_s
        return [later - earlier for earlier, later in pairwise(times)]


def poisson(
    rate: float, requests: Iterable[TokenRequest], *, seed: int = 0, start_s: float = 0.0
) -> list[Arrival]:
    """Let requests come at random times, `rate` a second on average."""
    chance = random.Random(seed)  # noqa: S311 - a workload is no secret
    arrivals = []
    now_s = start_s
    for request in requests:
        now_s += chance.expovariate(rate)
        arrivals.append(Arrival(now_s, request))
    return arrivals


def run_open_loop(
    scheduler: Scheduler, compute: Compute, arrivals: Sequence[Arrival], *, between_s: float = 0.0
) -> dict[str, Trace]:
    """Run until every request has ended and return what became of each, by id.

    Args:
        scheduler: Idle.
        compute: Computes steps; the clock goes on by what it says.
        arrivals: In order of time; what arrives during a step is taken in after it.
        between_s: What the clock goes on by between two steps.
    """
    coming = deque(arrivals)
    traces: dict[str, Trace] = {}
    now_s = arrivals[0].at_s if arrivals else 0.0
    while True:
        while coming and coming[0].at_s <= now_s:
            arrival = coming.popleft()
            request = arrival.request
            scheduler.submit(request, now_s)
            traces[request.request_id] = Trace(arrival.at_s, len(request.prompt))
        plan = scheduler.schedule(now_s)
        if plan is None:
            next_s = coming[0].at_s if coming else None
            wakes = [time_s for time_s in (scheduler.wake_at, next_s) if time_s is not None]
            if not wakes:
                return traces
            now_s = max(now_s, min(wakes))
            continue
        result, seconds = compute(plan)
        now_s += seconds
        for event in scheduler.commit(plan, result, now_s):
            trace = traces[event.request_id]
            trace.n_cached = event.cached_tokens
            trace.token_times_s += [now_s] * len(event.token_ids)
            trace.ended = event.finish_reason is not None
        now_s += between_s
