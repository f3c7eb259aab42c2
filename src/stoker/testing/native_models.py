"""Small models of the native library, made part by part: what it takes and refuses."""

from dataclasses import dataclass, field
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from stoker import _native
from stoker.models.rope import rope_frequencies
from stoker.testing.gguf_blocks import encode_blocks

WIDTH, FFN_WIDTH, VOCAB_SIZE = 64, 96, 100
CONTEXT, KV_BLOCKS, STEP_TOKENS, STEP_SEQS = 64, 6, 24, 3

MATRICES = {
    "embedding": (VOCAB_SIZE, WIDTH),
    "q": (64, WIDTH),
    "k": (32, WIDTH),
    "v": (32, WIDTH),
    "o": (WIDTH, 64),
    "gate": (FFN_WIDTH, WIDTH),
    "up": (FFN_WIDTH, WIDTH),
    "down": (WIDTH, FFN_WIDTH),
}


class Shape(TypedDict, total=False):
    """Changes of a shape; see `_native.ModelShape`."""

    layers: list[tuple[int, int]]
    width: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    ffn_width: int
    vocab_size: int
    context_length: int
    norm_epsilon: float
    tied_embeddings: bool
    activation: str
    pre_norms: bool
    post_norms: bool
    qk_norm: str
    qkv_bias: bool
    attention_output_bias: bool
    sinks: bool
    score_scale: float
    score_softcap: float
    logit_softcap: float
    embedding_scale: float
    residual_scale: float
    logit_scale: float


class Options(TypedDict, total=False):
    """What `make_model` takes beside sizes, as plain values: the library's objects must not outlive it.

    `rotary` is frequencies and magnitude; `experts` how many there are and are used, and whether they have
    biases.
    """

    rotary: tuple[list[float], float]
    experts: tuple[int, int, bool] | None
    isa: str
    kv_type: str
    n_threads: int
    kv_blocks: int
    max_step_tokens: int
    max_step_seqs: int


FREQUENCIES = list(rope_frequencies(10_000.0, 32))


def make_model(shape: Shape | None = None, **changes: Unpack[Options]) -> _native.Model:
    """A model of two query heads and one KV head, with these changes."""
    whole = Shape(
        layers=[(0, 0)],
        width=WIDTH,
        n_heads=2,
        n_kv_heads=1,
        head_size=32,
        ffn_width=FFN_WIDTH,
        vocab_size=VOCAB_SIZE,
        context_length=CONTEXT,
        norm_epsilon=1e-5,
        tied_embeddings=True,
        activation="silu",
        pre_norms=True,
        post_norms=False,
        qk_norm="none",
        qkv_bias=False,
        attention_output_bias=False,
        sinks=False,
        score_scale=0.2,
        score_softcap=0.0,
        logit_softcap=0.0,
        embedding_scale=1.0,
        residual_scale=1.0,
        logit_scale=1.0,
    )
    whole |= shape or {}
    frequencies, magnitude = changes.get("rotary", (FREQUENCIES, 1.0))
    experts = changes.get("experts")
    native_shape = _native.ModelShape(
        **whole,
        rotaries=[_native.Rotary(frequencies, magnitude)],
        experts=None
        if experts is None
        else _native.Experts(n_experts=experts[0], n_used=experts[1], normalized=True, biases=experts[2]),
    )
    return _native.Model(
        native_shape,
        isa=changes.get("isa", "auto"),
        n_threads=changes.get("n_threads", 1),
        kv_blocks=changes.get("kv_blocks", KV_BLOCKS),
        max_step_tokens=changes.get("max_step_tokens", STEP_TOKENS),
        max_step_seqs=changes.get("max_step_seqs", STEP_SEQS),
        float_path=False,
        kv_type=changes.get("kv_type", "auto"),
    )


def matrix(rows: int, columns: int, dtype: str = "Q4_1") -> NDArray[np.uint8]:
    """The stored bytes of a random matrix."""
    values = np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32)
    return np.frombuffer(encode_blocks(values, dtype), np.uint8)


VECTORS = {"output_norm": WIDTH, "attn_norm": WIDTH, "ffn_norm": WIDTH}

EVERYTHING = Shape(
    tied_embeddings=False,
    post_norms=True,
    qk_norm="row",
    qkv_bias=True,
    attention_output_bias=True,
    sinks=True,
)
EXPERTS = (3, 2, True)
"""With these, a shape that has every matrix and vector that there is."""

ALL_MATRICES = MATRICES | {
    "output": (VOCAB_SIZE, WIDTH),
    "router": (3, WIDTH),
    "gate": (3 * FFN_WIDTH, WIDTH),
    "up": (3 * FFN_WIDTH, WIDTH),
    "down": (3 * WIDTH, FFN_WIDTH),
}
ALL_VECTORS = VECTORS | {
    "post_attn_norm": WIDTH,
    "post_ffn_norm": WIDTH,
    "q_norm": 64,
    "k_norm": 32,
    "q_bias": 64,
    "k_bias": 32,
    "v_bias": 32,
    "o_bias": WIDTH,
    "sinks": 2,
    "router_bias": 3,
    "gate_bias": 3 * FFN_WIDTH,
    "up_bias": 3 * FFN_WIDTH,
    "down_bias": 3 * WIDTH,
}


def fill(
    model: _native.Model,
    *,
    matrices: dict[str, tuple[int, int]] = MATRICES,
    vectors: dict[str, int] = VECTORS,
    leave_out: str = "",
) -> None:
    """Set a model's matrices and vectors, but for one."""
    for name, size in vectors.items():
        if name != leave_out:
            model.set_vector(name, 0, np.ones(size, np.float32), True)
    for name, (rows, columns) in matrices.items():
        if name != leave_out:
            model.set_matrix(name, 0, "Q4_1", matrix(rows, columns), True)


@dataclass
class Batch:
    """Arrays of one call, by default two sequences: 17 tokens from position 0, one at position 5."""

    tokens: list[int] = field(default_factory=lambda: [1] * 18)
    run_starts: list[int] = field(default_factory=lambda: [0, 17, 18])
    first_positions: list[int] = field(default_factory=lambda: [0, 5])
    block_tables: list[int] = field(default_factory=lambda: [0, 1, 2])
    table_starts: list[int] = field(default_factory=lambda: [0, 2, 3])
    n_logprobs: list[int] | None = None
    n_temperatures: int | None = None

    def forward(self, model: _native.Model) -> NDArray[np.int32]:
        """Compute it greedily; return the tokens."""
        n = len(self.first_positions)
        return model.forward(
            *self._arrays(),
            np.ones(n, np.uint8),
            np.zeros(n if self.n_temperatures is None else self.n_temperatures, np.float32),
            np.zeros(n, np.int32),
            np.ones(n, np.float32),
            np.zeros(n, np.float32),
            np.zeros(n, np.uint64),
            np.zeros(n, np.uint32),
            np.array(self.n_logprobs or [-1] * n, np.int32),
        )[0]

    def logits(self, model: _native.Model) -> NDArray[np.float32]:
        """Compute it; return the logits of every row."""
        return model.logits(*self._arrays())

    def _arrays(
        self,
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        return (
            np.array(self.tokens, np.int32),
            np.array(self.run_starts, np.int32),
            np.array(self.first_positions, np.int32),
            np.array(self.block_tables, np.int32),
            np.array(self.table_starts, np.int32),
        )
