"""Streams that outlive their engines."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from stoker.core.abilities import Ability
from stoker.core.errors import (
    CapacityError,
    DeadlineError,
    EngineDiedError,
    NotReadyError,
    QueueTimeoutError,
    RequestError,
    RequestQuarantinedError,
    StokerError,
)
from stoker.core.protocols import EngineInfo, TokenEngine
from stoker.core.step import MAX_CALL_TOKENS
from stoker.core.tokens import Admitted, TokenEvent, TokenRequest, TokensEvent
from stoker.worker.quarantine import Case, Quarantine

RETRY_S = 0.1
"""Pause before a stream asks again an engine that had no place for it."""

_log = logging.getLogger(__name__)


class ReplacedEngine(TokenEngine, Protocol):
    """A token engine whose process is replaced when it dies; `EngineSupervisor` is one."""

    @property
    def restarts(self) -> int:
        """How often it was replaced; numbers the engine that is ready."""

    async def wait_ready(self) -> None:
        """Wait without limit until a request would be taken.

        Raises:
            NotReadyError: There will be no engine any more.
        """


class ResumingEngine:
    """A `TokenEngine` whose streams go on where they stopped when their engine dies.

    An engine is deterministic and its random numbers are keyed by absolute position, so a next engine
    that is given prompt and output continues with the very tokens that would have come. A reader sees
    a pause. Requests that engines die of are found and refused by the rules of `Quarantine`.

    A new request is refused as ever while no engine is ready; one that is known to make engines die is
    told so even then.

    Args:
        engine: What is resumed on.
        timeout_s: For so long a stream waits for its next engine to be ready.

    Attributes:
        timeout_s: As given; may be changed at any time.
        n_resumed: How often a stream or a request that waited was taken by a next engine.
    """

    def __init__(self, engine: ReplacedEngine, *, timeout_s: float) -> None:
        self._engine = engine
        self.timeout_s = timeout_s
        self._quarantine = Quarantine()
        self._changed = asyncio.Event()  # set, and replaced, whenever somebody else may run
        self.n_resumed = 0

    @property
    def info(self) -> EngineInfo:
        """What the engine said of itself.

        Raises:
            NotReadyError: No engine is ready.
        """
        return self._engine.info

    @property
    def n_quarantined(self) -> int:
        """Requests that were condemned for the deaths of engines."""
        return self._quarantine.n_condemned

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenEvent]:
        """Yield `Admitted`, then `TokensEvent`s, the last with a finish reason, whatever engines do.

        Raises:
            QueueFullError: Every running and waiting place is taken.
            NotReadyError: No engine is ready.
            QueueTimeoutError: Its turn did not come within its `queue_timeout_s`.
            DeadlineError: It was not finished within its `timeout_s`.
            RequestQuarantinedError: Engines die of this request.
            EngineDiedError: The engine died, and no equal one was ready in time.
        """
        now = _now()
        case = self._quarantine.open(request, now)
        try:
            run = _Run(request, case, self._engine.info.fingerprint, now)
            while not run.finished:
                try:
                    events = await self._submit(run)
                except StokerError:
                    for event in run.take_early() if run.early else ():
                        yield event
                    raise
                try:
                    async with aclosing(events):
                        for event in run.take_early():
                            yield event
                        async for event in events:
                            yield self._note(run, event)
                except EngineDiedError as death:
                    self._bury(run, death)
        finally:
            if self._quarantine.close(case):
                self._wake()

    async def _submit(self, run: "_Run") -> AsyncGenerator[TokenEvent]:
        """Return the rest of the stream as soon as an engine has admitted it.

        A suspect's first tokens are awaited too, and kept to be told: others may stand behind it in line,
        and its reader may be one that reads on only when those, too, are admitted.
        """
        n_refused = 0
        while True:
            await self._turn_in_time(run)
            try:
                events = self._engine.stream(run.rest(_now()))
                self._quarantine.submitted(run.case, self._engine.restarts)
                await anext(events)
                await self._take_early(run, events)
            except EngineDiedError as death:
                self._bury(run, death)
            except (QueueTimeoutError, DeadlineError):
                raise
            except CapacityError as error:
                self._quarantine.withdrawn(run.case)
                n_refused += 1
                if run.death is None:
                    raise
                if n_refused * RETRY_S > self.timeout_s:
                    raise EngineDiedError(
                        f"{run.death}; the next one had no place for it: {error}"
                    ) from error
                await asyncio.sleep(RETRY_S)
            except RequestError as error:
                if run.death is None:
                    raise
                raise EngineDiedError(f"{run.death}; the next one refuses it: {error}") from error
            else:
                self.n_resumed += run.death is not None
                return events

    async def _turn_in_time(self, run: "_Run") -> None:
        """Wait as `_turn` does, within the request's own time limits.

        Raises:
            QueueTimeoutError: Nothing has come of it, and it may wait no longer.
            DeadlineError: It should have ended by now.
        """
        try:
            async with asyncio.timeout_at(run.wait_until):
                await self._turn(run)
        except TimeoutError as error:
            raise run.expiry() from error

    async def _take_early(self, run: "_Run", events: AsyncGenerator[TokenEvent]) -> None:
        """Take events until the request is no suspect any more; they are kept even if the engine dies."""
        while run.case.suspect and not run.finished:
            run.early.append(self._note(run, await anext(events)))

    async def _turn(self, run: "_Run") -> None:
        """Wait until the request may be submitted and, if its engine died, until there is a next one.

        Waiting for others that come first needs no bound of its own: each of them runs until the engine
        has made a token or has died. And whenever one dies, all wait for the next at the same time.
        """
        while True:
            if run.death is not None:
                await self._next_engine(run)
            if self._quarantine.may_run(run.case):
                return
            await self._changed.wait()

    async def _next_engine(self, run: "_Run") -> None:
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._engine.wait_ready()
            info = self._engine.info
        except TimeoutError as error:
            raise EngineDiedError(
                f"{run.death}; no other one was ready within {self.timeout_s:g} s"
            ) from error
        except NotReadyError as error:
            raise EngineDiedError(f"{run.death}; {error}") from error
        begun = bool(run.token_ids or run.n_scores)
        if begun and Ability.RESUMPTION in info.lacks:
            raise EngineDiedError(
                f"{run.death}; {info.engine} does not {Ability.RESUMPTION}, so the request must be sent again"
            )
        if begun and info.fingerprint != run.fingerprint:
            raise EngineDiedError(
                f"{run.death}; the next one would not continue with the same tokens: it is"
                f" {info.fingerprint}, not {run.fingerprint}"
            )
        run.fingerprint = info.fingerprint

    def _note(self, run: "_Run", event: TokenEvent) -> TokenEvent:
        if not isinstance(event, TokensEvent):
            return event
        event = run.add(event)
        # Scores that were known before do not show that it got further than its last engine. Nor do tokens
        # that the last engine may have made, too, in the call that it died in; but an end does.
        further = event.prompt_scores or run.n_new >= MAX_CALL_TOKENS or run.finished
        if further and self._quarantine.progressed(run.case):
            self._wake()
        return event

    def _bury(self, run: "_Run", death: EngineDiedError) -> None:
        """Draw the consequences of an engine's death, once for all that it had.

        Raises:
            RequestQuarantinedError: It died of this request.
        """
        run.death = death
        if run.case.engine is not None:
            self._quarantine.died(run.case.engine, _now())
            self._wake()
        if run.case.guilty:
            _log.error("the request %s makes engines die and is refused from now on", run.request_id)
            raise RequestQuarantinedError(
                f"engines die of this request, so it is not tried again: {death}; change it and report this"
            ) from death

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class _Run:
    """What has come of a request so far."""

    __slots__ = (
        "_request",
        "_submitted_at",
        "admitted",
        "cached_tokens",
        "case",
        "death",
        "early",
        "fingerprint",
        "finished",
        "n_known_scores",
        "n_new",
        "n_scores",
        "token_ids",
    )

    def __init__(self, request: TokenRequest, case: Case, fingerprint: str, now: float) -> None:
        self._request = request
        self._submitted_at = now
        self.case = case
        self.fingerprint = fingerprint
        self.admitted = self.finished = False
        self.death: EngineDiedError | None = None
        self.early: list[TokenEvent] = []  # that came, and are to be told
        self.token_ids: list[int] = []
        self.n_scores = 0
        self.n_known_scores = 0  # that the engine which has the request now will tell again
        self.n_new = 0  # tokens of the engine that has the request now
        self.cached_tokens = 0

    @property
    def request_id(self) -> str:
        return self._request.request_id

    def take_early(self) -> list[TokenEvent]:
        """Return what is to be told, once: that it is admitted, and what came of it since."""
        early, self.early = self.early, []
        if not self.admitted:
            self.admitted = True
            early.insert(0, Admitted(self.request_id))
        return early

    @property
    def wait_until(self) -> float | None:
        """Until when it may wait for an engine; None without limit."""
        limits = (self._queue_timeout_s, self._request.timeout_s)
        shortest_s = min((limit for limit in limits if limit is not None), default=None)
        return None if shortest_s is None else self._submitted_at + shortest_s

    @property
    def _queue_timeout_s(self) -> float | None:
        return None if self.token_ids else self._request.queue_timeout_s

    def expiry(self) -> QueueTimeoutError | DeadlineError:
        """Return what to raise when `wait_until` is over."""
        timeout_s = self._request.timeout_s
        why = (
            "the request waited for an engine" if self.death is None else f"{self.death}; the request waited"
        )
        if self._queue_timeout_s is not None and (timeout_s is None or self._queue_timeout_s < timeout_s):
            return QueueTimeoutError(
                f"{why} as long as its queue time limit allows; try again", retry_after_s=1.0
            )
        return DeadlineError(f"{why} until its time limit was over")

    def rest(self, now: float) -> TokenRequest:
        """Return the request for what is still to come, with what is left of its time limits."""
        spent_s = now - self._submitted_at
        self.n_new = 0
        request = replace(
            self._request,
            queue_timeout_s=_left(self._queue_timeout_s, spent_s),
            timeout_s=_left(self._request.timeout_s, spent_s),
        )
        if not self.token_ids:
            self.n_known_scores = self.n_scores
            return request
        return replace(
            request,
            prompt=(*self._request.prompt, *self.token_ids),
            n_generated=len(self.token_ids),
            max_tokens=self._request.max_tokens - len(self.token_ids),
            prompt_logprobs=None,
        )

    def add(self, event: TokensEvent) -> TokensEvent:
        """Note what is new and return it as the first engine would have sent it."""
        if not self.token_ids and not self.n_scores:
            self.cached_tokens = event.cached_tokens
        if event.prompt_scores is not None:
            n_known = min(self.n_known_scores, len(event.prompt_scores))
            self.n_known_scores -= n_known
            self.n_scores += len(event.prompt_scores) - n_known
            event = replace(event, prompt_scores=event.prompt_scores.without_first(n_known) or None)
        self.token_ids += event.token_ids
        self.n_new += len(event.token_ids)
        self.finished = event.finish_reason is not None
        return event if self.death is None else replace(event, cached_tokens=self.cached_tokens)


def _left(limit_s: float | None, spent_s: float) -> float | None:
    return None if limit_s is None else max(0.0, limit_s - spent_s)


def _now() -> float:
    return asyncio.get_running_loop().time()
