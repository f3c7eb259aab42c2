"""Plan and result of one engine call, as plain lists that convert to arrays in one go.

A plan has no prefill and decode phases: each sequence contributes a run of consecutive tokens whose
KV is not computed yet, one token for a running decode or a chunk of a prompt.
"""

from dataclasses import dataclass, field

from stoker.core.sampling import SamplingParams
from stoker.core.tokens import TokenLogprob

BLOCK_TOKENS = 16
"""Tokens in one KV block."""


@dataclass(slots=True)
class StepPlan:
    """What one `forward` computes for ``n`` sequences.

    Attributes:
        request_ids: The sequences, ``[n]``.
        tokens: Token ids to compute, one run per sequence, ``[n]`` lists.
        first_positions: Absolute position of each run's first token, ``[n]``. Every earlier
            position's KV is in the sequence's blocks.
        block_tables: KV block ids of each sequence in order of position, ``[n]`` lists; they
            cover the run's last token.
        samples: Whether to sample the token after the run's last one, ``[n]``; false for a chunk
            that ends inside the prompt.
        sampling: Sampling parameters, ``[n]``; read only where `samples` is true.
    """

    request_ids: list[str] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    first_positions: list[int] = field(default_factory=list)
    block_tables: list[list[int]] = field(default_factory=list)
    samples: list[bool] = field(default_factory=list)
    sampling: list[SamplingParams] = field(default_factory=list)

    @property
    def n_tokens(self) -> int:
        """Tokens computed by this step over all sequences."""
        return sum(map(len, self.tokens))


@dataclass(slots=True)
class StepResult:
    """What one `forward` returned, in the plan's order.

    Attributes:
        token_ids: The sampled token of each sequence, ``[n]``; -1 where nothing was sampled.
        logprobs: The sampled token's log-probabilities, ``[n]``; None where none were asked for.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprob | None]
