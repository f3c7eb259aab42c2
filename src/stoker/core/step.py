"""Plan and result of one engine call, as plain lists that convert to arrays in one go.

A plan has no prefill and decode phases: each sequence contributes a run of consecutive tokens whose
KV is not computed yet, one token for a running decode or a chunk of a prompt. When all of them decode, a
call may take several steps: each sampled token is computed and the next one sampled, without Python between.
A run may end with a draft: guesses at the tokens that will be sampled (`stoker.core.drafting`).
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from stoker.core.drafting import MAX_DRAFT_TOKENS
from stoker.core.grammar import Constraint
from stoker.core.pooling import PoolRun
from stoker.core.sampling import SamplingParams
from stoker.core.tokens import PromptScores, TokenLogprob, TokenRequest

BLOCK_TOKENS = 16
"""Tokens in one KV block."""

MAX_CALL_STEPS = 4
"""Most steps of one engine call."""

MAX_CALL_TOKENS = max(MAX_CALL_STEPS, MAX_DRAFT_TOKENS + 1)
"""Most tokens that a call gives a sequence; with an engine that dies, so many are lost at most."""


@dataclass(slots=True)
class LogitEdits:
    """What is done to one sequence's logits before its next token is chosen.

    Only sequences that ask for it have one. It lives as long as its sequence, so that a step need
    convert nothing; `history` grows by each generated token.

    Attributes:
        presence_penalty, frequency_penalty, repetition_penalty: As in `SamplingParams`.
        n_prompt: Tokens of the prompt, those that were generated before left out.
        history: The prompt's tokens, then those generated, as C integers.
        bias_tokens: Tokens with a bias.
        bias: What is added to the logit of each of them, ``[len(bias_tokens)]``, as C floats.
        end_tokens: Tokens that would end the sequence.
        min_tokens: None of `end_tokens` may come before this many tokens have been generated.
        constraint: Holds it to a grammar, whatever else says; None for no grammar.
    """

    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    n_prompt: int
    history: "array[int]"
    bias_tokens: "array[int]"
    bias: "array[float]"
    end_tokens: "array[int]"
    min_tokens: int
    constraint: Constraint | None = field(default=None, repr=False)

    @classmethod
    def of(cls, request: TokenRequest, constraint: Constraint | None = None) -> "LogitEdits | None":
        """Return the edits of a request before its first token, or None if it asks for none."""
        sampling = request.sampling
        bans = request.min_tokens and request.stop_token_ids
        if not (sampling.edits_logits or bans or constraint is not None):
            return None
        return cls(
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            repetition_penalty=sampling.repetition_penalty,
            n_prompt=len(request.prompt) - request.n_generated,
            history=array("i", request.prompt),
            bias_tokens=array("i", [token for token, _ in sampling.logit_bias]),
            bias=array("f", [bias for _, bias in sampling.logit_bias]),
            end_tokens=array("i", sorted(request.stop_token_ids)),
            min_tokens=request.min_tokens,
            constraint=constraint,
        )

    @property
    def n_banned_steps(self) -> int:
        """For how many tokens to come those of `end_tokens` must not be chosen."""
        return max(0, self.min_tokens - (len(self.history) - self.n_prompt))

    @property
    def penalizes(self) -> bool:
        """Whether `history` has anything to do with the next token."""
        return bool(self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1.0)

    @property
    def allowed(self) -> memoryview:
        """Words of `Constraint.allowed`, none without a grammar."""
        return _NO_WORDS if self.constraint is None else self.constraint.allowed

    @property
    def banned(self) -> "array[int]":
        """Tokens that must not be chosen now."""
        return self.end_tokens if self.n_banned_steps else _NONE


_NONE = array("i")
_NO_WORDS = memoryview(array("I"))


@dataclass(frozen=True, slots=True)
class PromptScoring:
    """Which tokens are to be scored as what follows some tokens of one run.

    Attributes:
        rows: Index in the run of the token before each of `targets`, not descending: several may come after
            the same token.
        targets: Tokens to be scored, at least one.
        n_top: Alternatives to report beside each.
    """

    rows: Sequence[int]
    targets: Sequence[int]
    n_top: int


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
        edits: What is done to the logits of those rows that sample and ask for it, by row.
        scoring: Which tokens are scored after those of a run, by row.
        pooling: Whose tokens' hidden states are summed, by row.
        adapters: The digest of the adapter that a row's products have, by row; only of adapters that the
            engine has been given (`Adaptable`).
        drafts: How many tokens at the end of a run are a draft, by row; only of rows that sample. They, too,
            are in `tokens`, and covered by the block table.
        n_steps: Most tokens to sample for each sequence. It is above 1 only if every sequence samples, none
            is scored or pooled, none has a draft and the tables cover ``n_steps - 1`` tokens more. The call
            ends early after a step with which a sequence ended.
        stop_token_ids: Tokens that end each sequence, ``[n]``; given only if `n_steps` is above 1.
        skipped_layers: Layers that are left out, in order: what is sampled is a guess, and what is computed
            into the KV blocks is to be computed anew.
    """

    request_ids: list[str] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    first_positions: list[int] = field(default_factory=list)
    block_tables: list[list[int]] = field(default_factory=list)
    samples: list[bool] = field(default_factory=list)
    sampling: list[SamplingParams] = field(default_factory=list)
    edits: dict[int, LogitEdits] = field(default_factory=dict)
    scoring: dict[int, PromptScoring] = field(default_factory=dict)
    pooling: dict[int, PoolRun] = field(default_factory=dict)
    adapters: dict[int, str] = field(default_factory=dict)
    drafts: dict[int, int] = field(default_factory=dict)
    n_steps: int = 1
    stop_token_ids: list[frozenset[int]] = field(default_factory=list)
    skipped_layers: tuple[int, ...] = ()

    @property
    def n_tokens(self) -> int:
        """Tokens computed by the first step over all sequences."""
        return sum(map(len, self.tokens))


@dataclass(slots=True)
class StepResult:
    """What one `forward` returned, in the plan's order.

    Attributes:
        token_ids: The sampled tokens of each sequence, in order, ``[n]`` lists: none where the plan does
            not sample, otherwise one for each step, from 1 to `StepPlan.n_steps` of them and equally many
            for all. After a run with a draft: those that equal the draft's tokens, then the first that does
            not, or that comes after all of them.
        logprobs: The sampled tokens' log-probabilities, ``[n]`` lists; empty where none were asked for.
        scores: Those of the tokens that the plan wants scored, by row.
        sums: The new sums of those rows that the plan wants pooled, ``[width]`` each, as C doubles.
        reused: How many tokens of a run were not computed, by row, since the engine had them of another
            sequence; only of engines that keep prefixes by themselves.
    """

    token_ids: list[list[int]]
    logprobs: list[list[TokenLogprob]]
    scores: dict[int, PromptScores] = field(default_factory=dict)
    sums: "dict[int, array[float]]" = field(default_factory=dict)
    reused: dict[int, int] = field(default_factory=dict)
