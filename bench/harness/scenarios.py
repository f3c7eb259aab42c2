"""What servers are asked, and what is kept of their answers."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stoker.measure.lengths import Lengths
from stoker.measure.load import LoadLimits
from stoker.measure.rate_search import RateSearch
from stoker.measure.session import SearchPlan, Session
from stoker.measure.slo import Slo
from stoker.measure.statistics import percentile
from stoker.measure.summary import Trial, summarize
from stoker.measure.target import Target
from stoker.measure.workload import Workload

SLO = Slo(ttft_s=0.5, ttft_per_token_s=0.001, itl_s=0.08)
SHARE = 0.95
LIMITS = LoadLimits(request_s=300.0, trial_s=900.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A closed loop: so many clients, each with one request after the other."""

    name: str
    workload: Workload
    clients: int
    requests: int


STREAM_PROMPT, STREAM_OUTPUT = 480, 96
_STREAM = Workload(prompt=Lengths(STREAM_PROMPT, STREAM_PROMPT), output=Lengths(STREAM_OUTPUT, STREAM_OUTPUT))
CLOSED = (
    Closed(name="16 clients", workload=_STREAM, clients=16, requests=64),
    Closed(name="32 clients", workload=_STREAM, clients=32, requests=96),
    Closed(
        name="one prefix",
        workload=Workload(
            prompt=Lengths(1482, 1482), output=Lengths(24, 24), shared_share=1.0, shared_tokens=1450
        ),
        clients=8,
        requests=64,
    ),
)
MIXED = Workload(
    prompt=Lengths(64, 2048, mixed=True),
    output=Lengths(16, 256),
    shared_share=0.5,
    shared_tokens=256,
    n_shared=4,
)
"""The open loop: most prompts are short, half of them begin with one of four system prompts."""


class Asker:
    """Asks one server; every scenario draws the same requests for each server, and new ones each time.

    Args:
        url: Address of the server.
    """

    def __init__(self, url: str) -> None:
        self._target = asyncio.run(_target(url))
        self._sessions: dict[str, Session] = {}

    def closed(self, scenario: Closed) -> dict[str, Any]:
        """Run a closed loop; returns its record."""
        session = self._session(scenario.name, scenario.workload)
        return record(asyncio.run(session.closed_loop(scenario.requests, scenario.clients)))

    def open(self, rate: float, duration_s: float) -> dict[str, Any]:
        """Run the open loop at a rate; returns its record."""
        session = self._session("mixed at a rate", MIXED)
        return record(asyncio.run(session.open_loop(max(20, round(rate * duration_s)), rate)))

    def find_rate(
        self, start: float, *, trial_s: float, search_s: float
    ) -> tuple[float | None, list[dict[str, Any]]]:
        """Look for the highest rate at which enough requests meet the SLO; returns it and all records.

        No trial begins after `search_s`: those of a server that bears no rate at all become ever longer.
        """
        plan = SearchPlan(start=start, share=SHARE, trial_s=trial_s, limit_s=search_s)
        search = RateSearch(start, tolerance=plan.tolerance, max_trials=plan.max_trials)
        session = self._session("mixed", MIXED)
        trials = asyncio.run(session.find_rate(plan, search))
        return search.borne, [record(trial) for trial in trials]

    def _session(self, name: str, workload: Workload) -> Session:
        if name not in self._sessions:
            session = Session(self._target, workload, SLO, LIMITS, lambda told: print(f"    {told}"))
            asyncio.run(session.calibrate())
            asyncio.run(session.warm_up(4, 4))
            self._sessions[name] = session
        return self._sessions[name]


async def _target(url: str) -> Target:
    probe = Target(url, api="completions", model="", api_key=None)
    return Target(url, api="completions", model=await probe.first_model(), api_key=None)


def record(trial: Trial) -> dict[str, Any]:
    """Return what is kept of a trial: its summary, and a row for each request."""
    summary = summarize(trial, SLO)
    return {
        "rate": trial.rate,
        "clients": trial.clients,
        "summary": summary.as_dict(),
        "columns": list(_COLUMNS),
        "requests": [_row(sample) for sample in trial.samples],
    }


_COLUMNS = (
    "sent_s", "ttft_s", "duration_s", "prompt_tokens", "known_tokens", "cached_tokens", "output_tokens",
    "gap_p50_s", "gap_p95_s", "gap_max_s", "error",
)  # fmt: skip


def _row(sample: Any) -> list[Any]:
    gaps = sorted(sample.gaps_s)
    spread: Sequence[float | None] = (
        [percentile(gaps, 0.5), percentile(gaps, 0.95), gaps[-1]] if gaps else [None, None, None]
    )
    times = [sample.sent_s, sample.ttft_s, sample.duration_s]
    counts = [sample.prompt_tokens, sample.known_tokens, sample.cached_tokens, sample.output_tokens]
    return [*map(_rounded, times), *counts, *map(_rounded, spread), sample.error]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 5)
