"""What a submitted sequence must be so that no engine call can fail because of it.

The gateway has validated it for its user. This is the engine's own line: one wrong number would
end the process, and with it every other gateway's sequences.
"""

from collections.abc import Collection

from stoker.core.errors import InvalidRequestError
from stoker.core.sampling import (
    MAX_BIAS,
    MAX_BIASED_TOKENS,
    MAX_CHOICE,
    MAX_LOGPROBS,
    MAX_PENALTY,
    MAX_REPETITION_PENALTY,
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TOP_K,
    MIN_REPETITION_PENALTY,
    SamplingParams,
)
from stoker.core.tokens import MAX_CANDIDATES, MAX_PRIORITY, MAX_STOP_TOKENS, MAX_TIMEOUT_S, TokenRequest


def check_request(request: TokenRequest, *, vocab_size: int) -> None:
    """Refuse token ids outside the vocabulary and other values outside their ranges.

    Raises:
        InvalidRequestError: Something is out of range.
    """
    sampling = request.sampling
    biased = [token for token, _ in sampling.logit_bias]
    _check_tokens("prompt", request.prompt, vocab_size)
    _check_tokens("stop_token_ids", request.stop_token_ids, vocab_size)
    _check_tokens("logit_bias", biased, vocab_size)
    _check_count("stop_token_ids", request.stop_token_ids, MAX_STOP_TOKENS)
    _check_count("logit_bias", biased, MAX_BIASED_TOKENS)
    _check_range("n_generated", request.n_generated, 0, max(0, len(request.prompt) - 1))
    _check_range("priority", request.priority, -MAX_PRIORITY, MAX_PRIORITY)
    for name, limit_s in (("queue_timeout_s", request.queue_timeout_s), ("timeout_s", request.timeout_s)):
        if limit_s is not None:
            _check_range(name, limit_s, 0, MAX_TIMEOUT_S)
    _check_sampling(sampling)
    if request.prompt_logprobs is not None:
        _check_range("prompt_logprobs", request.prompt_logprobs, 0, MAX_LOGPROBS)
    if request.grammar is not None and request.grammar.fast_forward and sampling.logprobs is not None:
        raise InvalidRequestError(
            "logprobs cannot be had of tokens that are taken without being computed", param="logprobs"
        )
    candidates = [token for tokens in request.candidates for token in tokens]
    _check_tokens("candidates", candidates, vocab_size)
    _check_count("candidates", candidates, MAX_CANDIDATES)


def _check_sampling(sampling: SamplingParams) -> None:
    _check_range("temperature", sampling.temperature, 0, MAX_TEMPERATURE)
    _check_range("top_k", sampling.top_k, 0, MAX_TOP_K)
    _check_range("top_p", sampling.top_p, 0, 1.0)
    _check_range("min_p", sampling.min_p, 0, 1.0)
    _check_range("seed", sampling.seed, 0, MAX_SEED)
    _check_range("choice", sampling.choice, 0, MAX_CHOICE)
    _check_range("presence_penalty", sampling.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
    _check_range("frequency_penalty", sampling.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
    _check_range(
        "repetition_penalty", sampling.repetition_penalty, MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY
    )
    for _, bias in sampling.logit_bias:
        _check_range("logit_bias", bias, -MAX_BIAS, MAX_BIAS)
    if sampling.logprobs is not None:
        _check_range("logprobs", sampling.logprobs, 0, MAX_LOGPROBS)


def _check_tokens(name: str, tokens: Collection[int], vocab_size: int) -> None:
    lowest, highest = min(tokens, default=0), max(tokens, default=0)
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise InvalidRequestError(
            f"{name} has the token id {wrong}; this model's are 0 to {vocab_size - 1}", param=name
        )


def _check_count(name: str, tokens: Collection[int], most: int) -> None:
    if len(tokens) > most:
        raise InvalidRequestError(f"{name} has {len(tokens)} tokens; at most {most} are taken", param=name)


def _check_range(name: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:  # which is false for what is not a number
        raise InvalidRequestError(f"{name} is {value}; it must be within {lowest} and {highest}", param=name)
