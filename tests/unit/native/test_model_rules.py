"""What a native model refuses to be: wrong shapes, options and weights, and missing ones."""

import numpy as np
import pytest

from stoker.testing.native_models import (
    ALL_MATRICES,
    ALL_VECTORS,
    CONTEXT,
    EVERYTHING,
    EXPERTS,
    MATRICES,
    VECTORS,
    WIDTH,
    Batch,
    Options,
    Shape,
    fill,
    make_model,
    matrix,
)


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
