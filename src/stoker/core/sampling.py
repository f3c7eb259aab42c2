"""How a token is chosen from logits."""

from dataclasses import dataclass

MAX_SEED = 2**64 - 1
"""Seeds are unsigned 64-bit integers."""

MAX_CHOICE = 2**32 - 1
"""Choices are unsigned 32-bit integers."""

MAX_TOP_K = 2**31 - 1
"""Engines count candidates in signed 32-bit integers; no vocabulary is larger."""

MAX_TEMPERATURE = 1000.0
"""Far beyond any use: all but hopeless tokens are equally likely long before."""

MAX_LOGPROBS = 20
"""Most alternatives that a request may ask for at each position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """One sequence's sampling parameters, already validated.

    The order is temperature → top-k → top-p → min-p. Random numbers are counter-based, keyed by
    (`seed`, `choice`, position of the token), so the same request draws the same numbers whatever
    else the engine runs.

    Attributes:
        temperature: 0 is greedy (the highest logit, ties to the lowest token id); at most
            `MAX_TEMPERATURE`.
        top_k: Keep the k most likely tokens; 0 keeps all; at most `MAX_TOP_K`.
        top_p: Keep the smallest set of most likely tokens whose probabilities sum to at least this.
        min_p: Drop tokens less likely than this share of the most likely one's probability.
        seed: Key of the random numbers, in ``0..MAX_SEED``.
        choice: Index of this sequence among the request's choices; part of the key.
        logprobs: None for no log-probabilities; otherwise how many most likely alternatives to
            report beside each sampled token (0 reports the sampled token alone). They are taken
            from the raw logits, before temperature.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    choice: int = 0
    logprobs: int | None = None
