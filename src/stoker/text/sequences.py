"""From a text request and its tokens to the sequences that an engine continues."""

import itertools
import secrets

from stoker.core.errors import InvalidRequestError
from stoker.core.sampling import MAX_SEED, SamplingParams
from stoker.core.text import TextRequest
from stoker.core.tokens import TokenRequest

_serials = itertools.count()
"""Makes sequence ids unique in this process: clients choose, and repeat, their request ids."""


def token_requests(
    request: TextRequest,
    prompt: list[int],
    *,
    max_tokens: int,
    end_token_ids: frozenset[int],
    spent_s: float,
) -> list[TokenRequest]:
    """Return one sequence for each choice that is generated, the first of which scores the prompt.

    With nothing to generate there is one sequence if the prompt is to be scored, else none.

    Args:
        request: The request.
        prompt: Its tokens.
        max_tokens: Most tokens to generate per choice.
        end_token_ids: Tokens that end a turn.
        spent_s: How much of the request's time limits is over.

    Raises:
        InvalidRequestError: `min_tokens` exceeds `max_tokens`, or too many scores are asked for.
    """
    if request.min_tokens > max_tokens:
        raise InvalidRequestError(
            f"min_tokens is {request.min_tokens}, but at most {max_tokens} tokens are generated.",
            param="min_tokens",
        )
    prompt_logprobs = request.logprobs if request.echo else None
    if prompt_logprobs is not None:
        _check_scores(len(prompt), prompt_logprobs, request.max_prompt_scores)
    logprobs = request.logprobs
    if logprobs is None and (request.best_of is not None or _watches(request)):
        logprobs = 0
    n_sequences = request.n_generated if max_tokens else int(prompt_logprobs is not None)
    seed = secrets.randbelow(MAX_SEED + 1) if request.seed is None else request.seed
    serial = next(_serials)
    shared_prompt = tuple(prompt)
    return [
        TokenRequest(
            request_id=f"{request.request_id}.{choice}-{serial}",
            prompt=shared_prompt,
            max_tokens=max_tokens,
            min_tokens=request.min_tokens,
            stop_token_ids=request.stop_token_ids | (frozenset() if request.ignore_eos else end_token_ids),
            sampling=SamplingParams(
                temperature=request.temperature,
                top_k=request.top_k,
                top_p=request.top_p,
                min_p=request.min_p,
                seed=seed,
                choice=choice,
                logprobs=logprobs,
                presence_penalty=request.presence_penalty,
                frequency_penalty=request.frequency_penalty,
                repetition_penalty=request.repetition_penalty,
                logit_bias=request.logit_bias,
            ),
            prompt_logprobs=None if choice else prompt_logprobs,
            grammar=request.grammar,
            cache_salt=request.cache_salt,
            adapter=request.adapter,
            priority=request.priority,
            queue_timeout_s=_left(request.queue_timeout_s, spent_s),
            timeout_s=_left(request.timeout_s, spent_s),
        )
        for choice in range(n_sequences)
    ]


def _watches(request: TextRequest) -> bool:
    """Whether the request's rule needs log-probabilities; tokens that a grammar forces have none."""
    forced = request.grammar is not None and request.grammar.fast_forward
    return request.exit_rule is not None and not forced


def _left(limit_s: float | None, spent_s: float) -> float | None:
    return None if limit_s is None else max(0.0, limit_s - spent_s)


def _check_scores(n_prompt: int, n_top: int, most: int) -> None:
    if n_prompt * (1 + n_top) > most:
        raise InvalidRequestError(
            f"The prompt's {n_prompt} tokens with {n_top} alternatives each make "
            f"{n_prompt * (1 + n_top)} log-probabilities; at most {most} are given for one prompt of this "
            "request. Ask for fewer alternatives, or send fewer or shorter prompts at a time.",
            param="logprobs",
        )
