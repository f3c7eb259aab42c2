"""Text requests and text events: what passes between an API dialect and a `Generator`."""

from dataclasses import dataclass

from stoker.core.tokens import FinishReason


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, to be rendered by the model's own chat template."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Raw text to be continued; special tokens spelt in it stay text."""

    text: str


@dataclass(frozen=True, slots=True)
class TokensPrompt:
    """Token ids to be continued."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokensPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """A request for one or several continuations of one prompt, validated but not yet tokenized.

    Attributes:
        request_id: Unique among requests in flight; begins with the client's ``x-request-id``, which
            by itself need not be unique.
        model: Name of the served model.
        prompt: What to continue.
        max_tokens: Most tokens to generate per choice; None for the rest of the context.
        n: How many choices.
        temperature, top_k, top_p, min_p: As in `SamplingParams`.
        seed: Key of the random numbers; None draws one.
        presence_penalty, frequency_penalty, repetition_penalty, logit_bias: As in `SamplingParams`.
        stop: A text that contains one of these ends before it.
        stop_token_ids: A text ends before any of these tokens too, whatever `ignore_eos` says.
        min_tokens: Until this many are generated, no end token and none of `stop_token_ids` is.
        ignore_eos: Keep generating after end tokens.
        logprobs: As in `SamplingParams`.
        cache_salt: Share KV blocks only with requests of the same salt.
        priority: Higher is served first.
        queue_timeout_s: Seconds in which a choice must begin to be computed; None for no limit.
        timeout_s: Seconds in which the request must be finished; None for no limit.
    """

    request_id: str
    model: str
    prompt: Prompt
    max_tokens: int | None
    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    ignore_eos: bool = False
    logprobs: int | None = None
    cache_salt: str = ""
    priority: int = 0
    queue_timeout_s: float | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class TopToken:
    """One of the most likely tokens at a position; `raw` is the token's bytes, `text` their decoding."""

    text: str
    raw: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TextLogprob:
    """Log-probability of one generated token, with its most likely alternatives, best first."""

    text: str
    raw: bytes
    logprob: float
    top: tuple[TopToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """Every choice has been admitted; tokens follow."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text of one choice.

    Attributes:
        choice: Index of the choice, from 0.
        text: The new text; may be empty when only log-probabilities are news.
        logprobs: One entry per generated token that became visible, when they were asked for.
    """

    choice: int
    text: str
    logprobs: tuple[TextLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """One choice has ended.

    Attributes:
        choice: Index of the choice.
        reason: Why it ended.
        stop_string: The stop string that ended it, or None.
    """

    choice: int
    reason: FinishReason
    stop_string: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts over all choices; the last event of a request.

    `completion_tokens` counts tokens as generated; `cached_tokens` are prompt tokens whose KV came
    from the prefix cache.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


Event = Started | TextDelta | Finished | Usage
