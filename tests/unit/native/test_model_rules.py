"""What a native model refuses: wrong shapes, incomplete weights, and batches that break the rules."""

from dataclasses import dataclass, field
from typing import TypedDict, Unpack

import numpy as np
import pytest
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
    )


def matrix(rows: int, columns: int, dtype: str = "Q4_1") -> NDArray[np.uint8]:
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
    for name, size in vectors.items():
        if name != leave_out:
            model.set_vector(name, 0, np.ones(size, np.float32), True)
    for name, (rows, columns) in matrices.items():
        if name != leave_out:
            model.set_matrix(name, 0, "Q4_1", matrix(rows, columns), True)


@pytest.fixture(scope="module")
def model() -> _native.Model:
    filled = make_model()
    fill(filled)
    filled.finish()
    return filled


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


REFUSED = {
    "no sequences": (Batch([], [0], [], [], [0]), "one longer than first_positions"),
    "too many sequences": (
        Batch([1] * 4, [0, 1, 2, 3, 4], [0] * 4, [0, 1, 2, 3], [0, 1, 2, 3, 4]),
        "number of sequences",
    ),
    "a sequence without tokens": (Batch(run_starts=[0, 18, 18]), "at least one token"),
    "too many tokens": (Batch([1] * 25, [0, 24, 25], [0, 5]), "too many tokens in one step"),
    "negative token": (Batch([1] * 17 + [-1]), "outside the vocabulary"),
    "token beyond the vocabulary": (Batch([VOCAB_SIZE] + [1] * 17), "outside the vocabulary"),
    "negative position": (Batch(first_positions=[-1, 5]), "outside the context"),
    "position beyond the context": (
        Batch(first_positions=[0, 64], block_tables=[0, 1, 2, 3, 4, 5, 2], table_starts=[0, 2, 7]),
        "outside the context",
    ),
    "run over the end of the context": (
        Batch(first_positions=[48, 5], block_tables=[0, 1, 3, 4, 5, 2], table_starts=[0, 5, 6]),
        "outside the context",
    ),
    "highest position": (Batch(first_positions=[2**31 - 1, 5]), "outside the context"),
    "block table too short": (Batch(block_tables=[0, 2], table_starts=[0, 1, 2]), "too short"),
    "block table too short by one token": (Batch(first_positions=[0, 16]), "too short"),
    "no blocks": (Batch(block_tables=[0, 1], table_starts=[0, 2, 2]), "too short"),
    "negative block": (Batch(block_tables=[0, -1, 2]), "block id is out of range"),
    "block that does not exist": (Batch(block_tables=[0, 1, KV_BLOCKS]), "block id is out of range"),
    "runs that do not cover the tokens": (Batch(run_starts=[0, 17, 17]), "starts must ascend"),
    "runs beyond the tokens": (Batch(run_starts=[0, 17, 19]), "starts must ascend"),
    "runs in disorder": (Batch(run_starts=[0, 19, 18]), "starts must ascend"),
    "negative run start": (Batch(run_starts=[-1, 17, 18]), "starts must ascend"),
    "runs that do not begin at 0": (Batch(run_starts=[1, 17, 18]), "must start at 0"),
    "tables in disorder": (Batch(table_starts=[0, 4, 3]), "starts must ascend"),
    "tables beyond the blocks": (Batch(table_starts=[0, 2, 4]), "starts must ascend"),
    "too few run starts": (Batch(run_starts=[0, 18]), "one longer"),
    "too few table starts": (Batch(table_starts=[0, 3]), "one longer"),
}


@pytest.mark.parametrize(("batch", "message"), REFUSED.values(), ids=REFUSED)
def test_batches_that_break_the_rules(model: _native.Model, batch: Batch, message: str) -> None:
    before = Batch().forward(model).tolist()
    with pytest.raises(ValueError, match=message):
        batch.forward(model)
    with pytest.raises(ValueError, match=message):
        batch.logits(model)
    assert Batch().forward(model).tolist() == before


def test_sampling_arrays_that_do_not_fit(model: _native.Model) -> None:
    with pytest.raises(ValueError, match="one entry per sequence"):
        Batch(n_temperatures=1).forward(model)
    with pytest.raises(ValueError, match="at most 20"):
        Batch(n_logprobs=[0, 21]).forward(model)


def test_the_largest_batch_is_taken(model: _native.Model) -> None:
    whole = Batch([1] * STEP_TOKENS, [0, 22, 23, 24], [42, 0, 15], [0, 1, 2, 3, 4, 5], [0, 4, 5, 6])
    assert len(whole.forward(model)) == STEP_SEQS
    assert whole.logits(model).shape == (STEP_TOKENS, VOCAB_SIZE)


@pytest.mark.parametrize("name", [*ALL_MATRICES, *ALL_VECTORS])
def test_an_incomplete_model(name: str) -> None:
    incomplete = make_model(EVERYTHING, experts=EXPERTS)
    fill(incomplete, matrices=ALL_MATRICES, vectors=ALL_VECTORS, leave_out=name)
    with pytest.raises(ValueError, match=f"'{name}'.* is missing"):
        incomplete.finish()
    with pytest.raises(ValueError, match="finish"):
        Batch().forward(incomplete)


def test_a_whole_model() -> None:
    whole = make_model(EVERYTHING, experts=EXPERTS)
    fill(whole, matrices=ALL_MATRICES, vectors=ALL_VECTORS)
    whole.finish()
    assert len(Batch().forward(whole)) == 2


NAN, INFINITY = float("nan"), float("inf")

IMPOSSIBLE = {
    "no layers": (Shape(layers=[]), "positive"),
    "negative vocabulary": (Shape(vocab_size=-1), "positive"),
    "no context": (Shape(context_length=0), "positive"),
    "heads that do not divide": (Shape(n_heads=3, n_kv_heads=2), "multiple of key-value heads"),
    "head size": (Shape(head_size=48), "multiple of 32"),
    "width": (Shape(width=80), "multiples of 32"),
    "inner width": (Shape(ffn_width=100), "multiples of 32"),
    "huge vocabulary": (Shape(vocab_size=2**24), "too large"),
    "endless context": (Shape(context_length=2**30 + 1), "too large"),
    "huge heads": (Shape(n_heads=2**20), "too large"),
    "huge width": (Shape(width=2**30), "too large"),
    "too many layers": (Shape(layers=[(0, 0)] * (2**16 + 1)), "too large"),
    "negative window": (Shape(layers=[(-1, 0)]), "window"),
    "rotary that is not there": (Shape(layers=[(0, 1)]), "rotary embedding that is not there"),
    "rotary below none": (Shape(layers=[(0, -2)]), "rotary embedding that is not there"),
    "epsilon": (Shape(norm_epsilon=NAN), "epsilon"),
    "negative epsilon": (Shape(norm_epsilon=-1e-5), "epsilon"),
    "score scale": (Shape(score_scale=0.0), "score scale"),
    "score cap": (Shape(score_softcap=-1.0), "score soft cap"),
    "logit cap": (Shape(logit_softcap=INFINITY), "logit soft cap"),
    "embedding scale": (Shape(embedding_scale=NAN), "embedding scale"),
    "residual scale": (Shape(residual_scale=-1.0), "residual scale"),
    "logit scale": (Shape(logit_scale=0.0), "logit scale"),
    "unknown activation": (Shape(activation="relu"), "unknown activation 'relu'"),
    "unknown norms": (Shape(qk_norm="column"), "unknown qk_norm 'column'"),
}


@pytest.mark.parametrize(("shape", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_shapes_that_the_kernels_cannot_run(shape: Shape, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (Options(n_threads=0), "positive"),
        (Options(kv_blocks=0), "positive"),
        (Options(max_step_tokens=0), "positive"),
        (Options(max_step_seqs=0), "positive"),
        (Options(max_step_tokens=2**21), "too large"),
        (Options(isa="z80"), "z80"),
        (Options(rotary=([1.0] * 17, 1.0)), "more pairs than a head"),
        (Options(rotary=([float("inf")], 1.0)), "frequencies must be finite"),
        (Options(rotary=([1.0], 0.0)), "magnitude"),
        (Options(experts=(0, 0, False)), "at least one expert"),
        (Options(experts=(4, 5, False)), "no more than there are"),
        (Options(experts=(2**20, 1, False)), "too large"),
    ],
    ids=str,
)
def test_options_that_cannot_be_had(changes: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(**changes)


def test_memory_that_cannot_be_had() -> None:
    for n_layers, n_heads in ((1024, 1), (2**16, 2**18)):
        shape = Shape(layers=[(0, 0)] * n_layers, n_heads=n_heads, n_kv_heads=n_heads)
        with pytest.raises(MemoryError):
            make_model(shape, kv_blocks=2**31 - 1)


def test_memory_does_not_grow_with_the_context() -> None:
    contexts = (CONTEXT, 2**30)
    assert len({make_model(Shape(context_length=context)).step_bytes for context in contexts}) == 1


def test_weights_that_do_not_fit() -> None:
    empty = make_model()
    data = matrix(*MATRICES["gate"])
    with pytest.raises(ValueError, match="no matrix 'gates'"):
        empty.set_matrix("gates", 0, "Q4_1", data, False)
    with pytest.raises(ValueError, match="unknown tensor type"):
        empty.set_matrix("gate", 0, "Q8_K", data, False)
    for size in (0, len(data) - 1, len(data) // 2):
        with pytest.raises(ValueError, match="expected 3840 bytes of Q4_1, got"):
            empty.set_matrix("gate", 0, "Q4_1", data[:size], False)
    for layer in (-1, 1):
        with pytest.raises(ValueError, match="out of range"):
            empty.set_matrix("gate", layer, "Q4_1", data, False)
        with pytest.raises(ValueError, match="out of range"):
            empty.set_vector("ffn_norm", layer, np.ones(WIDTH, np.float32), False)
    with pytest.raises(ValueError, match="no vector 'norm'"):
        empty.set_vector("norm", 0, np.ones(WIDTH, np.float32), False)
    with pytest.raises(ValueError, match="expected 64 values, got 63"):
        empty.set_vector("ffn_norm", 0, np.ones(WIDTH - 1, np.float32), False)


@pytest.mark.parametrize("name", sorted(ALL_VECTORS.keys() - VECTORS.keys()))
def test_vectors_that_the_shape_does_not_have(name: str) -> None:
    with pytest.raises(ValueError, match=f"no vector '{name}'"):
        make_model().set_vector(name, 0, np.ones(ALL_VECTORS[name], np.float32), False)


@pytest.mark.parametrize("name", ["output", "router"])
def test_matrices_that_the_shape_does_not_have(name: str) -> None:
    with pytest.raises(ValueError, match=f"no matrix '{name}'"):
        make_model().set_matrix(name, 0, "Q4_1", matrix(*ALL_MATRICES[name]), False)
