"""A `TokenEngine` for tests that says what the test tells it to."""

import asyncio
from array import array
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from math import cos, pi, sin

from stoker.core.abilities import Ability
from stoker.core.errors import NotReadyError, StokerError
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

FAKE_WIDTH = 4
"""Elements of a `fake_embedding`."""

_INFO = EngineInfo(
    model="fake",
    fingerprint="fake",
    context_length=4096,
    vocab_size=512,
    kv_blocks=256,
    max_running=64,
    max_waiting=256,
)


def lacking(*abilities: Ability) -> EngineInfo:
    """Return what llama.cpp's engine would say of itself if it lacked these."""
    return replace(_INFO, engine="llama.cpp", lacks=frozenset(abilities))


@dataclass(frozen=True, slots=True)
class Fail:
    """A step of a script: raise this."""

    error: StokerError


@dataclass(frozen=True, slots=True)
class Hold:
    """A step of a script: wait until this is set."""

    gate: asyncio.Event


Step = Sequence[int] | Fail | Hold
"""Token ids are sent in one event."""


def echo_prompt(request: TokenRequest) -> Sequence[Step]:
    """Script: say the prompt again and again, one token an event; deterministic for any prompt."""
    return [[request.prompt[index % len(request.prompt)]] for index in range(request.max_tokens)]


class FakeTokenEngine:
    """Plays a script for each sequence; obeys `max_tokens`, stop tokens and closing as an engine does.

    A script that runs out ends its sequence with its last tokens, by `FinishReason.LENGTH`.

    Args:
        script: Gives a sequence's steps, or one list of steps for every sequence.
        info: What `info` says.
        cached_tokens: Prompt tokens that the prefix cache is said to have had.
        refuse: Raised instead of admitting, by choice; the key None is every choice.
        admit_when: Admission waits for this.
        scores_per_event: How many of a prompt's scores come at a time.
        scores_when: Those after the first event wait for this.

    Attributes:
        requests: Every sequence that was asked for, in order.
        aborted: Ids of sequences that were closed before their end, in order.
        running: Ids of sequences in flight.
    """

    def __init__(
        self,
        script: Callable[[TokenRequest], Sequence[Step]] | Sequence[Step] = echo_prompt,
        *,
        info: EngineInfo = _INFO,
        cached_tokens: int = 0,
        refuse: Mapping[int | None, StokerError] | None = None,
        admit_when: asyncio.Event | None = None,
        scores_per_event: int = 64,
        scores_when: asyncio.Event | None = None,
    ) -> None:
        self._script = script
        self._info = info
        self._cached_tokens = cached_tokens
        self._refuse = dict(refuse or {})
        self._admit_when = admit_when
        self._scores_per_event = scores_per_event
        self._scores_when = scores_when
        self.requests: list[TokenRequest] = []
        self.aborted: list[str] = []
        self.running: set[str] = set()

    @property
    def info(self) -> EngineInfo:
        """What the engine says of itself."""
        return self._info

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenEvent]:
        """Play the script for one sequence.

        Raises:
            ValueError: The sequence's id is in flight already.
            StokerError: Whatever `refuse` or the script says.
        """
        if request.request_id in self.running:
            raise ValueError(f"request id {request.request_id!r} is in flight already")
        self.requests.append(request)
        self.running.add(request.request_id)
        ended = False
        try:
            if self._admit_when is not None:
                await self._admit_when.wait()
            refusal = self._refuse.get(request.sampling.choice, self._refuse.get(None))
            if refusal is not None:
                ended = True
                raise refusal
            yield Admitted(request.request_id)
            async with aclosing(self._play(request)) as events:
                async for event in events:
                    ended = event.finish_reason is not None
                    yield event
        except StokerError:
            ended = True
            raise
        finally:
            self.running.remove(request.request_id)
            if not ended:
                self.aborted.append(request.request_id)

    async def _scores(self, request: TokenRequest) -> AsyncGenerator[TokensEvent]:
        n_top = request.prompt_logprobs
        if n_top is None:
            return
        scores = fake_scores(request)
        while scores:
            await asyncio.sleep(0)
            part, scores = scores[: self._scores_per_event], scores[self._scores_per_event :]
            ends = not scores and not request.max_tokens
            yield TokensEvent(
                request.request_id,
                (),
                cached_tokens=self._cached_tokens,
                finish_reason=FinishReason.LENGTH if ends else None,
                prompt_scores=PromptScores.of(part, n_top),
            )
            if self._scores_when is not None:
                await self._scores_when.wait()

    async def _play(self, request: TokenRequest) -> AsyncGenerator[TokensEvent]:
        async with aclosing(self._scores(request)) as scores:
            async for event in scores:
                yield event
        if request.pooling is not None:
            await asyncio.sleep(0)
            yield TokensEvent(
                request.request_id,
                (),
                cached_tokens=self._cached_tokens,
                finish_reason=FinishReason.LENGTH,
                embedding=fake_embedding(request),
            )
        if not request.max_tokens:
            return
        steps = list(self._script(request) if callable(self._script) else self._script)
        left = request.max_tokens
        while steps:
            # Lets closing, cancelling and other sequences interleave, as a real engine does.
            await asyncio.sleep(0)
            match steps.pop(0):
                case Hold(gate):
                    await gate.wait()
                case Fail(error):
                    raise error
                case token_ids:
                    event = self._event(request, token_ids[:left], last=not steps or len(token_ids) >= left)
                    left -= len(event.token_ids)
                    yield event
                    if event.finish_reason is not None:
                        return

    def _event(self, request: TokenRequest, token_ids: Sequence[int], *, last: bool) -> TokensEvent:
        stop = next((at for at, each in enumerate(token_ids) if each in request.stop_token_ids), None)
        reason = FinishReason.LENGTH if last else None
        if stop is not None:
            token_ids, reason = token_ids[: stop + 1], FinishReason.STOP
        return TokensEvent(
            request_id=request.request_id,
            token_ids=tuple(token_ids),
            logprobs=tuple(fake_logprob(request, each) for each in token_ids if _wants(request)),
            cached_tokens=self._cached_tokens,
            finish_reason=reason,
        )


class AbsentEngine(FakeTokenEngine):
    """Is not there for some of the sequences, by their number."""

    def __init__(self, *absent: int) -> None:
        super().__init__()
        self._absent = absent

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenEvent]:
        """Play the script, or be absent.

        Raises:
            NotReadyError: The sequence's number is one of those.
        """
        if len(self.requests) in self._absent:
            self.requests.append(request)
            raise NotReadyError("no engine is ready")
        async with aclosing(super().stream(request)) as events:
            async for event in events:
                yield event


def fake_logprob(request: TokenRequest, token_id: int) -> TokenLogprob:
    """Return the log-probability that the fake engine reports for a token, with alternatives."""
    n_top = request.sampling.logprobs or 0
    return TokenLogprob(
        -token_id / 100, tuple((token_id + rank, -(token_id + rank) / 100) for rank in range(n_top))
    )


def fake_embedding(request: TokenRequest) -> "array[float]":
    """Return the embedding that the fake engine makes: equal directions for equal first tokens."""
    angle = request.prompt[0] / 256 * pi
    return array("f", [cos(angle), sin(angle), 0.0, 0.0])


def fake_scores(request: TokenRequest) -> list[TokenLogprob]:
    """Return the scores that the fake engine reports for a prompt, in values that fit a C float exactly."""
    n_top = request.prompt_logprobs or 0
    alternatives = tuple((rank, -rank / 64) for rank in range(n_top))
    tokens = [each for tokens in request.candidates for each in tokens] or request.prompt[1:]
    return [TokenLogprob(-token / 64, alternatives) for token in tokens]


def _wants(request: TokenRequest) -> bool:
    return request.sampling.logprobs is not None
