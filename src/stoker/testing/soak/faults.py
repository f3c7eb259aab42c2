"""Signals at random times to the engines of a server."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from stoker.testing.soak.view import ServerView

SIGNALS: Mapping[str, signal.Signals] = MappingProxyType(
    {"kill": signal.SIGKILL, "hang": signal.SIGSTOP, "segv": signal.SIGSEGV}
)
"""Kinds of faults: an engine is killed, stands still, or crashes."""

AGAIN_SHARE = 0.15
"""This share of the faults is followed by another within `AGAIN_S`, which hits an engine that is starting, or
has just begun to resume."""

AGAIN_S = 3.0

MOST_FAULTS, MOST_FAULTS_S = 4, 75.0
"""At most so many faults in so many seconds: five deaths in a minute (one by a hang is seen late) are a crash
loop, after which a server takes half a minute before each start."""

_CHECK_S = 0.1


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """How engines are disturbed.

    Attributes:
        weights: Kinds of faults, each with how often it comes beside the others.
        mean_s: Mean time from an engine's readiness to the next fault.
        least_s: Least such time.
        seed: Of times and kinds.
    """

    weights: Mapping[str, float]
    mean_s: float
    least_s: float
    seed: int


@dataclass(slots=True)
class Fault:
    """One that happened.

    Attributes:
        at_s: When, in seconds since the load began.
        kind: Its kind.
        running: Sequences that the engine computed, as it last reported.
        recovered_s: Seconds until the next engine was ready; None if another fault or the end came first.
    """

    at_s: float
    kind: str
    running: int
    recovered_s: float | None = None


class Disturber:
    """Sends the signals.

    Args:
        plan: How often, and which.
        view: The server.

    Attributes:
        done: What has happened.
    """

    def __init__(self, plan: FaultPlan, view: ServerView) -> None:
        self._plan = plan
        self._view = view
        self._struck: set[int] = set()
        self.done: list[Fault] = []

    async def run(self, started: float) -> None:
        """Disturb engines for ever.

        Args:
            started: When the load began, on the monotonic clock.
        """
        plan = self._plan
        chance = random.Random(plan.seed)  # noqa: S311 - no secret
        kinds, weights = zip(*plan.weights.items(), strict=True)
        while True:
            pause_s = plan.least_s + (plan.mean_s - plan.least_s) * chance.expovariate(1.0)
            await asyncio.sleep(pause_s)
            await self._strike(chance.choices(kinds, weights)[0], started)
            if chance.random() < AGAIN_SHARE:
                await asyncio.sleep(chance.uniform(0.1, AGAIN_S))
                await self._strike("kill", started)
            await self._recovery(started)

    async def _strike(self, kind: str, started: float) -> None:
        if len(self.done) >= MOST_FAULTS:
            spent_s = time.monotonic() - started - self.done[-MOST_FAULTS].at_s
            await asyncio.sleep(max(0.0, MOST_FAULTS_S - spent_s))
        running = await self._view.running()
        while (pid := self._view.engine()) is None:  # noqa: ASYNC110 - a process of others is coming
            await asyncio.sleep(_CHECK_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, SIGNALS[kind])
            self._struck.add(pid)
            self.done.append(Fault(time.monotonic() - started, kind, running))

    async def _recovery(self, started: float) -> None:
        while self._view.engine() in {None, *self._struck} or not await self._view.ready():  # noqa: ASYNC110
            await asyncio.sleep(_CHECK_S)
        if self.done:
            self.done[-1].recovered_s = time.monotonic() - started - self.done[-1].at_s
