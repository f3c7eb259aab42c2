"""How much work a step is, in counts and in what a model makes of them."""

from dataclasses import dataclass


@dataclass(slots=True)
class StepWork:
    """What one engine call has to do, whatever the machine.

    Attributes:
        rows: Tokens computed.
        pairs: Pairs of a computed token and a token that it attends to.
        reads: Tokens whose keys and values are read, once for each sequence that does.
        outputs: Rows of logits.
    """

    rows: int = 0
    pairs: int = 0
    reads: int = 0
    outputs: int = 0

    def add_run(self, first: int, n_tokens: int, n_outputs: int) -> None:
        """Add a run of `n_tokens` tokens whose first is at position `first`."""
        self.rows += n_tokens
        self.pairs += n_tokens * first + n_tokens * (n_tokens + 1) // 2
        self.reads += first + n_tokens
        self.outputs += n_outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWork:
    """What a model makes of the counts of a step: operations and bytes.

    A multiplication with its addition is two operations.

    Attributes:
        weight_bytes: Weights, read once in a step.
        row_ops: Operations of the layers' matrices for a row.
        pair_ops: Operations of attention for a pair.
        kv_bytes: Keys and values of a token.
        output_ops: Operations of the output matrix for a row of logits.
    """

    weight_bytes: float
    row_ops: float
    pair_ops: float
    kv_bytes: float
    output_ops: float


TYPICAL_WORK = ModelWork(weight_bytes=1e8, row_ops=2e8, pair_ops=7e4, kv_bytes=2.3e4, output_ops=6e7)
"""For an engine that does not tell: a small model. What is measured soon takes its place."""
