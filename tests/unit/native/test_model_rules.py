"""What a native model refuses: wrong shapes, incomplete weights, and batches that break the rules."""

from collections.abc import Callable
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
    "q": (64, WIDTH),
    "k": (32, WIDTH),
    "v": (32, WIDTH),
    "o": (WIDTH, 64),
    "gate": (FFN_WIDTH, WIDTH),
    "up": (FFN_WIDTH, WIDTH),
    "down": (WIDTH, FFN_WIDTH),
}


class Shape(TypedDict, total=False):
    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    ffn_width: int
    vocab_size: int
    context_length: int
    isa: str
    n_threads: int
    kv_blocks: int
    max_step_tokens: int
    max_step_seqs: int


def make_model(**changes: Unpack[Shape]) -> _native.Model:
    shape = Shape(
        n_layers=1,
        width=WIDTH,
        n_heads=2,
        n_kv_heads=1,
        head_size=32,
        ffn_width=FFN_WIDTH,
        vocab_size=VOCAB_SIZE,
        context_length=CONTEXT,
        isa="auto",
        n_threads=1,
        kv_blocks=KV_BLOCKS,
        max_step_tokens=STEP_TOKENS,
        max_step_seqs=STEP_SEQS,
    )
    shape |= changes
    return _native.Model(
        **shape,
        frequencies=rope_frequencies(10_000.0, max(0, shape["head_size"])),
        norm_epsilon=1e-5,
        float_path=False,
    )


def matrix(rows: int, columns: int, dtype: str = "Q4_1") -> NDArray[np.uint8]:
    values = np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32)
    return np.frombuffer(encode_blocks(values, dtype), np.uint8)


def fill(model: _native.Model, *, leave_out: str = "") -> None:
    ones = np.ones(WIDTH, np.float32)
    setters: dict[str, Callable[[], None]] = {
        "embedding": lambda: model.set_matrix("embedding", 0, "Q4_1", matrix(VOCAB_SIZE, WIDTH), False),
        "output_norm": lambda: model.set_norm("output_norm", 0, ones),
        "attn_norm": lambda: model.set_norm("attn_norm", 0, ones),
        "ffn_norm": lambda: model.set_norm("ffn_norm", 0, ones),
    }
    for name, setter in setters.items():
        if name != leave_out:
            setter()
    for name, (rows, columns) in MATRICES.items():
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


@pytest.mark.parametrize("name", ["embedding", "output_norm", "attn_norm", "ffn_norm", *MATRICES])
def test_an_incomplete_model(name: str) -> None:
    incomplete = make_model()
    fill(incomplete, leave_out=name)
    with pytest.raises(ValueError, match=r"missing|incomplete"):
        incomplete.finish()
    with pytest.raises(ValueError, match="finish"):
        Batch().forward(incomplete)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (Shape(n_layers=0), "positive"),
        (Shape(vocab_size=-1), "positive"),
        (Shape(context_length=0), "positive"),
        (Shape(n_heads=3, n_kv_heads=2), "multiple of key-value heads"),
        (Shape(head_size=48), "multiple of 32"),
        (Shape(width=80), "multiples of 32"),
        (Shape(ffn_width=100), "multiples of 32"),
        (Shape(n_threads=0), "positive"),
        (Shape(kv_blocks=0), "positive"),
        (Shape(max_step_tokens=0), "positive"),
        (Shape(max_step_seqs=0), "positive"),
        (Shape(isa="z80"), "z80"),
    ],
    ids=str,
)
def test_shapes_that_the_kernels_cannot_run(changes: Shape, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(**changes)


def test_memory_that_cannot_be_had() -> None:
    with pytest.raises(MemoryError):
        make_model(kv_blocks=2**31 - 1, n_layers=1024)


def test_weights_that_do_not_fit() -> None:
    empty = make_model()
    data = matrix(*MATRICES["gate"])
    with pytest.raises(ValueError, match="unknown matrix"):
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
            empty.set_norm("ffn_norm", layer, np.ones(WIDTH, np.float32))
    with pytest.raises(ValueError, match="unknown norm"):
        empty.set_norm("norm", 0, np.ones(WIDTH, np.float32))
    with pytest.raises(ValueError, match="expected 64 values, got 63"):
        empty.set_norm("ffn_norm", 0, np.ones(WIDTH - 1, np.float32))
