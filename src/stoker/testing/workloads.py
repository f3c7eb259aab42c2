"""Makers of token requests, the same on every run."""

from collections.abc import Sequence
from hashlib import blake2b

from stoker.core.pooling import Pooling
from stoker.core.sampling import SamplingParams
from stoker.core.tokens import TokenRequest
from stoker.testing.step_engine import DEFAULT_VOCAB_SIZE, reference_tokens


def make_tokens(name: str, n_tokens: int, vocab_size: int = DEFAULT_VOCAB_SIZE) -> tuple[int, ...]:
    """Return `n_tokens` token ids that look random and depend on `name` alone.

    A longer sequence of the same name begins with the shorter one.
    """
    return tuple(
        int.from_bytes(blake2b(f"{name}/{i}".encode(), digest_size=8).digest(), "little") % vocab_size
        for i in range(n_tokens)
    )


def make_request(
    request_id: str,
    *,
    prompt: Sequence[int] | None = None,
    n_prompt: int = 20,
    max_tokens: int = 8,
    min_tokens: int = 0,
    stop_token_ids: frozenset[int] = frozenset(),
    sampling: SamplingParams | None = None,
    prompt_logprobs: int | None = None,
    pooling: Pooling | None = None,
    cache_salt: str = "",
    priority: int = 0,
    queue_timeout_s: float | None = None,
    timeout_s: float | None = None,
    hold: bool = False,
    candidates: Sequence[Sequence[int]] = (),
) -> TokenRequest:
    """Return a request; its prompt is made from its id unless given, and it is greedy unless told."""
    return TokenRequest(
        request_id=request_id,
        prompt=make_tokens(request_id, n_prompt) if prompt is None else tuple(prompt),
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        stop_token_ids=stop_token_ids,
        sampling=sampling or SamplingParams(temperature=0.0),
        prompt_logprobs=prompt_logprobs,
        pooling=pooling,
        cache_salt=cache_salt,
        priority=priority,
        queue_timeout_s=queue_timeout_s,
        timeout_s=timeout_s,
        hold=hold,
        candidates=tuple(map(tuple, candidates)),
    )


def make_harmless(
    request_id: str, poison: int, *, n_prompt: int = 8, max_tokens: int = 12, sampled: bool = True
) -> TokenRequest:
    """Return a request that has the token `poison` neither in its prompt nor in its reference tokens."""
    seed = 0
    while True:
        sampling = SamplingParams(seed=seed) if sampled else SamplingParams(temperature=0.0)
        prompt = [token for token in make_tokens(f"{request_id}/{seed}", n_prompt) if token != poison]
        request = make_request(request_id, prompt=prompt, max_tokens=max_tokens, sampling=sampling)
        if prompt and poison not in reference_tokens(request):
            return request
        seed += 1


def mixed_lengths(
    n_requests: int, prompt_lengths: Sequence[int] = (1, 15, 16, 17, 60, 200), max_tokens: int = 12
) -> list[TokenRequest]:
    """Return requests without common prefixes whose prompt lengths go round `prompt_lengths`."""
    return [
        make_request(f"mixed-{i}", n_prompt=prompt_lengths[i % len(prompt_lengths)], max_tokens=max_tokens)
        for i in range(n_requests)
    ]


def shared_prefix(
    n_requests: int, n_prefix: int = 100, n_tail: int = 20, max_tokens: int = 12
) -> list[TokenRequest]:
    """Return requests whose prompts share their first `n_prefix` tokens, as behind one system prompt."""
    prefix = make_tokens("shared", n_prefix)
    return [
        make_request(f"shared-{i}", prompt=prefix + make_tokens(f"tail-{i}", n_tail), max_tokens=max_tokens)
        for i in range(n_requests)
    ]
