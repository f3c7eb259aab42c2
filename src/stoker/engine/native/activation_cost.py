"""What int8 activations cost a model, matrix by matrix, and which are better kept at 16 bits.

The costs of matrices add up, nearly: their rounding errors have nothing to do with each other. So each is
measured alone, as the divergence that it causes while the activations of all others have 16 bits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.engine.native.divergence import compare
from stoker.engine.native.engine import NativeEngine
from stoker.engine.native.precision import MATRICES, Choice, Precise
from stoker.engine.native.sizing import PACKED_BITS
from stoker.engine.native.weights import list_weights
from stoker.models.config import WeightSource

KL_BUDGET = 0.0016
"""Mean divergence in nats that the int8 activations of a model may cause in all: half of what those of
llama.cpp cause in the default model (docs/quality.md)."""

LOGITS_SHARE = 1 / 8
"""Part of all tokens whose logits are computed: those that are answers, and not prompts."""

_CODE_BITS = 10
"""Matrices of more bits a weight are no codes, and their activations are floats."""

EVERYTHING: Choice = frozenset(map(Precise, MATRICES))


@dataclass(frozen=True, slots=True)
class Cost:
    """What 8 bits instead of 16 mean for the activations of a matrix.

    Attributes:
        matrix: Which one.
        kl: Mean divergence that it causes, in nats.
        share: Its share of a model's operations, which 16 bits would double.
    """

    matrix: Precise
    kl: float
    share: float


def list_candidates(source: WeightSource, *, by_layer: bool) -> Iterator[tuple[Precise, float]]:
    """Yield every matrix in codes, of all layers together or one by one, with its share of operations."""
    config = source.config
    operations: dict[Precise, float] = {}
    total = 0.0
    for weight in list_weights(source):
        if not weight.is_matrix or weight.place == "router":
            continue
        name = weight.place
        if name in ("embedding", "output"):
            if (name == "embedding") != config.tied_embeddings:
                continue
            name = "output"
        n = prod(weight.tensor.shape) * (LOGITS_SHARE if name == "output" else 1.0)
        if config.experts is not None and name in ("gate", "up", "down"):
            n *= config.experts.n_used / config.experts.n_experts
        total += n
        if PACKED_BITS[weight.tensor.dtype] < _CODE_BITS:
            key = Precise(name, weight.layer if by_layer and name != "output" else None)
            operations[key] = operations.get(key, 0.0) + n
    for matrix in sorted(operations):
        yield matrix, operations[matrix] / total


def measure_divergence(
    engine: NativeEngine, source: WeightSource, windows: Sequence[Sequence[int]], choices: Sequence[Choice]
) -> list[float]:
    """Return the mean divergence of each choice of matrices at 16 bits from all of them at 16 bits.

    Args:
        engine: Loaded from the source; its choice is another one afterwards.
        source: The model.
        windows: Texts as token ids, each computed by itself.
        choices: What to compare.
    """
    sums = np.zeros(len(choices))
    for window in windows:
        tokens = list(window)
        plan = StepPlan(
            request_ids=["window"],
            tokens=[tokens],
            first_positions=[0],
            block_tables=[list(range(-(-len(tokens) // BLOCK_TOKENS)))],
            samples=[False],
        )
        engine.set_precise(source.config, EVERYTHING)
        reference = engine.logits(plan)
        for index, choice in enumerate(choices):
            engine.set_precise(source.config, choice)
            sums[index] += compare(reference, engine.logits(plan), np.array(tokens, np.int32)).kl.sum()
    n_tokens = sum(map(len, windows))
    return [float(each) / n_tokens for each in sums]


def measure_costs(
    engine: NativeEngine, source: WeightSource, windows: Sequence[Sequence[int]], *, by_layer: bool
) -> list[Cost]:
    """Measure every candidate; see `measure_divergence`."""
    candidates = list(list_candidates(source, by_layer=by_layer))
    everything = frozenset(matrix for matrix, _ in candidates)
    kls = measure_divergence(engine, source, windows, [everything - {matrix} for matrix, _ in candidates])
    return [Cost(matrix, kl, share) for (matrix, share), kl in zip(candidates, kls, strict=True)]


def choose(costs: Sequence[Cost], budget: float) -> Choice:
    """Choose the matrices to keep at 16 bits, so that those left at 8 cost at most the budget.

    Those that save most divergence for their share of operations come first; then whatever turned out not
    to be needed goes back to 8 bits, the largest share first.
    """
    left = sum(cost.kl for cost in costs)
    chosen: list[Cost] = []
    for cost in sorted(costs, key=lambda each: -each.kl / each.share):
        if left <= budget:
            break
        chosen.append(cost)
        left -= cost.kl
    for cost in sorted(chosen, key=lambda each: -each.share):
        if left + cost.kl <= budget:
            chosen.remove(cost)
            left += cost.kl
    return frozenset(cost.matrix for cost in chosen)
