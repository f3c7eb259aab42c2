"""A `Generator` that plays a script, for tests of everything above the text layer."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, field

from stoker.core.protocols import TextCodec
from stoker.core.text import Event, Finished, Started, TextDelta, TextRequest, Usage
from stoker.core.tokens import FinishReason
from stoker.policy.waking import CheckedEmbedder, CheckedScorer
from stoker.testing.local_generator import generator as generator_over_bytes
from stoker.testing.token_engine import FakeTokenEngine

Step = Event | BaseException | asyncio.Event
"""An event to yield, an exception to raise, or a gate to wait at."""

Script = Callable[[TextRequest], Iterable[Step]]


@dataclass(slots=True)
class ScriptedGenerator:
    """Answers every request by playing a script.

    Attributes:
        script: Makes the steps for a request.
        requests: Every request that was begun, in order.
        open: Requests whose generator runs now.
        ended: Requests that were played to the end of their script.
        stopped: Requests that were closed, cancelled or failed before.
    """

    script: Script
    requests: list[TextRequest] = field(default_factory=list)
    open: int = 0
    ended: int = 0
    stopped: int = 0

    @property
    def codec(self) -> TextCodec:
        """Tokens are bytes."""
        return generator_over_bytes(FakeTokenEngine(), context=512).codec

    @property
    def embedder(self) -> CheckedEmbedder:
        """Embeds bytes as `fake_embedding` says."""
        return generator_over_bytes(FakeTokenEngine(), context=512).embedder

    @property
    def scorer(self) -> CheckedScorer:
        """Scores bytes as `fake_scores` says."""
        return generator_over_bytes(FakeTokenEngine(), context=512).scorer

    async def check(self, request: TextRequest) -> None:
        """Refuse nothing."""

    async def generate(self, request: TextRequest) -> AsyncGenerator[Event]:
        """Play the script."""
        self.requests.append(request)
        self.open += 1
        completed = False
        try:
            for step in self.script(request):
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
            completed = True
        finally:
            self.open -= 1
            self.ended += completed
            self.stopped += not completed


def reply(*pieces: str, prompt_tokens: int = 3, cached_tokens: int = 0) -> Script:
    """Return a script that gives every choice the same pieces of text, one token each."""

    def script(request: TextRequest) -> Iterable[Step]:
        yield Started(prompt_tokens)
        for piece in pieces:
            for choice in range(request.n):
                yield TextDelta(choice, piece)
        for choice in range(request.n):
            yield Finished(choice, FinishReason.STOP)
        yield Usage(prompt_tokens, len(pieces) * request.n, cached_tokens)

    return script


def steps(*script: Step) -> Script:
    """Return a script that plays the same steps for every request."""
    return lambda _: script
