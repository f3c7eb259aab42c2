"""A token engine that dies in this process, as `EngineSupervisor`'s processes do."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

from stoker.core.abilities import Ability
from stoker.core.errors import DeadlineError, EngineDiedError, NotReadyError, QueueFullError
from stoker.core.protocols import EngineInfo
from stoker.core.tokens import (
    Admitted,
    FinishReason,
    PromptScores,
    TokenEvent,
    TokenLogprob,
    TokenRequest,
    TokensEvent,
)
from stoker.testing.step_engine import DEFAULT_VOCAB_SIZE, reference_scores, reference_tokens

_INFO = EngineInfo(
    model="fake",
    fingerprint="fake",
    context_length=4096,
    vocab_size=DEFAULT_VOCAB_SIZE,
    kv_blocks=256,
    max_running=64,
    max_waiting=256,
)


class MortalEngine:
    """Gives every request its `reference_tokens`, one an event, and dies when told to.

    Args:
        poison: Computing this token kills the engine.
        revive_s: When the next engine is ready after a death; None to wait for `revive`.

    Attributes:
        fingerprint: That of the engines from the next one on.
        lacks: What the engines cannot do.
        n_places: Sequences that are admitted at a time.
        hangs: Whether it stands still, and so notices no time limit either, until it dies.
        running: Ids of the sequences that the engine has.
        deaths: What the engine had at each death.
    """

    def __init__(self, *, poison: int | None = None, revive_s: float | None = 0.001) -> None:
        self._poison = poison
        self._revive_s = revive_s
        self._alive = True
        self._stopped = False
        self._news = asyncio.Event()
        self.fingerprint = _INFO.fingerprint
        self.lacks: frozenset[Ability] = frozenset()
        self.n_places = 64
        self.hangs = False
        self.restarts = 0
        self.running: set[str] = set()
        self.deaths: list[set[str]] = []

    @property
    def info(self) -> EngineInfo:
        """What the engine says of itself.

        Raises:
            NotReadyError: It is dead.
        """
        if not self._alive:
            raise NotReadyError("the engine died and is being restarted")
        return replace(_INFO, fingerprint=self.fingerprint, lacks=self.lacks)

    async def wait_ready(self) -> None:
        """Wait for the next engine.

        Raises:
            NotReadyError: The engine was stopped.
        """
        while not self._alive:
            if self._stopped:
                raise NotReadyError("the engine is stopped")
            await self._news.wait()

    def die(self) -> None:
        """Die, and with it every stream; harmless when dead."""
        if not self._alive:
            return
        self._alive = False
        self.deaths.append({*self.running})
        self.running = set()
        self._tell()
        if self._revive_s is not None:
            asyncio.get_running_loop().call_later(self._revive_s, self.revive)

    def revive(self) -> None:
        """Be the next engine."""
        self._alive = True
        self.hangs = False
        self.restarts += 1
        self._tell()

    def stop(self) -> None:
        """Die for good."""
        self._stopped, self._revive_s = True, None
        self.die()

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenEvent]:
        """Yield the request's tokens.

        Raises:
            NotReadyError: There is no engine.
            QueueFullError: Every place is taken.
            DeadlineError: The request's `timeout_s` was over.
            EngineDiedError: It died.
        """
        if not self._alive:
            raise NotReadyError("the engine died and is being restarted")
        if len(self.running) >= self.n_places:
            raise QueueFullError("every place is taken", retry_after_s=1.0)
        running = self.running
        end_by = None if request.timeout_s is None else _now() + request.timeout_s
        running.add(request.request_id)
        try:
            await self._live(running)
            yield Admitted(request.request_id)
            async for event in self._scores(request, running):
                yield event
            tokens = reference_tokens(request)
            for index, token in enumerate(tokens):
                await self._live(running)
                if end_by is not None and end_by <= _now():
                    raise DeadlineError("the request was not finished within its time limit")
                if self._poison in (*request.prompt, *tokens[:index]):
                    self.die()
                await self._live(running)
                yield _event(request, token, last=index == len(tokens) - 1)
        finally:
            running.discard(request.request_id)

    async def _scores(self, request: TokenRequest, running: set[str]) -> AsyncGenerator[TokensEvent]:
        """Score the prompt step by step, and end what is only scored."""
        n_top = request.prompt_logprobs
        if n_top is None:
            return
        scores = PromptScores.of(reference_scores(request), n_top)
        while scores:
            await self._live(running)
            if self._poison in request.prompt[: len(request.prompt) - len(scores)]:
                self.die()
            await self._live(running)
            step, scores = PromptScores.of(list(scores)[:3], n_top), scores.without_first(3)
            ends = not scores and not request.max_tokens
            yield TokensEvent(
                request.request_id,
                (),
                finish_reason=FinishReason.LENGTH if ends else None,
                prompt_scores=step,
            )

    async def _live(self, running: set[str]) -> None:
        """Take part in one turn of the event loop and outlive it."""
        if running is self.running:
            await asyncio.sleep(0)
        while self.hangs and running is self.running:
            await self._news.wait()
        if running is not self.running:
            raise EngineDiedError("the engine died")

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _event(request: TokenRequest, token: int, *, last: bool) -> TokensEvent:
    stopped = token in request.stop_token_ids
    return TokensEvent(
        request.request_id,
        (token,),
        logprobs=() if request.sampling.logprobs is None else (TokenLogprob(-token / 100),),
        cached_tokens=len(request.prompt) - 1,
        finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH if last else None,
    )
