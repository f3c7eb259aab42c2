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

MAX_PENALTY = 2.0
"""Presence and frequency penalties lie between this and its negative."""

MIN_REPETITION_PENALTY = 0.01
"""Smaller ones could divide a logit to infinity."""

MAX_REPETITION_PENALTY = 100.0
"""Far beyond any use: what was seen is as good as banned long before."""

MAX_BIAS = 100.0
"""Biases lie between this and its negative, which are as good as forcing and banning a token."""

MAX_BIASED_TOKENS = 1024
"""Most tokens that one request may bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """One sequence's sampling parameters, already validated.

    The order is penalties → bias → mask → temperature → top-k → top-p → min-p. Random numbers are
    counter-based, keyed by (`seed`, `choice`, position of the token), so the same request draws the
    same numbers whatever else the engine runs.

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
            from the raw logits, before penalties and temperature.
        presence_penalty: Taken off the logit of every token that has been generated; up to
            `MAX_PENALTY` either way.
        frequency_penalty: The same, as many times as the token has been generated.
        repetition_penalty: Divides the positive logits, and multiplies the others, of all tokens
            in prompt and output; 1 is none; `MIN_REPETITION_PENALTY` to `MAX_REPETITION_PENALTY`.
        logit_bias: Pairs of token id and what is added to its logit, up to `MAX_BIAS` either way;
            each token once, `MAX_BIASED_TOKENS` at most.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    choice: int = 0
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def edits_logits(self) -> bool:
        """Whether anything is done to the logits before the temperature."""
        return bool(
            self.logit_bias
            or self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1.0
        )

    @property
    def penalizes_before_bias(self) -> bool:
        """Whether logits are multiplied before something is added to them."""
        added = self.logit_bias or self.presence_penalty or self.frequency_penalty
        return bool(self.repetition_penalty != 1.0 and added)
