"""A parsed request, whichever of the two endpoints it came to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stoker.api.limits import ApiLimits
from stoker.api.openai.early_exit import eager, exit_rule, scored_choices, sift_early_exit
from stoker.api.openai.fields import STREAM_OPTIONS_FIELDS, FieldTable
from stoker.api.openai.structured import fast_forwarded, grammar_of, sift_grammars
from stoker.api.openai.wire import GenerationBody
from stoker.core.errors import InvalidRequestError
from stoker.core.sampling import MAX_SEED
from stoker.core.text import Prompt, TextRequest
from stoker.core.tokens import AdapterRef

_STREAM_OPTIONS = FieldTable(STREAM_OPTIONS_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What an endpoint has to do.

    Attributes:
        requests: One per prompt; choice ``c`` of prompt ``p`` has the index ``p * n + c``.
        stream: Whether to stream the answer.
        include_usage: Whether a stream ends with the usage.
    """

    requests: tuple[TextRequest, ...]
    stream: bool
    include_usage: bool

    @property
    def model(self) -> str:
        """Name of the model asked for."""
        return self.requests[0].model

    def with_adapter(self, base: str, adapter: AdapterRef) -> "Job":
        """Return the job as the base model of this name does it, with an adapter."""
        requests = (replace(each, model=base, adapter=adapter) for each in self.requests)
        return replace(self, requests=tuple(requests))

    @property
    def n_choices(self) -> int:
        """Choices over all prompts."""
        return len(self.requests) * self.requests[0].n

    @property
    def n_sequences(self) -> int:
        """Choices that are generated, also those that are not returned."""
        return len(self.requests) * self.requests[0].n_sequences


ParseJob = Callable[[dict[str, Any], ApiLimits, str], Job]
"""Body, limits and a unique request id to a job; raises `InvalidRequestError`."""


def sift_objects(fields: dict[str, Any]) -> None:
    """Apply the tables of those fields in place that are objects."""
    sift_grammars(fields)
    sift_early_exit(fields)
    options = fields.get("stream_options")
    if isinstance(options, dict):
        fields["stream_options"] = _STREAM_OPTIONS.sift(options, path="stream_options.")


def make_job(
    body: GenerationBody,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int | None,
    logprobs: int | None,
    limits: ApiLimits,
    request_id: str,
    best_of: int | None = None,
    echo: bool = False,
) -> Job:
    """Check what depends on several fields or on settings, and build the job.

    Raises:
        InvalidRequestError: Too many choices, ``stream_options`` without ``stream``, or a grammar that
            could not be held to.
    """
    _check_choices(len(prompts), body.n, best_of, limits)
    grammar = fast_forwarded(
        eager(grammar_of(body, limits), body),
        body,
        others=(
            ("logprobs", logprobs is not None),
            ("best_of", best_of is not None),
            ("early_exit.stop_below", body.early_exit is not None and body.early_exit.stop_below is not None),
        ),
    )
    choices = scored_choices(
        body,
        n_prompts=len(prompts),
        others=(("best_of", best_of is not None), ("echo", echo), ("logprobs", logprobs is not None)),
        limits=limits,
    )
    if body.stream_options is not None and not body.stream:
        raise InvalidRequestError(
            "'stream_options' is only allowed together with 'stream': true.",
            param="stream_options",
            code="invalid_value",
        )
    return Job(
        requests=tuple(
            TextRequest(
                request_id=request_id if len(prompts) == 1 else f"{request_id}.{index}",
                model=body.model,
                prompt=prompt,
                max_tokens=max_tokens,
                n=body.n,
                best_of=best_of,
                echo=echo,
                max_prompt_scores=limits.max_prompt_scores // (len(prompts) * body.n),
                temperature=body.temperature,
                top_k=body.top_k,
                top_p=body.top_p,
                min_p=body.min_p,
                seed=None if body.seed is None else body.seed & MAX_SEED,
                presence_penalty=body.presence_penalty,
                frequency_penalty=body.frequency_penalty,
                repetition_penalty=body.repetition_penalty,
                logit_bias=body.logit_bias,
                stop=tuple(body.stop),
                stop_token_ids=frozenset(body.stop_token_ids),
                min_tokens=body.min_tokens,
                ignore_eos=body.ignore_eos,
                logprobs=logprobs,
                grammar=grammar,
                choices=choices,
                confidence_threshold=body.confidence_threshold or 0.0,
                exit_rule=exit_rule(body),
                priority=-body.priority,  # on the wire lower is earlier, as in vLLM
                queue_timeout_s=shorter(body.queue_timeout, limits.queue_timeout_s),
                timeout_s=shorter(body.timeout, limits.request_timeout_s),
            )
            for index, prompt in enumerate(prompts)
        ),
        stream=body.stream,
        include_usage=body.stream_options is not None and body.stream_options.include_usage,
    )


def shorter(asked_s: float | None, limit_s: float | None) -> float | None:
    """Return the shorter of two time limits in seconds; None is none."""
    return min((each for each in (asked_s, limit_s) if each is not None), default=None)


def _check_choices(n_prompts: int, n: int, best_of: int | None, limits: ApiLimits) -> None:
    field, each = ("n", n) if best_of is None else ("best_of", best_of)
    if each > limits.max_n:
        raise InvalidRequestError(
            f"Invalid '{field}': it should be at most {limits.max_n}, not {each}.",
            param=field,
            code="integer_above_max_value",
        )
    n_choices = n_prompts * each
    if n_choices > limits.max_choices:
        raise InvalidRequestError(
            f"The number of prompts ({n_prompts}) times '{field}' ({each}) makes {n_choices} choices; "
            f"at most {limits.max_choices} are taken at a time.",
            param=field if n_prompts == 1 else "prompt",
            code="invalid_value",
        )
