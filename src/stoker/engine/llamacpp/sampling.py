"""One sequence's next token as a request to llama.cpp's server.

llama.cpp adds biases before everything else and keeps no order of ours among penalties. What is added to
logits (biases, presence and frequency penalties, bans) is therefore summed up here and sent as biases; its
own penalty is the repetition penalty alone. The two together would be in the wrong order: `LACKS` says so.
"""

from hashlib import blake2b
from typing import Any

import numpy as np

from stoker.core.sampling import SamplingParams
from stoker.core.step import LogitEdits
from stoker.core.tokens import TokenLogprob
from stoker.engine.llamacpp.slots import Tokens

RANDOM_SEED = 2**32 - 1
"""llama.cpp draws a seed of its own for this one."""

_SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")
_GREEDY = ("penalties", "temperature")
_BANNED = False
"""llama.cpp's spelling of a bias of minus infinity."""

_CERTAIN = 1e6

_ANSWERED = ("tokens", "completion_probabilities")


def completion(
    slot: int, history: Tokens, sampling: SamplingParams | None, edits: LogitEdits | None
) -> dict[str, Any]:
    """Return the request that computes `history` into a slot and samples one token after it.

    Args:
        slot: Number of the slot.
        history: All tokens of the sequence.
        sampling: How to choose the token; None when it is not wanted.
        edits: What is done to its logits before.
    """
    sampling = sampling or SamplingParams(temperature=0.0)
    return {
        "prompt": history,
        "id_slot": slot,
        "n_predict": 1,
        "stream": False,
        "cache_prompt": True,
        "return_tokens": True,
        "response_fields": _ANSWERED,
        "samplers": _SAMPLERS if sampling.temperature else _GREEDY,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "seed": _seed(sampling, len(history)),
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": len(history),
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logit_bias": [] if edits is None else _biases(edits),
        "n_probs": 0 if sampling.logprobs is None else max(1, sampling.logprobs),
        "post_sampling_probs": False,
    }


def alternatives(slot: int, history: Tokens, n_top: int, end_token: int) -> dict[str, Any]:
    """Return the request that tells the most likely tokens after `history`, whatever was sampled.

    llama.cpp tells no probabilities beside a token that ends inside a character. So it is made to choose
    one that has no text at all; the probabilities are of the raw logits and do not change.
    """
    body = completion(slot, history, SamplingParams(temperature=0.0, logprobs=n_top), None)
    return body | {"logit_bias": [(end_token, _CERTAIN)]}


def token_of(answer: dict[str, Any]) -> int:
    """Return the sampled token of an answer."""
    return int(answer["tokens"][0])


def logprob_of(answer: dict[str, Any], token: int, n_top: int) -> TokenLogprob | None:
    """Return a token's log-probability out of an answer, or None if it does not have it.

    They are of the raw logits.
    """
    for chosen in answer.get("completion_probabilities", ()):
        told = [(int(each["id"]), float(each["logprob"])) for each in chosen["top_logprobs"]]
        for each, logprob in (*told, (int(chosen["id"]), float(chosen["logprob"]))):
            if each == token:
                return TokenLogprob(logprob, tuple(told[:n_top]))
    return None


def _seed(sampling: SamplingParams, position: int) -> int:
    """Return llama.cpp's 32 bits for one position of one choice."""
    key = f"{sampling.seed}.{sampling.choice}.{position}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") % RANDOM_SEED


def _biases(edits: LogitEdits) -> list[tuple[int, float | bool]]:
    added = dict(zip(edits.bias_tokens.tolist(), edits.bias.tolist(), strict=True))
    if edits.presence_penalty or edits.frequency_penalty:
        output = np.frombuffer(edits.history, np.int32)[edits.n_prompt :]
        for token, count in zip(
            *(each.tolist() for each in np.unique(output, return_counts=True)), strict=True
        ):
            penalty = edits.presence_penalty + count * edits.frequency_penalty
            added[token] = added.get(token, 0.0) - penalty
    banned = set(edits.banned)
    return [
        *((token, bias) for token, bias in added.items() if token not in banned),
        *((token, _BANNED) for token in banned),
    ]
