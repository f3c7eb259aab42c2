"""One model of a server, from being asked for to being gone."""

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Protocol

from stoker.api.admin.control import ModelState, ModelStatus
from stoker.api.served import ServedModel
from stoker.config import Settings
from stoker.core.protocols import Pins, TextCodec
from stoker.core.tokens import AdapterRef
from stoker.observe.engine_metrics import EngineReport
from stoker.policy.admission import Admission, AdmissionLimits
from stoker.policy.sleep_book import Rest
from stoker.policy.waking import (
    CheckedEmbedder,
    CheckedGenerator,
    CheckedScorer,
    Door,
    WakingEmbedder,
    WakingGenerator,
    WakingPins,
    WakingScorer,
)

COMING = frozenset({ModelStatus.QUEUED, ModelStatus.PULLING, ModelStatus.LOADING})
"""A model of one of these takes no requests yet."""

RESTING = frozenset({ModelStatus.FALLING_ASLEEP, ModelStatus.SLEEPING, ModelStatus.WAKING})
"""A model of one of these has requests wait until it is awake."""

SERVED = RESTING | {ModelStatus.READY}
"""A model of one of these takes requests."""

_OF_REST = {
    Rest.AWAKE: ModelStatus.READY,
    Rest.FALLING: ModelStatus.FALLING_ASLEEP,
    Rest.ASLEEP: ModelStatus.SLEEPING,
    Rest.WAKING: ModelStatus.WAKING,
}


class TextSide(CheckedGenerator, Protocol):
    """Answers requests, makes embeddings, and turns text to token ids and back."""

    @property
    def embedder(self) -> CheckedEmbedder:
        """Makes embeddings of prompts."""

    @property
    def scorer(self) -> CheckedScorer:
        """Tells how likely choices are after prompts."""

    @property
    def codec(self) -> TextCodec:
        """The tokens of texts."""


class ModelHost(Protocol):
    """A model with an engine that can be started; `LocalModel` is one."""

    @property
    def engine_kind(self) -> str:
        """What computes it."""

    @property
    def context_length(self) -> int:
        """Most tokens of one sequence."""

    @property
    def max_running(self) -> int:
        """Most sequences that its engine computes at once."""

    @property
    def max_waiting(self) -> int:
        """Most sequences that its engine queues behind them."""

    @property
    def pins(self) -> Pins:
        """Its pinned prefixes."""

    @property
    def created(self) -> int:
        """When the model was made or fetched, in seconds since 1970."""

    @property
    def pid(self) -> int | None:
        """Process id of its engine, or None while none is ready."""

    @property
    def max_prompt_bytes(self) -> int:
        """Most bytes that the prompts of its requests may take."""

    @property
    def unread(self) -> int:
        """Tokens that its clients have not read yet."""

    @property
    def need_bytes(self) -> int:
        """Memory that its engine is taken to need; 0 if nobody asks."""

    async def start(self) -> TextSide:
        """Start the engine and return what answers requests; on failure nothing is left running."""

    async def stop(self, *, at_once: bool = False) -> None:
        """End the engine."""

    async def sleep(self) -> None:
        """End the engine; the rest stays."""

    async def wake(self) -> None:
        """Start an engine again; on failure nothing is left running."""

    def readiness(self) -> str | None:
        """Return None if a request would get its first token now, otherwise why not."""

    def fingerprint(self) -> str | None:
        """Return what names weights and kernels, or None before an engine was ready."""

    def report(self) -> EngineReport:
        """Return what the metrics tell of its engine."""

    def read_adapter(self, path: str) -> AdapterRef:
        """Read and check an adapter, and return it as engines find it; blocks.

        Raises:
            InvalidRequestError: It cannot be read, or does not fit the model.
        """

    def apply(self, settings: Settings) -> None:
        """Take over what of the settings can change while the engine runs."""


@dataclass(slots=True, kw_only=True)
class HostedModel:
    """What is known of one model; owned by `Fleet`, on the event loop.

    Attributes:
        name: The model id that clients send.
        model: The name or path that it was asked for by.
        overrides: Settings that it was asked for with.
        expected: Whether the server is ready only if this model is.
        status: What it is doing; UNREADY is never stored, but READY of an engine that is not.
        since_s: When that began, in seconds since 1970.
        reason: Why it failed.
        pulled: Bytes fetched and, if known, bytes to fetch.
        given_up: Set when whoever pulls it shall stop.
        host: It and its engine, once prepared.
        admission: Its permits, once it is served.
        served: What requests see, once it is served.
    """

    name: str
    model: str
    overrides: Mapping[str, object]
    expected: bool = False
    status: ModelStatus = ModelStatus.QUEUED
    since_s: float = field(default_factory=time.time)
    reason: str | None = None
    pulled: tuple[int, int | None] | None = None
    given_up: Event = field(default_factory=Event)
    host: ModelHost | None = None
    admission: Admission | None = None
    served: ServedModel | None = None

    def becomes(self, status: ModelStatus, reason: str | None = None) -> None:
        """Change the status."""
        self.status, self.reason, self.since_s = status, reason, time.time()

    def pulls(self, done_bytes: int, total_bytes: int | None) -> None:
        """Note how much of its file has been fetched."""
        if self.status is ModelStatus.QUEUED:
            self.becomes(ModelStatus.PULLING)
        self.pulled = (done_bytes, total_bytes)

    def rests(self, rest: Rest) -> None:
        """Note that its engine ended, or is there again; says nothing of one that is not served."""
        status = _OF_REST[rest]
        if self.status in SERVED and status is not self.status:
            self.becomes(status)

    @property
    def in_flight(self) -> int:
        """Choices that hold a place."""
        return 0 if self.admission is None else self.admission.in_flight

    def unreadiness(self) -> str | None:
        """Return why requests for it would not be answered now, or None; one that sleeps is woken by them."""
        if self.status in RESTING:
            return None
        if self.status is ModelStatus.READY and self.host is not None:
            return self.host.readiness()
        return f"the model {self.name} is {self.status.value}"

    @property
    def prompt_bytes(self) -> int:
        """Bytes that the prompts of its requests are taken to need."""
        return 0 if self.admission is None else self.admission.prompt_bytes

    def open(self, generator: TextSide, host: ModelHost, door: Door) -> None:
        """Take requests from now on, which enter by this door."""
        self.admission = Admission(
            WakingGenerator(generator, door),
            AdmissionLimits(
                max_choices=host.max_running + host.max_waiting,
                max_prompt_bytes=host.max_prompt_bytes,
                context_length=host.context_length,
            ),
        )
        self.served = ServedModel(
            name=self.name,
            generator=self.admission,
            reserve=self.admission.reserve,
            embedder=WakingEmbedder(generator.embedder, door),
            scorer=WakingScorer(generator.scorer, door),
            hold=self.admission.hold,
            codec=generator.codec,
            pins=WakingPins(host.pins, door),
            created=host.created,
            fingerprint=host.fingerprint,
            context_length=host.context_length,
            read_adapter=host.read_adapter,
        )
        self.becomes(ModelStatus.READY)

    def apply(self, settings: Settings) -> None:
        """Take over what of its settings can change now; its engine's queue stays as long as it is."""
        if self.host is not None:
            self.host.apply(settings)
            if self.admission is not None:
                n_waiting = min(settings.max_waiting, self.host.max_waiting)
                self.admission.resize(
                    AdmissionLimits(
                        max_choices=self.host.max_running + n_waiting,
                        max_prompt_bytes=settings.max_prompt_bytes,
                        context_length=self.host.context_length,
                    )
                )

    def state(self) -> ModelState:
        """Return what the administration shows of it."""
        status, reason = self.status, self.reason
        if status is ModelStatus.READY and (reason := self.unreadiness()) is not None:
            status = ModelStatus.UNREADY
        pulled_bytes, total_bytes = self.pulled or (None, None)
        state = ModelState(
            name=self.name,
            model=self.model,
            status=status,
            since=round(self.since_s, 3),
            reason=reason,
            pulled_bytes=pulled_bytes,
            total_bytes=total_bytes,
        )
        return state if self.host is None else _with_engine(state, self.host, self.in_flight)


def _with_engine(state: ModelState, host: ModelHost, in_flight: int) -> ModelState:
    report, pid = host.report(), host.pid
    return ModelState(
        name=state.name,
        model=state.model,
        status=state.status,
        since=state.since,
        reason=state.reason,
        engine=host.engine_kind,
        context_length=host.context_length,
        pid=pid,
        restarts=report.restarts,
        in_flight=in_flight,
        running=report.stats.running,
        waiting=report.stats.waiting,
        kv_blocks=report.stats.kv_blocks_total,
        kv_blocks_used=report.stats.kv_blocks_used,
        memory_bytes=None if pid is None else _resident_bytes(pid),
    )


def _resident_bytes(pid: int) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return None
