"""What requests must get from a `FakeStepEngine`, whatever else is scheduled beside them."""

import math
from array import array
from dataclasses import dataclass, field

from stoker.core.errors import DeadlineError, QueueTimeoutError
from stoker.core.tokens import FinishReason, TokenLogprob, TokenRequest, TokensEvent
from stoker.testing.step_engine import reference_embedding, reference_scores, reference_tokens


@dataclass(slots=True)
class Expected:
    """What one request must get, and what it has got.

    Attributes:
        request: The request.
        output: Its tokens.
        scores: Those of its prompt.
        embedding: Its embedding, or None.
        start_by: It is given up if it has not begun by then.
        end_by: It is given up if it has not ended by then.
        begun: A step has taken it.
        n_tokens: Tokens that have come.
        n_scores: Scores that have come.
    """

    request: TokenRequest
    output: tuple[int, ...]
    scores: list[TokenLogprob]
    embedding: "array[float] | None"
    start_by: float = math.inf
    end_by: float = math.inf
    begun: bool = False
    n_tokens: int = 0
    n_scores: int = 0

    @classmethod
    def of(cls, request: TokenRequest, now: float) -> "Expected":
        """Return what a request that is submitted now must get."""
        return cls(
            request,
            reference_tokens(request),
            [] if request.prompt_logprobs is None else reference_scores(request),
            None if request.pooling is None else reference_embedding(request),
            now + (math.inf if request.queue_timeout_s is None else request.queue_timeout_s),
            now + (math.inf if request.timeout_s is None else request.timeout_s),
        )

    @property
    def whole(self) -> bool:
        """All its tokens and scores have come."""
        return (self.n_tokens, self.n_scores) == (len(self.output), len(self.scores))

    def take(self, event: TokensEvent) -> None:
        """Note an event.

        Raises:
            AssertionError: It is not what the request must get next.
        """
        news, scores = event.token_ids, list(event.prompt_scores or ())
        self._require(news == self.output[self.n_tokens :][: len(news)], "other tokens", event)
        self._require(scores == self.scores[self.n_scores :][: len(scores)], "other scores", event)
        self.n_tokens += len(news)
        self.n_scores += len(scores)
        ends = event.finish_reason is not None
        scored = self.n_scores == len(self.scores)
        self._require(scored or not (self.n_tokens or ends), "tokens or an end before its scores", event)
        self._require(
            event.cached_tokens < len(self.request.prompt), "its whole prompt from the cache", event
        )
        self._require(event.embedding == (self.embedding if ends else None), "another embedding", event)
        self._require(not ends or self.whole, "an end before its last token", event)
        if self.request.hold:
            self._require(not ends, "an end, though it is to stay", event)
        elif self.output:  # a prompt that is only scored may end a step later, with its last token
            self._require(ends == self.whole, "no end with its last token", event)
        if ends and self.output:
            stopped = self.output[-1] in self.request.stop_token_ids
            enough = len(self.output) > self.request.min_tokens
            self._require(enough or not stopped, "an end token too early", event)
            reason = FinishReason.STOP if stopped else FinishReason.LENGTH
            self._require(event.finish_reason is reason, "another reason to end", event)

    def _require(self, holds: bool, what: str, event: TokensEvent) -> None:  # noqa: FBT001 - as `assert` has it
        if not holds:
            raise AssertionError(f"{self.request.request_id!r} has {what}: {event}, expected {self}")


@dataclass(slots=True)
class Expectations:
    """The requests of a scheduler, each with what it must get.

    Attributes:
        live: Those that have not ended, by id.
        held: Ids of those that have all their tokens, and hold their blocks until they are aborted.
    """

    live: dict[str, Expected] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)

    def admit(self, request: TokenRequest, now: float) -> None:
        """Note that a request was taken."""
        self.live[request.request_id] = Expected.of(request, now)

    def abort(self, request_id: str) -> bool:
        """Forget a request; returns whether there was one."""
        known = request_id in self.live or request_id in self.held
        self.live.pop(request_id, None)
        self.held.discard(request_id)
        return known

    def expire(self, now: float) -> dict[str, type[Exception]]:
        """Forget whoever is out of time now; returns why, by id."""
        due: dict[str, type[Exception]] = {
            request_id: DeadlineError if each.end_by <= now else QueueTimeoutError
            for request_id, each in self.live.items()
            if each.end_by <= now or (each.start_by <= now and not each.begun)
        }
        for request_id in due:
            del self.live[request_id]
        return due

    def take(self, event: TokensEvent) -> None:
        """Note an event.

        Raises:
            AssertionError: It is not what its request must get next.
        """
        expected = self.live[event.request_id]
        expected.take(event)
        if expected.request.hold and expected.whole:
            self.held.add(event.request_id)
        if event.finish_reason is not None or event.request_id in self.held:
            del self.live[event.request_id]
