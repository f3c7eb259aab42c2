"""Text requests and text events: what passes between an API dialect and a `Generator`."""

from array import array
from dataclasses import dataclass

from stoker.core.early_exit import EarlyExit, ExitRule
from stoker.core.grammar import Grammar
from stoker.core.tokens import AdapterRef, FinishReason


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


TemplateValue = str | int | float | bool | None
"""A value that a request may give to a variable of the chat template."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, to be rendered by the model's own chat template.

    Attributes:
        messages: Its turns.
        add_generation_prompt: Whether it ends with what begins the assistant's answer; not with
            `continue_final_message`.
        continue_final_message: Whether it ends inside its last message, which is to be gone on with.
        variables: Names and values of the template's own variables (``enable_thinking``).
        without_thinking: Whether the answer is to come at once, where a template lets its model think before.
    """

    messages: tuple[Message, ...]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: tuple[tuple[str, TemplateValue], ...] = ()
    without_thinking: bool = False

    @property
    def texts(self) -> list[str]:
        """Everything of it that may be long."""
        values = (value for _, value in self.variables if isinstance(value, str))
        return [*(message.content for message in self.messages), *values]


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Raw text to be continued; special tokens spelt in it stay text.

    Attributes:
        text: The text.
        add_special_tokens: Whether the token goes before it that the model's texts begin with, if any.
    """

    text: str
    add_special_tokens: bool = True


@dataclass(frozen=True, slots=True)
class TokensPrompt:
    """Token ids to be continued."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokensPrompt

SCORING_PLACES = 16
"""Most choices of one request that are scored at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """A request for one or several continuations of one prompt, validated but not yet tokenized.

    Attributes:
        request_id: Unique among requests in flight; begins with the client's ``x-request-id``, which
            by itself need not be unique.
        model: Name of the served model.
        prompt: What to continue.
        max_tokens: Most tokens to generate per choice; None for the rest of the context; 0 with `echo`.
        n: How many choices.
        best_of: Generate so many, at least `n`, and return those `n` whose tokens have the highest mean
            log-probability, best first; None returns all. Nothing comes before all have ended.
        echo: Begin each choice with the prompt and, with `logprobs`, its tokens' log-probabilities.
        max_prompt_scores: Refuse to score a prompt whose tokens times (1 + `logprobs`) exceed this.
        temperature, top_k, top_p, min_p: As in `SamplingParams`.
        seed: Key of the random numbers; None draws one.
        presence_penalty, frequency_penalty, repetition_penalty, logit_bias: As in `SamplingParams`.
        stop: A text that contains one of these ends before it.
        stop_token_ids: A text ends before any of these tokens too, whatever `ignore_eos` says.
        min_tokens: Until this many are generated, no end token and none of `stop_token_ids` is.
        ignore_eos: Keep generating after end tokens.
        logprobs: As in `SamplingParams`.
        grammar: What each choice must look like; None for any text.
        cache_salt: Share KV blocks only with requests of the same salt.
        priority: Higher is served first.
        queue_timeout_s: Seconds in which a choice must begin to be computed; None for no limit.
        timeout_s: Seconds in which the request must be finished; None for no limit.
        adapter: The adapter that it is computed with, or None.
        choices: Texts, the most likely of which is the answer, if any are given; then there is one choice.
        confidence_threshold: If the most likely of `choices` is less likely than this among them, the answer
            is generated as if there were none.
        exit_rule: When a choice ends before it is complete; None for never.
    """

    request_id: str
    model: str
    prompt: Prompt
    max_tokens: int | None
    n: int = 1
    best_of: int | None = None
    echo: bool = False
    max_prompt_scores: int = 2**18
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
    grammar: Grammar | None = None
    cache_salt: str = ""
    priority: int = 0
    queue_timeout_s: float | None = None
    timeout_s: float | None = None
    adapter: AdapterRef | None = None
    choices: tuple[str, ...] = ()
    confidence_threshold: float = 0.0
    exit_rule: ExitRule | None = None

    @property
    def n_sequences(self) -> int:
        """Sequences that are computed for it at a time."""
        if self.choices:
            return min(len(self.choices), SCORING_PLACES)
        return self.n_generated

    @property
    def n_generated(self) -> int:
        """Choices that are generated for it, also those that are not returned."""
        return self.n if self.best_of is None else self.best_of


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """A request for the embeddings of several inputs, validated but not yet tokenized.

    Attributes:
        request_id: As in `TextRequest`.
        inputs: What to embed, each by itself.
        paths: Where each of them stands in the request, for errors.
        adapter, priority, queue_timeout_s, timeout_s: As in `TextRequest`.
    """

    request_id: str
    inputs: tuple[Prompt, ...]
    paths: tuple[str, ...]
    adapter: AdapterRef | None = None
    priority: int = 0
    queue_timeout_s: float | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """The embedding of one input.

    Attributes:
        values: A vector of length 1 (L2), ``[width]``, as C floats.
        n_tokens: Tokens of the input.
        n_cached: Those of them that were not computed.
    """

    values: "array[float]"
    n_tokens: int
    n_cached: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """A request for how likely each of some choices goes on after each of some prompts.

    Attributes:
        request_id: As in `TextRequest`.
        prompts: What the choices come after, each by itself.
        paths: Where each of them stands in the request, for errors.
        choices: Different texts, at least one.
        choices_path: Where they stand in the request.
        adapter, priority, cache_salt, queue_timeout_s, timeout_s: As in `TextRequest`.
    """

    request_id: str
    prompts: tuple[Prompt, ...]
    paths: tuple[str, ...]
    choices: tuple[str, ...]
    choices_path: str
    adapter: AdapterRef | None = None
    priority: int = 0
    cache_salt: str = ""
    queue_timeout_s: float | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """How likely choices are after one prompt.

    Attributes:
        probabilities: Of each choice, among them: their sum is 1.
        n_tokens: Tokens of the prompt.
        n_cached: Those of them that the first choice found in the prefix cache.
        choice_tokens: Tokens of each choice.
    """

    probabilities: tuple[float, ...]
    n_tokens: int
    n_cached: int
    choice_tokens: tuple[int, ...]

    @property
    def best(self) -> int:
        """Index of the most likely choice, of equal ones the first."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)


@dataclass(frozen=True, slots=True)
class TopToken:
    """One of the most likely tokens at a position; `raw` is the token's bytes, `text` their decoding."""

    text: str
    raw: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TextLogprob:
    """Log-probability of one token, with its most likely alternatives, best first.

    Attributes:
        text: The decoding of `raw`.
        raw: The token's bytes.
        logprob: None for the first token of a prompt, before which there is nothing.
        top: The alternatives.
        added: What it adds to the choice's text if that is not `raw`, as with a control token.
    """

    text: str
    raw: bytes
    logprob: float | None
    top: tuple[TopToken, ...] = ()
    added: bytes | None = None


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
        logprobs: One entry per token that became visible, when they were asked for.
        of_prompt: It is the prompt's, echoed.
    """

    choice: int
    text: str
    logprobs: tuple[TextLogprob, ...] = ()
    of_prompt: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """One choice has ended.

    Attributes:
        choice: Index of the choice.
        reason: Why it ended.
        stop_string: The stop string that ended it, or None.
        early_exit: Why it ended early, or did not although that was asked for; None if nothing was.
    """

    choice: int
    reason: FinishReason
    stop_string: str | None = None
    early_exit: EarlyExit | None = None


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
