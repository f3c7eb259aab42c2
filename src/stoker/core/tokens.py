"""Token requests and token events: what passes between the text side and an engine.

Engines know token ids alone. A `TokenRequest` is one sequence: a request for several choices
becomes several token requests.
"""

from dataclasses import dataclass
from enum import StrEnum

from stoker.core.sampling import SamplingParams

MAX_STOP_TOKENS = 256
"""Most tokens that may end a sequence."""

MAX_PRIORITY = 1000
"""Priorities are from minus this to this."""

MAX_TIMEOUT_S = 86_400.0
"""Longest time limit of a sequence."""


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    """An end token, or (decided on the text side) a stop string."""

    LENGTH = "length"
    """`max_tokens` were generated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """One sequence to be continued.

    Attributes:
        request_id: Unique among the sequences in flight at one engine.
        prompt: Token ids, at least one.
        n_generated: So many tokens at the end of `prompt` were generated before, by an engine that is no
            more: penalties and `min_tokens` count them as output.
        max_tokens: Generate at most this many more, at least 1; prompt and output fit the context.
        min_tokens: Until this many are generated, none of `stop_token_ids` is; at most `n_generated` and
            `max_tokens` together.
        stop_token_ids: Generating one of these ends the sequence; empty to ignore end tokens;
            `MAX_STOP_TOKENS` at most.
        sampling: How tokens are chosen.
        cache_salt: Sequences share KV blocks only with sequences of the same salt.
        priority: Higher is served first and preempted last; within `MAX_PRIORITY` of 0.
        queue_timeout_s: It is given up if no step has taken it in so many seconds from its submission;
            None to wait without limit. Seconds, not a time: the processes' clocks are not compared.
        timeout_s: It is given up if it has not ended in so many seconds from its submission.
    """

    request_id: str
    prompt: tuple[int, ...]
    n_generated: int = 0
    max_tokens: int
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    sampling: SamplingParams = SamplingParams()
    cache_salt: str = ""
    priority: int = 0
    queue_timeout_s: float | None = None
    timeout_s: float | None = None


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
class Admitted:
    """The engine has taken the sequence into its queue."""

    request_id: str


@dataclass(frozen=True, slots=True)
class TokensEvent:
    """Newly generated tokens of one sequence.

    Attributes:
        request_id: The sequence.
        token_ids: At least one new token, in order; an end token is included.
        logprobs: One entry per new token when the request asked for them, else empty.
        cached_tokens: Prompt tokens whose KV came from the prefix cache.
        finish_reason: Set on the sequence's last event, None before.
    """

    request_id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    cached_tokens: int = 0
    finish_reason: FinishReason | None = None


TokenEvent = Admitted | TokensEvent
"""What an engine sends for a sequence; failures are raised as `StokerError`."""
