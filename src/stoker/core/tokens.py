"""Token requests and token events: what passes between the text side and an engine.

Engines know token ids alone. A `TokenRequest` is one sequence: a request for several choices
becomes several token requests.
"""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from stoker.core.grammar import Grammar
from stoker.core.pooling import Pooling
from stoker.core.sampling import SamplingParams

MAX_STOP_TOKENS = 256
"""Most tokens that may end a sequence."""

MAX_PRIORITY = 1000
"""Priorities are from minus this to this."""

MAX_CANDIDATES = 3072
"""Most candidates of a sequence: so few that those of all sequences of a step fit a frame."""

MAX_TIMEOUT_S = 86_400.0
"""Longest time limit of a sequence."""


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    """An end token, or (decided on the text side) a stop string."""

    LENGTH = "length"
    """`max_tokens` were generated."""


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An adapter of the served model, as engines find it.

    Attributes:
        path: The folder or file that it is in.
        digest: Names its contents, in hex digits; never empty.
    """

    path: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """One sequence to be continued.

    Attributes:
        request_id: Unique among the sequences in flight at one engine.
        prompt: Token ids, at least one.
        n_generated: So many tokens at the end of `prompt` were generated before, by an engine that is no
            more: penalties and `min_tokens` count them as output.
        max_tokens: Generate at most this many more, at least 1, or 0 with `prompt_logprobs` or
            `pooling`; prompt and output fit the context.
        min_tokens: Until this many are generated, none of `stop_token_ids` is; at most `n_generated` and
            `max_tokens` together.
        stop_token_ids: Generating one of these ends the sequence; empty to ignore end tokens;
            `MAX_STOP_TOKENS` at most.
        sampling: How tokens are chosen.
        prompt_logprobs: None for none; otherwise how many most likely alternatives to report beside the
            log-probability of each prompt token but the first.
        candidates: With `prompt_logprobs` of 0 and nothing to generate: instead of the prompt's own tokens,
            those whose log-probabilities after each of its last ``len(candidates)`` tokens are wanted, one
            at least for each and `MAX_CANDIDATES` in all. What goes before may come from the prefix cache.
        pooling: None for none; otherwise how the prompt's embedding is made, and `max_tokens` is 0. For a
            mean the whole prompt is computed.
        cache_salt: Sequences share KV blocks only with sequences of the same salt.
        priority: Higher is served first and preempted last; within `MAX_PRIORITY` of 0.
        queue_timeout_s: It is given up if no step has taken it in so many seconds from its submission;
            None to wait without limit. Seconds, not a time: the processes' clocks are not compared.
        timeout_s: It is given up if it has not ended in so many seconds from its submission.
        grammar: What is generated must be of it; before it is complete there is no end token.
        adapter: The adapter that it is computed with, or None.
        hold: It does not end after its last token, but keeps the full KV blocks of its prompt from being
            evicted until it is aborted. It is neither running nor waiting then.
    """

    request_id: str
    prompt: tuple[int, ...]
    n_generated: int = 0
    max_tokens: int
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    sampling: SamplingParams = SamplingParams()
    prompt_logprobs: int | None = None
    pooling: Pooling | None = None
    cache_salt: str = ""
    priority: int = 0
    queue_timeout_s: float | None = None
    timeout_s: float | None = None
    adapter: AdapterRef | None = None
    hold: bool = False
    grammar: Grammar | None = None
    candidates: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of one sampled token and of its most likely alternatives, best first.

    Attributes:
        logprob: Natural logarithm, from the raw logits.
        top: Pairs of token id and log-probability, most likely first, as many as were asked for.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PromptScores:
    """Log-probabilities of ``n`` tokens, packed: of consecutive prompt tokens, or of candidates in order.

    Attributes:
        n_top: Alternatives reported at each position; they are the most likely first.
        logprobs: Of the tokens themselves, ``[n]``, as C floats.
        top_tokens: Token ids of the alternatives, ``[n * n_top]``, as C integers.
        top_logprobs: Their log-probabilities, ``[n * n_top]``, as C floats.
    """

    n_top: int
    logprobs: "array[float]"
    top_tokens: "array[int]"
    top_logprobs: "array[float]"

    @classmethod
    def of(cls, scores: Iterable[TokenLogprob], n_top: int) -> "PromptScores":
        """Pack scores that have `n_top` alternatives each."""
        scores = list(scores)
        return cls(
            n_top,
            array("f", [score.logprob for score in scores]),
            array("i", [token for score in scores for token, _ in score.top]),
            array("f", [logprob for score in scores for _, logprob in score.top]),
        )

    def __len__(self) -> int:
        return len(self.logprobs)

    def __iter__(self) -> Iterator[TokenLogprob]:
        n_top = self.n_top
        for index, logprob in enumerate(self.logprobs):
            span = slice(index * n_top, (index + 1) * n_top)
            yield TokenLogprob(
                logprob, tuple(zip(self.top_tokens[span], self.top_logprobs[span], strict=True))
            )

    def without_first(self, n: int) -> "PromptScores":
        """Return all but the first `n`."""
        n_top = self.n_top
        return PromptScores(
            n_top, self.logprobs[n:], self.top_tokens[n * n_top :], self.top_logprobs[n * n_top :]
        )

    def extend(self, more: "PromptScores") -> None:
        """Append what follows, of as many alternatives."""
        self.logprobs.extend(more.logprobs)
        self.top_tokens.extend(more.top_tokens)
        self.top_logprobs.extend(more.top_logprobs)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The engine has taken the sequence into its queue."""

    request_id: str


@dataclass(frozen=True, slots=True)
class TokensEvent:
    """Newly generated tokens of one sequence, or scores of its prompt, which all come before any token.

    Attributes:
        request_id: The sequence.
        token_ids: New tokens, in order; an end token is included.
        logprobs: One entry per new token when the request asked for them, else empty.
        cached_tokens: Prompt tokens whose KV came from the prefix cache.
        finish_reason: Set on the sequence's last event, None before.
        prompt_scores: Those of the next prompt tokens, if the request asked for them and some are new.
        embedding: Of a request with `pooling`, with its finish reason: ``[width]``, of length 1, as C floats.
    """

    request_id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    prompt_scores: PromptScores | None = None
    embedding: "array[float] | None" = None


TokenEvent = Admitted | TokensEvent
"""What an engine sends for a sequence; failures are raised as `StokerError`."""
