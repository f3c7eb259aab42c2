"""A session of measurements on one server: learn how it counts, warm it up, then trials."""

import asyncio
import gc
import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from stoker.core.errors import StokerError
from stoker.measure.calibration import Calibration
from stoker.measure.lengths import Lengths
from stoker.measure.load import Load, LoadLimits, Waiting, Watch
from stoker.measure.probe import calibrate
from stoker.measure.rate_search import RateSearch
from stoker.measure.sample import Sample
from stoker.measure.slo import Slo
from stoker.measure.summary import Trial, summarize
from stoker.measure.target import Target
from stoker.measure.workload import Workload, plan_requests

WARM_UP_TRIAL = -1
MIN_TRIAL_REQUESTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """How the highest bearable rate is looked for.

    Attributes:
        start: Rate of the first trial, in requests a second.
        share: Share of the requests that must meet the SLO.
        trial_s: For how long requests arrive in a trial; at least `MIN_TRIAL_REQUESTS` do.
        tolerance: How near to each other the rates that were and were not borne have to come.
        max_trials: Most trials.
        limit_s: No trial begins after so long.
        pause_s: Between trials, so that a server gets rid of what was given up.
    """

    start: float = 0.5
    share: float = 0.95
    trial_s: float = 60.0
    tolerance: float = 0.1
    max_trials: int = 12
    limit_s: float = 1800.0
    pause_s: float = 2.0


class _Impatient(Watch):
    """Ends a trial once so many requests have missed the SLO, or are sure to, that it is lost."""

    def __init__(self, slo: Slo, may_miss: int) -> None:
        self._slo = slo
        self._n_left = may_miss

    def ended(self, sample: Sample) -> bool:
        self._n_left -= not self._slo.met_by(sample)
        return self._n_left >= 0

    def waiting(self, requests: list[Waiting]) -> bool:
        n_late = sum(
            each.waited_s > self._slo.longest_ttft_s(each.planned.prompt_tokens, each.planned.known_tokens)
            for each in requests
        )
        return n_late <= self._n_left


class Session:
    """Measures one server.

    Args:
        target: The server.
        workload: What requests look like.
        slo: What a good answer is.
        limits: What ends a request or a trial.
        tell: Told in words what goes on.

    Attributes:
        calibration: How the server counts.
    """

    def __init__(
        self, target: Target, workload: Workload, slo: Slo, limits: LoadLimits, tell: Callable[[str], None]
    ) -> None:
        self._target = target
        self._workload = workload
        self._slo = slo
        self._limits = limits
        self._tell = tell
        self._n_trials = 0
        self.calibration = Calibration()

    async def calibrate(self, known: Calibration | None = None) -> None:
        """Learn what the server takes and, unless that is known, how it counts.

        Raises:
            StokerError: It does not answer.
        """
        self.calibration = await calibrate(self._target, self._limits.request_s, known)

    async def warm_up(self, n_requests: int, clients: int) -> None:
        """Send requests that are not measured: short answers to prompts that nothing else begins with.

        Raises:
            StokerError: None of them was answered.
        """
        if n_requests == 0:
            return
        short = replace(self._workload, shared_share=0.0, output=Lengths(8, 8))
        requests = plan_requests(short, self.calibration, n_requests, trial=WARM_UP_TRIAL, rate=None)
        load = Load(self._target, requests, self._limits, Watch())
        await load.closed_loop(clients)
        if all(sample.error for sample in load.samples):
            detail = f": {load.samples[0].error}: {load.samples[0].detail}" if load.samples else ""
            raise StokerError(f"no request of the warm-up was answered{detail}")

    async def closed_loop(self, n_requests: int, clients: int) -> Trial:
        """Have each of so many clients send a request after the other."""
        return await self._trial(n_requests, clients=clients, rate=None, watch=Watch())

    async def open_loop(self, n_requests: int, rate: float) -> Trial:
        """Send requests at random times, so many a second."""
        return await self._trial(n_requests, clients=None, rate=rate, watch=Watch())

    async def find_rate(self, plan: SearchPlan, search: RateSearch) -> list[Trial]:
        """Look for the highest rate at which enough requests meet the SLO; `search` holds the answer."""
        began_s = time.monotonic()
        trials: list[Trial] = []
        while (rate := search.next_rate()) is not None:
            if time.monotonic() - began_s > plan.limit_s:
                self._tell(f"the search ends after its {plan.limit_s:.0f} s")
                break
            if trials:
                await asyncio.sleep(plan.pause_s)
            n_requests = max(MIN_TRIAL_REQUESTS, math.ceil(rate * plan.trial_s))
            trial = await self._search_trial(n_requests, rate, plan.share)
            share_met = summarize(trial, self._slo).share_met
            search.record(rate, borne=share_met >= plan.share)
            trials.append(trial)
            cut = ", ended early" if trial.n_given_up else ""
            self._tell(f"{rate:.3g} requests/s: {share_met:.1%} of {n_requests} met the SLO{cut}")
        return trials

    async def _search_trial(self, n_requests: int, rate: float, share: float) -> Trial:
        """Run a trial that ends once too many have missed the SLO for the rest to make up for it."""
        watch = _Impatient(self._slo, n_requests - math.ceil(share * n_requests))
        return await self._trial(n_requests, clients=None, rate=rate, watch=watch)

    async def _trial(
        self, n_requests: int, *, clients: int | None, rate: float | None, watch: Watch
    ) -> Trial:
        number, self._n_trials = self._n_trials, self._n_trials + 1
        requests = plan_requests(self._workload, self.calibration, n_requests, trial=number, rate=rate)
        load = Load(self._target, requests, self._limits, watch)
        gc.collect()
        gc.disable()  # a collection would stand between a token and its time
        before_s = _cpu_s()
        try:
            await (load.open_loop() if clients is None else load.closed_loop(clients))
        finally:
            gc.enable()
        return Trial(
            number=number,
            rate=rate,
            clients=clients,
            n_planned=n_requests,
            n_given_up=load.n_given_up,
            duration_s=max((s.sent_s + s.duration_s for s in load.samples), default=0.0),
            client_cpu_s=_cpu_s() - before_s,
            samples=tuple(sorted(load.samples, key=lambda sample: sample.index)),
        )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
