"""The soak itself: references, load, faults, and what was seen."""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx2

from stoker.testing.server_process import ServerProcess
from stoker.testing.soak.answers import Told
from stoker.testing.soak.asks import Ask, make_asks, make_burst
from stoker.testing.soak.client import Ending, Manner, Outcome, make_client, perform, told_by
from stoker.testing.soak.faults import Disturber, Fault, FaultPlan
from stoker.testing.soak.view import Sample, ServerView, sample

MANNERS: Mapping[Manner, float] = {
    Manner.READS: 0.72,
    Manner.SLOW: 0.06,
    Manner.LEAVES: 0.14,
    Manner.ABORTS: 0.08,
}
"""How clients behave, with the share of each."""

N_BURST = 30
"""Requests of a burst; with 16 choices each they are more than the default places."""

SETTLED_S = 30.0
"""Time for the server to have nothing in flight any more when the load has ended."""

_LONGEST_LEAVE = 60
_LONGEST_RETRY_S = 5.0


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """What is done.

    Attributes:
        model: Name of the model.
        faults: How engines are disturbed.
        duration_s: For so long, under load.
        calm_s: The load goes on for so long without faults, so that one engine is seen for longer.
        seed: Of requests and clients.
        n_asks: Different requests, each with its reference.
        concurrency: Clients that ask one request after the other.
        burst_every_s: Pause between bursts that are more than the server has places for.
        patience_s: A request that has not ended after so long is wrong.
        sample_every_s: Time between looks at memory.
    """

    model: str
    faults: FaultPlan
    duration_s: float
    calm_s: float = 0.0
    seed: int = 0
    n_asks: int = 66
    concurrency: int = 16
    burst_every_s: float = 60.0
    patience_s: float = 300.0
    sample_every_s: float = 2.0


@dataclass(slots=True)
class Seen:
    """What was seen.

    Attributes:
        before: The gateway before anything was asked.
        after: The gateway when all clients had gone.
        references_s: Seconds that the references took.
        fingerprints: What the references said of the weights and kernels that they come from.
        faults_until_s: When the last fault could come, in seconds since the load began.
        load_s: Seconds from the load's begin to the end of its last request.
        outcomes: Every request of the load.
        faults: Every fault.
        gateway: Samples of the gateway.
        engines: Samples of the engines.
        metrics: The server's metrics when nothing was in flight any more.
        left_over: What was still in flight after `SETTLED_S`, by metric; nothing is right.
    """

    before: Sample
    after: Sample
    references_s: float = 0.0
    fingerprints: set[str | None] = field(default_factory=set)
    faults_until_s: float = 0.0
    load_s: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    gateway: list[Sample] = field(default_factory=list)
    engines: list[Sample] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    left_over: dict[str, float] = field(default_factory=dict)

    @property
    def wrong(self) -> list[Outcome]:
        """Requests that did not end as they had to."""
        return [outcome for outcome in self.outcomes if outcome.ending is Ending.WRONG]

    def of(self, ending: Ending) -> list[Outcome]:
        """Requests that ended in this way."""
        return [outcome for outcome in self.outcomes if outcome.ending is ending]


IN_FLIGHT = (
    "stoker_choices_in_flight",
    "stoker_engine_running",
    "stoker_engine_waiting",
    "stoker_engine_kv_blocks_used",
    "stoker_prompt_bytes",
    "stoker_unread_tokens",
    "stoker_http_body_bytes",
)
"""Metrics that are 0 when nothing is in flight."""


async def soak(server: ServerProcess, plan: SoakPlan) -> Seen:
    """Put a server that is ready and idle through a plan.

    Raises:
        RuntimeError: A reference could not be had, or the server has ended.
    """
    before = sample(server.process.pid, 0.0)
    if before is None:
        raise RuntimeError("the server has ended")
    seen = Seen(before, before)
    asks = make_asks(plan.n_asks, seed=plan.seed, model=plan.model)
    burst = make_burst(plan.seed, plan.model)
    async with make_client(server.url) as client, make_client(server.url, slow=True) as slow:
        began = time.monotonic()
        references = {ask.name: await told_by(client, ask) for ask in (*asks, burst)}
        seen.references_s = time.monotonic() - began
        seen.fingerprints = set[str | None]().union(*(told.fingerprints for told in references.values()))
        view = ServerView(server, client)
        disturber = Disturber(plan.faults, view)
        started = time.monotonic()
        load = _Load(plan, references, (client, slow), seen, started)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(view.watch(started, plan.sample_every_s, seen.gateway, seen.engines))
            bursting = tasks.create_task(load.bursts(burst))
            clients = [
                tasks.create_task(load.client(asks, plan.seed + 1 + number))
                for number in range(plan.concurrency)
            ]
            disturbing = tasks.create_task(disturber.run(started))
            await asyncio.sleep(plan.duration_s)
            disturbing.cancel()
            seen.faults = disturber.done
            seen.faults_until_s = time.monotonic() - started
            await asyncio.sleep(plan.calm_s)
            load.over = True
            bursting.cancel()
            await asyncio.wait(clients)
            seen.load_s = time.monotonic() - started
            watching.cancel()
        await _settle(view, seen)
    seen.after = await _left_alone(server, seen)
    return seen


class _Load:
    """Clients that ask what has a reference.

    Attributes:
        over: Whether nothing new is to be asked.
    """

    def __init__(
        self,
        plan: SoakPlan,
        references: Mapping[str, Told],
        clients: tuple[httpx2.AsyncClient, httpx2.AsyncClient],
        seen: Seen,
        started: float,
    ) -> None:
        self._plan = plan
        self._references = references
        self._client, self._slow = clients
        self._seen = seen
        self._started = started
        self.over = False

    async def client(self, asks: Sequence[Ask], seed: int) -> None:
        """Ask one request after the other until the load is over."""
        chance = random.Random(seed)  # noqa: S311 - no secret
        manners, shares = zip(*MANNERS.items(), strict=True)
        while not self.over:
            (manner,) = chance.choices(manners, shares)
            outcome = await self._ask(chance.choice(asks), manner, chance.randrange(_LONGEST_LEAVE))
            if outcome.ending is Ending.REFUSED and not self.over:
                await asyncio.sleep(min(outcome.retry_after_s, _LONGEST_RETRY_S) * chance.uniform(0.8, 1.2))

    async def bursts(self, ask: Ask) -> None:
        """Ask more than there are places for, again and again."""
        while True:
            await asyncio.sleep(self._plan.burst_every_s)
            await asyncio.gather(*(self._ask(ask, Manner.READS, 0) for _ in range(N_BURST)))

    async def _ask(self, ask: Ask, manner: Manner, leave_after: int) -> Outcome:
        outcome = await perform(
            self._slow if manner is Manner.SLOW else self._client,
            ask,
            self._references[ask.name],
            manner,
            load_began_s=self._started,
            patience_s=self._plan.patience_s,
            leave_after=leave_after,
        )
        self._seen.outcomes.append(outcome)
        return outcome


async def _settle(view: ServerView, seen: Seen) -> None:
    """Wait until nothing is in flight any more."""
    deadline_s = time.monotonic() + SETTLED_S
    while True:
        seen.metrics = await view.metrics()
        seen.left_over = {name: seen.metrics[name] for name in IN_FLIGHT if seen.metrics[name]}
        if not seen.left_over or time.monotonic() > deadline_s:
            return
        await asyncio.sleep(0.1)


async def _left_alone(server: ServerProcess, seen: Seen) -> Sample:
    """Look at the gateway when the clients' connections are closed there, too."""
    deadline_s = time.monotonic() + SETTLED_S
    while True:
        after = sample(server.process.pid, seen.load_s)
        if after is None:
            raise RuntimeError("the server has ended")
        if after.fds <= seen.before.fds or time.monotonic() > deadline_s:
            return after
        await asyncio.sleep(0.1)
