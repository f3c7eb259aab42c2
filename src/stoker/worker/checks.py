"""What a submitted sequence must be so that no engine call can fail because of it.

The gateway has validated it for its user. This is the engine's own line: one wrong number would
end the process, and with it every other gateway's sequences.
"""

from stoker.core.errors import InvalidRequestError
from stoker.core.sampling import (
    MAX_CHOICE,
    MAX_LOGPROBS,
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TOP_K,
    SamplingParams,
)
from stoker.core.tokens import TokenRequest


def check_request(request: TokenRequest, *, vocab_size: int) -> None:
    """Refuse token ids outside the vocabulary and sampling values outside their ranges.

    Raises:
        InvalidRequestError: Something is out of range.
    """
    lowest, highest = min(request.prompt, default=0), max(request.prompt, default=0)
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise InvalidRequestError(
            f"the prompt has the token id {wrong}; this model's are 0 to {vocab_size - 1}", param="prompt"
        )
    _check_sampling(request.sampling)


def _check_sampling(sampling: SamplingParams) -> None:
    _check_range("temperature", sampling.temperature, MAX_TEMPERATURE)
    _check_range("top_k", sampling.top_k, MAX_TOP_K)
    _check_range("top_p", sampling.top_p, 1.0)
    _check_range("min_p", sampling.min_p, 1.0)
    _check_range("seed", sampling.seed, MAX_SEED)
    _check_range("choice", sampling.choice, MAX_CHOICE)
    if sampling.logprobs is not None:
        _check_range("logprobs", sampling.logprobs, MAX_LOGPROBS)


def _check_range(name: str, value: float, highest: float) -> None:
    if not 0 <= value <= highest:  # which is false for what is not a number
        raise InvalidRequestError(f"{name} is {value}; it must be within 0 and {highest}", param=name)
