"""A model host without an engine, for tests of what owns models."""

import asyncio
from dataclasses import dataclass, field

from stoker.config import Settings
from stoker.core.errors import StokerError
from stoker.core.stats import EngineStats
from stoker.core.tokens import AdapterRef
from stoker.observe.engine_metrics import EngineReport
from stoker.testing.fixed_pins import FixedPins
from stoker.testing.generator import ScriptedGenerator, reply


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True)
class ScriptedHost:
    """Starts when told to, and answers with a scripted generator.

    Attributes:
        generator: What it answers with.
        may_start: Starting waits for it.
        failure: Raised instead of starting, if set.
        not_ready: Why it is not ready once started, or None.
        started: Whether it was started.
        stopped: Whether it was stopped.
        applied: Settings that it was given later.
        need_bytes: Memory that it says it needs.
        may_wake: Waking waits for it; set at first.
        wake_failure: Raised instead of waking, if set.
        n_sleeps: How often it was put to sleep.
        n_wakes: How often it was woken.
    """

    generator: ScriptedGenerator = field(default_factory=lambda: ScriptedGenerator(reply("Hi")))
    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    failure: StokerError | None = None
    not_ready: str | None = None
    started: bool = False
    stopped: bool = False
    applied: list[Settings] = field(default_factory=list)
    need_bytes: int = 0
    may_wake: asyncio.Event = field(default_factory=_set_event)
    wake_failure: Exception | None = None
    n_sleeps: int = 0
    n_wakes: int = 0
    engine_kind: str = "native"
    context_length: int = 512
    max_running: int = 2
    max_waiting: int = 3
    max_prompt_bytes: int = 10_000_000
    unread: int = 0
    created: int = 1_700_000_000
    pid: int | None = None
    pins: FixedPins = field(default_factory=FixedPins)

    async def start(self) -> ScriptedGenerator:
        """Wait for `may_start`."""
        await self.may_start.wait()
        if self.failure is not None:
            raise self.failure
        self.started = True
        return self.generator

    async def stop(self, *, at_once: bool = False) -> None:  # noqa: ARG002 - the protocol's signature
        """Stop."""
        self.stopped = True

    async def sleep(self) -> None:
        """Count."""
        self.n_sleeps += 1

    async def wake(self) -> None:
        """Wait for `may_wake`."""
        await self.may_wake.wait()
        if self.wake_failure is not None:
            raise self.wake_failure
        self.n_wakes += 1

    def read_adapter(self, path: str) -> AdapterRef:
        """Take any path; its contents are its name."""
        return AdapterRef(path, path)

    def readiness(self) -> str | None:
        """Return `not_ready`."""
        return self.not_ready

    def fingerprint(self) -> str | None:
        """Return a fixed one."""
        return "fp_1"

    def report(self) -> EngineReport:
        """Report an idle engine."""
        return EngineReport(ready=self.started, restarts=0, resumed=0, quarantined=0, stats=EngineStats())

    def apply(self, settings: Settings) -> None:
        """Remember the settings."""
        self.applied.append(settings)
