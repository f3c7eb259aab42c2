"""How far one path's next-token distributions are from another's."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROWS = 32
"""Positions that are compared at once: a few copies of their logits are in memory."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """A text's positions, compared; each array ``[n_tokens]`` unless said.

    Attributes:
        kl: Kullback-Leibler divergence of the other distribution from the reference's, in nats.
        same_top: Whether the most likely token is the same.
        reference_nll: Negative log-likelihood of each next token by the reference, ``[n_tokens - 1]``.
        nll: The same by the other.
    """

    kl: NDArray[np.float64]
    same_top: NDArray[np.bool_]
    reference_nll: NDArray[np.float64]
    nll: NDArray[np.float64]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return natural log-probabilities of each row of logits."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def compare(
    reference: NDArray[np.float32], other: NDArray[np.float32], tokens: NDArray[np.int32]
) -> Divergence:
    """Compare the logits after every token of a text.

    Args:
        reference: Logits ``[n_tokens, vocab_size]`` of the path that counts as right.
        other: The other path's.
        tokens: The text, ``[n_tokens]``.

    Raises:
        ValueError: The shapes do not fit each other.
    """
    n_tokens = len(tokens)
    if reference.shape != other.shape or reference.shape[:-1] != (n_tokens,):
        raise ValueError(
            f"logits of {n_tokens} tokens by one vocabulary were expected twice,"
            f" not {reference.shape} and {other.shape}"
        )
    kl = np.empty(n_tokens)
    same_top = np.empty(n_tokens, np.bool_)
    nll = np.empty((2, n_tokens - 1))
    for begin in range(0, n_tokens, _ROWS):
        rows = slice(begin, begin + _ROWS)
        right, wrong = log_softmax(reference[rows]), log_softmax(other[rows])
        kl[rows] = (np.exp(right) * (right - wrong)).sum(axis=1)
        same_top[rows] = right.argmax(axis=1) == wrong.argmax(axis=1)
        following = tokens[begin + 1 : begin + _ROWS + 1]
        at = np.arange(len(following))
        for which, logprobs in enumerate((right, wrong)):
            nll[which, begin : begin + len(following)] = -logprobs[at, following]
    return Divergence(kl, same_top, nll[0], nll[1])
