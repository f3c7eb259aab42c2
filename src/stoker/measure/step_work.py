"""What a step has to compute and to read at least, by phase; pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from stoker.models.config import ModelConfig

PHASES = ("qkv", "attention", "output", "feed_forward", "logits", "normalize", "sampling", "other")
"""The phases of a step, as the native library names them; the last three have no work that is counted."""

_QUANTIZED = frozenset({"u4", "u8"})
Matrix = Callable[[str, int], tuple[str, int]]
"""Type and bytes of a matrix by its name and layer: `NativeEngine.matrix`."""


@dataclass(frozen=True, slots=True)
class Work:
    """Operations and bytes of one phase.

    Attributes:
        dot_ops: Of integer products.
        float_ops: Of products and attention in floats.
        size_bytes: Of weights, or of keys and values, each read once.
    """

    dot_ops: float = 0.0
    float_ops: float = 0.0
    size_bytes: float = 0.0

    def __add__(self, other: Self) -> "Work":
        return Work(
            self.dot_ops + other.dot_ops,
            self.float_ops + other.float_ops,
            self.size_bytes + other.size_bytes,
        )

    @property
    def ops(self) -> float:
        """All operations."""
        return self.dot_ops + self.float_ops


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive tokens of one sequence in a step.

    Attributes:
        first: Position of the first.
        n_tokens: How many.
    """

    first: int
    n_tokens: int


def step_work(
    config: ModelConfig, matrix: Matrix, kv_token_bytes: float, runs: Iterable[Run], n_sampled: int
) -> dict[str, Work]:
    """Return the work of a step.

    Args:
        config: Shape of the model.
        matrix: Tells how a matrix is held.
        kv_token_bytes: Keys and values of one token over all layers.
        runs: What the step computes.
        n_sampled: Runs after which a token is sampled.
    """
    runs = list(runs)
    n_rows = sum(run.n_tokens for run in runs)
    width, query_width = config.width, config.n_heads * config.head_size
    kv_width = config.n_kv_heads * config.head_size
    work = dict.fromkeys(PHASES, Work())

    def product(name: str, layer: int, rows: float, sizes: tuple[int, int], share: float = 1.0) -> Work:
        outputs, inputs = sizes
        kind, size_bytes = matrix(name, layer)
        ops = 2.0 * rows * outputs * inputs
        quantized = kind in _QUANTIZED
        return Work(ops if quantized else 0.0, 0.0 if quantized else ops, size_bytes * share)

    for layer in range(config.n_layers):
        work["qkv"] += product("q", layer, n_rows, (query_width, width))
        work["qkv"] += product("k", layer, n_rows, (kv_width, width))
        work["qkv"] += product("v", layer, n_rows, (kv_width, width))
        work["output"] += product("o", layer, n_rows, (width, query_width))
        window = config.layers[layer].window
        n_pairs = sum(_pairs(run, window) for run in runs)
        n_keys = sum(_keys(run, window) for run in runs)
        work["attention"] += Work(
            float_ops=4.0 * query_width * n_pairs, size_bytes=kv_token_bytes / config.n_layers * n_keys
        )
        rows, share = float(n_rows), 1.0
        if config.experts is not None:
            experts = config.experts
            work["feed_forward"] += product("router", layer, n_rows, (experts.n_experts, width))
            rows *= experts.n_used
            share = min(1.0, rows / experts.n_experts)
        for name in ("gate", "up"):
            work["feed_forward"] += product(name, layer, rows, (config.ffn_width, width), share)
        work["feed_forward"] += product("down", layer, rows, (width, config.ffn_width), share)
    name = "embedding" if config.tied_embeddings else "output"
    if n_sampled > 0:
        work["logits"] = product(name, 0, n_sampled, (config.vocab_size, width))
    return work


def _pairs(run: Run, window: int | None) -> int:
    """Return how many (token, key) pairs the attention of a run has."""
    last = run.first + run.n_tokens
    if window is None:
        return (last * (last + 1) - run.first * (run.first + 1)) // 2
    return sum(min(window, position + 1) for position in range(run.first, last))


def _keys(run: Run, window: int | None) -> int:
    """Return how many different keys the tokens of a run see."""
    last = run.first + run.n_tokens
    return last if window is None else last - max(0, run.first + 1 - window)
