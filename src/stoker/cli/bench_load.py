"""The load of ``stoker bench URL``: its flags, and what is done with them."""

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import uvloop
from cyclopts import Group, Parameter
from cyclopts.validators import Number
from rich.console import Console

from stoker.config import Settings
from stoker.core.errors import SettingsError
from stoker.measure.calibration import Calibration
from stoker.measure.document import document
from stoker.measure.lengths import MAX_TOKENS, Lengths
from stoker.measure.load import LoadLimits
from stoker.measure.rate_search import RateSearch
from stoker.measure.session import SearchPlan, Session
from stoker.measure.slo import Slo
from stoker.measure.summary import Trial
from stoker.measure.target import Api, Target
from stoker.measure.workload import MAX_REQUESTS, Workload

MAX_CLIENTS = 1024
MAX_RATE = 10_000.0
MAX_TIME_S = 86_400.0
MAX_SHARED = 1000

_LOAD = Group("Load", sort_key=1)
_REQUESTS = Group("Requests", sort_key=2)
_SLO = Group("Service level", sort_key=3)
_SEARCH = Group("Search for the highest rate", sort_key=4)
_LIMITS = Group("Limits", sort_key=5)

_SEARCH_FLAGS = ("start_rate", "trial_time", "tolerance", "max_trials", "search_time", "slo_share")

_seconds = Number(gt=0, lte=MAX_TIME_S)
_share = Number(gte=0, lte=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scenario:
    """What a workload is unless flags say otherwise."""

    prompt: str
    output: str
    shared_share: float = 0.0
    shared_tokens: int = 0
    n_shared: int = 1
    clients: int = 16
    requests: int = 64


SCENARIOS = {
    "steady": _Scenario(prompt="480", output="96"),
    "mixed": _Scenario(
        prompt="mixed:64-2048", output="16-256", shared_share=0.5, shared_tokens=256, n_shared=4, requests=128
    ),
    "prefix": _Scenario(prompt="1482", output="24", shared_share=1.0, shared_tokens=1450, clients=8),
}
"""Workloads by name."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFlags:
    """Flags about the load on a server.

    Attributes:
        model: Name that the server knows the model by. Unset, the first one that it lists.
        api: The route to measure.
        scenario: What the requests are, unless other flags say otherwise: `steady`, prompts of 480 tokens and
            answers of 96; `mixed`, prompts of 64 to 2,048 tokens, most of them short, and answers of 16 to
            256, where half of the requests begin with one of 4 system prompts of 256 tokens; `prefix`, 64
            requests that all begin with the same 1,450 tokens, from 8 clients.
        clients: Closed loop: so many clients, each of which sends its next request when its last one has
            ended. Unset, what the scenario says.
        rate: Open loop: so many requests a second, at the random times of a Poisson process.
        find_rate: Look for the highest rate at which enough requests meet the service level.
        requests: Requests to send. Unset, what the scenario says; with `--find-rate` `--trial-time` decides.
        warm_up: Requests to send first that are not measured. Unset, one for each client and at most 4.
        prompt_tokens: Tokens of a prompt, its shared part included: `512`, `64-2048` (each length alike) or
            `mixed:64-2048` (each doubling alike: many short ones, few long ones).
        output_tokens: Tokens of an answer, likewise.
        shared_share: Share of the requests that begin with a shared part, in chat a system message.
        shared_tokens: Tokens of a shared part.
        shared_prompts: How many different shared parts there are.
        seed: Another one draws other requests. The same one draws the same for every server, at the same
            times.
        slo_ttft: Longest time to the first text, in seconds, beside what the prompt is allowed.
        slo_ttft_per_token: What each prompt token allows beside that, in seconds, if no earlier request had
            it.
        slo_itl: Highest p95 of the times between arrivals of one answer's text, in seconds.
        slo_share: Share of the requests that must meet this at a rate that counts as borne.
        start_rate: The first rate to try. It is doubled until too many requests miss the service level.
        trial_time: For how many seconds requests arrive in each trial; 20 requests at least.
        tolerance: The search ends when the rates borne and not borne are so near to each other.
        max_trials: Most trials.
        search_time: No trial begins after so many seconds.
        request_time: Longest that one answer may take, in seconds.
        time_limit: Longest that a run of requests may take, in seconds. What still runs then has failed.
        calibration: Result of an earlier run, whose count of tokens by words is taken: then the prompts are
            the same to the byte. Unset, it is measured by three small requests.
    """

    model: Annotated[str | None, Parameter(group=_LOAD)] = None
    api: Annotated[Api, Parameter(group=_LOAD)] = "chat"
    scenario: Annotated[Literal["steady", "mixed", "prefix"], Parameter(group=_LOAD)] = "steady"
    clients: Annotated[int | None, Parameter(group=_LOAD, validator=Number(gte=1, lte=MAX_CLIENTS))] = None
    rate: Annotated[float | None, Parameter(group=_LOAD, validator=Number(gt=0, lte=MAX_RATE))] = None
    find_rate: Annotated[bool, Parameter(group=_LOAD, negative=())] = False
    requests: Annotated[int | None, Parameter(group=_LOAD, validator=Number(gte=1, lte=MAX_REQUESTS))] = None
    warm_up: Annotated[int | None, Parameter(group=_LOAD, validator=Number(gte=0, lte=MAX_REQUESTS))] = None
    prompt_tokens: Annotated[str | None, Parameter(group=_REQUESTS)] = None
    output_tokens: Annotated[str | None, Parameter(group=_REQUESTS)] = None
    shared_share: Annotated[float | None, Parameter(group=_REQUESTS, validator=_share)] = None
    shared_tokens: Annotated[
        int | None, Parameter(group=_REQUESTS, validator=Number(gte=1, lte=MAX_TOKENS))
    ] = None
    shared_prompts: Annotated[
        int | None, Parameter(group=_REQUESTS, validator=Number(gte=1, lte=MAX_SHARED))
    ] = None
    seed: Annotated[int, Parameter(group=_REQUESTS)] = 0
    slo_ttft: Annotated[float, Parameter(group=_SLO, validator=_seconds)] = 0.5
    slo_ttft_per_token: Annotated[float, Parameter(group=_SLO, validator=Number(gte=0, lte=10))] = 0.001
    slo_itl: Annotated[float, Parameter(group=_SLO, validator=_seconds)] = 0.08
    slo_share: Annotated[float, Parameter(group=_SLO, validator=_share)] = 0.95
    start_rate: Annotated[float, Parameter(group=_SEARCH, validator=Number(gt=0, lte=MAX_RATE))] = 0.5
    trial_time: Annotated[float, Parameter(group=_SEARCH, validator=_seconds)] = 60.0
    tolerance: Annotated[float, Parameter(group=_SEARCH, validator=Number(gt=0, lte=1))] = 0.1
    max_trials: Annotated[int, Parameter(group=_SEARCH, validator=Number(gte=1, lte=100))] = 12
    search_time: Annotated[float, Parameter(group=_SEARCH, validator=_seconds)] = 1800.0
    request_time: Annotated[float, Parameter(group=_LIMITS, validator=_seconds)] = 300.0
    time_limit: Annotated[float, Parameter(group=_LIMITS, validator=_seconds)] = 600.0
    calibration: Annotated[Path | None, Parameter(group=_LIMITS)] = None

    def workload(self) -> Workload:
        """Return what the requests look like."""
        named = SCENARIOS[self.scenario]
        share = named.shared_share if self.shared_share is None else self.shared_share
        tokens = named.shared_tokens if self.shared_tokens is None else self.shared_tokens
        if share > 0 and tokens == 0:
            raise SettingsError("--shared-share: say with --shared-tokens how long a shared part is")
        if share == 0 and (self.shared_tokens is not None or self.shared_prompts is not None):
            raise SettingsError(
                "--shared-tokens, --shared-prompts: say with --shared-share how many begin so"
            )
        return Workload(
            prompt=Lengths.parse(self.prompt_tokens or named.prompt, "--prompt-tokens"),
            output=Lengths.parse(self.output_tokens or named.output, "--output-tokens"),
            shared_share=share,
            shared_tokens=tokens,
            n_shared=self.shared_prompts or named.n_shared,
            seed=self.seed,
        )


def run_load(settings: Settings, url: str, load: LoadFlags) -> dict[str, Any]:
    """Put the load to a server and return the result."""
    _check(load)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(settings, url, load))


def _check(load: LoadFlags) -> None:
    chosen = [load.clients is not None, load.rate is not None, load.find_rate]
    if sum(chosen) > 1:
        raise SettingsError("--clients, --rate and --find-rate exclude each other: choose one kind of load")
    plain = LoadFlags()
    search = [name for name in _SEARCH_FLAGS if getattr(load, name) != getattr(plain, name)]
    if search and not load.find_rate:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in search)
        raise SettingsError(f"{names}: goes with --find-rate")
    if load.find_rate and load.requests is not None:
        raise SettingsError("--requests says nothing to --find-rate: say --trial-time")
    load.workload()


async def _measure(settings: Settings, url: str, load: LoadFlags) -> dict[str, Any]:
    console = Console(stderr=True, markup=False, highlight=False)
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    target = Target(url, api=load.api, model=load.model or "", api_key=key)
    if load.model is None:
        target.model = await target.first_model()
    workload, named = load.workload(), SCENARIOS[load.scenario]
    slo = Slo(ttft_s=load.slo_ttft, ttft_per_token_s=load.slo_ttft_per_token, itl_s=load.slo_itl)
    limits = LoadLimits(request_s=load.request_time, trial_s=load.time_limit)
    session = Session(target, workload, slo, limits, console.print)
    await session.calibrate(None if load.calibration is None else _read_calibration(load.calibration))
    clients = load.clients or named.clients
    await session.warm_up(min(clients, 4) if load.warm_up is None else load.warm_up, min(clients, 4))
    n_requests = load.requests or named.requests
    trials: list[Trial]
    extra: dict[str, Any] = {}
    if load.find_rate:
        plan = SearchPlan(
            start=load.start_rate,
            share=load.slo_share,
            trial_s=load.trial_time,
            tolerance=load.tolerance,
            max_trials=load.max_trials,
            limit_s=load.search_time,
        )
        search = RateSearch(plan.start, tolerance=plan.tolerance, max_trials=plan.max_trials)
        trials = await session.find_rate(plan, search)
        extra = {
            "search": {
                "share": plan.share,
                "highest_rate": search.borne,
                "lowest_refused_rate": search.refused,
                "settled": search.settled,
            }
        }
    elif load.rate is not None:
        trials = [await session.open_loop(n_requests, load.rate)]
    else:
        trials = [await session.closed_loop(n_requests, clients)]
    return document(
        target=target,
        workload=workload,
        slo=slo,
        limits=limits,
        calibration=session.calibration,
        trials=trials,
        extra=extra,
    )


def _read_calibration(path: Path) -> Calibration:
    try:
        return replace(Calibration(), **json.loads(path.read_text(encoding="utf-8"))["calibration"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"--calibration: {path} is no result of stoker bench: {error}") from error
