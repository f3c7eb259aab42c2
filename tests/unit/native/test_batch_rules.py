"""What a native model refuses to compute: batches that break the rules."""

import pytest

from stoker import _native
from stoker.testing.native_models import (
    KV_BLOCKS,
    STEP_SEQS,
    STEP_TOKENS,
    VOCAB_SIZE,
    Batch,
    fill,
    make_model,
)


@pytest.fixture(scope="module")
def model() -> _native.Model:
    filled = make_model()
    fill(filled)
    filled.finish()
    return filled


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
