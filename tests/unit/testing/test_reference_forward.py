"""What the reference forward must satisfy whatever the weights, and that no part of a config is idle.

`transformers`' own logits are in ``tests/golden/architectures``.
"""

from dataclasses import replace

import numpy as np
import pytest

from stoker.models.config import Experts, LayerConfig, ModelConfig, Rotary
from stoker.models.rope import rope_frequencies
from stoker.models.tensor_layout import expected_shapes
from stoker.testing.gguf_blocks import decode_blocks
from stoker.testing.random_source import random_source
from stoker.testing.reference_forward import Doubles, ReferenceForward, seen_keys, softmax

HEAD = 32
ROTARY = Rotary(frequencies=rope_frequencies(10_000.0, HEAD))
PLAIN = ModelConfig(
    architecture="llama",
    layers=(LayerConfig(), LayerConfig()),
    width=64,
    n_heads=4,
    n_kv_heads=2,
    head_size=HEAD,
    ffn_width=96,
    vocab_size=50,
    context_length=64,
    rotaries=(ROTARY,),
    rope_pairs="halves",
    norm_epsilon=1e-5,
    tied_embeddings=True,
)
TOKENS = tuple((7 * place) % 50 for place in range(20))

DIFFERENT = {
    "window": replace(PLAIN, layers=(LayerConfig(window=5), LayerConfig())),
    "no positions": replace(PLAIN, layers=(LayerConfig(rotary=None), LayerConfig())),
    "partial rotary": replace(PLAIN, rotaries=(replace(ROTARY, frequencies=ROTARY.frequencies[:8]),)),
    "magnitude": replace(PLAIN, rotaries=(replace(ROTARY, magnitude=1.2),)),
    "long factors": replace(
        PLAIN,
        rotaries=(replace(ROTARY, long_frequencies=rope_frequencies(500.0, HEAD), original_context=32),),
    ),
    "pairs": replace(PLAIN, rope_pairs="adjacent"),
    "epsilon": replace(PLAIN, norm_epsilon=0.1),
    "untied": replace(PLAIN, tied_embeddings=False),
    "gelu": replace(PLAIN, activation="gelu_tanh"),
    "clamped": replace(PLAIN, activation="clamped_swiglu"),
    "no norms before": replace(PLAIN, pre_norms=False),
    "norms behind": replace(PLAIN, post_norms=True),
    "head norms": replace(PLAIN, qk_norm="head"),
    "row norms": replace(PLAIN, qk_norm="row"),
    "biases": replace(PLAIN, qkv_bias=True),
    "output bias": replace(PLAIN, attention_output_bias=True),
    "sinks": replace(PLAIN, sinks=True),
    "score scale": replace(PLAIN, score_scale=0.3),
    "score cap": replace(PLAIN, score_softcap=1.0),
    "logit cap": replace(PLAIN, logit_softcap=2.0),
    "embedding scale": replace(PLAIN, embedding_scale=8.0),
    "residual scale": replace(PLAIN, residual_scale=0.25),
    "logit scale": replace(PLAIN, logit_scale=0.125),
    "experts": replace(PLAIN, experts=Experts(n_experts=4, n_used=2, normalized=True)),
    "raw shares": replace(PLAIN, experts=Experts(n_experts=4, n_used=2, normalized=False)),
    "expert biases": replace(PLAIN, experts=Experts(n_experts=4, n_used=2, normalized=True, biases=True)),
}
"""Each differs from `PLAIN` in one point, and all from one another."""


WEIGHTS = {
    name: decode_blocks(tensor.data, tensor.dtype, tensor.shape).astype(np.float64)
    for name, tensor in random_source(PLAIN).tensors.items()
}


def logits_of(config: ModelConfig, tokens: tuple[int, ...] = TOKENS) -> Doubles:
    return ReferenceForward(config, random_source(config).tensors).logits(tokens)


def test_every_part_of_a_config_counts() -> None:
    results = [logits_of(config) for config in (PLAIN, *DIFFERENT.values())]
    for index, one in enumerate(results):
        assert all(np.abs(one - other).max() > 1e-3 for other in results[:index])


@pytest.mark.parametrize("config", DIFFERENT.values(), ids=DIFFERENT)
def test_later_tokens_change_nothing(config: ModelConfig) -> None:
    np.testing.assert_allclose(logits_of(config)[:9], logits_of(config, TOKENS[:9]), atol=1e-12)


def test_a_window_ends_what_a_token_depends_on() -> None:
    layers = (LayerConfig(window=3), LayerConfig(window=3))
    config = replace(PLAIN, layers=layers)
    changed = (TOKENS[0] + 1, *TOKENS[1:])
    same = np.isclose(logits_of(config), logits_of(config, changed), atol=1e-12).all(axis=1)
    # Through two layers a token reaches 2 * (3 - 1) tokens on.
    assert same.tolist() == [False] * 5 + [True] * 15


def test_what_a_query_sees() -> None:
    assert seen_keys(4, None).sum(axis=1).tolist() == [1, 2, 3, 4]
    assert seen_keys(4, 2).astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


def test_a_sink_takes_its_share() -> None:
    shares = softmax(np.zeros((2, 1, 3)), np.array([0.0, np.log(3.0)]))
    np.testing.assert_allclose(shares[:, 0], [[1 / 4] * 3, [1 / 6] * 3])


def test_permuted_rows_turn_alike() -> None:
    """A model whose pairs are neighbours is one of halves with its query and key rows permuted."""
    order = np.arange(HEAD).reshape(2, -1).T.ravel()
    halves = ReferenceForward(PLAIN, WEIGHTS)
    permuted = dict(WEIGHTS)
    for name in (f"blk.{index}.attn_{part}.weight" for index in (0, 1) for part in "qk"):
        permuted[name] = WEIGHTS[name].reshape(-1, HEAD, PLAIN.width)[:, order].reshape(-1, PLAIN.width)
    adjacent = ReferenceForward(replace(PLAIN, rope_pairs="adjacent"), permuted)
    np.testing.assert_allclose(adjacent.logits(TOKENS), halves.logits(TOKENS), atol=1e-12)


def test_equal_experts_are_one_network() -> None:
    experts = Experts(n_experts=3, n_used=2, normalized=True)
    weights = dict(WEIGHTS)
    for index in (0, 1):
        weights[f"blk.{index}.ffn_gate_inp.weight"] = np.ones((3, PLAIN.width))
        for part in ("gate", "up", "down"):
            one = WEIGHTS[f"blk.{index}.ffn_{part}.weight"]
            weights[f"blk.{index}.ffn_{part}_exps.weight"] = np.stack([one] * 3)
    mixed = ReferenceForward(replace(PLAIN, experts=experts), weights)
    np.testing.assert_allclose(mixed.logits(TOKENS), logits_of(PLAIN), atol=1e-12)
    raw = ReferenceForward(replace(PLAIN, experts=replace(experts, normalized=False)), weights)
    assert np.abs(raw.logits(TOKENS) - logits_of(PLAIN)).max() > 0.1


def test_long_frequencies_are_those_of_a_long_served_context() -> None:
    config = DIFFERENT["long factors"]
    short = ReferenceForward(config, WEIGHTS, context_length=32).logits(TOKENS)
    np.testing.assert_array_equal(short, logits_of(PLAIN))
    assert np.abs(ReferenceForward(config, WEIGHTS, context_length=33).logits(TOKENS) - short).max() > 1e-3


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "MXFP4"])
@pytest.mark.parametrize("name", ["sinks", "expert biases", "norms behind", "row norms"])
def test_random_weights_are_those_that_a_config_needs(dtype: str, name: str) -> None:
    config = replace(DIFFERENT[name], layers=(LayerConfig(),))
    source = random_source(config, 3, dtype=dtype)
    assert {tensor.name: tensor.shape for tensor in source.tensors.values()} == expected_shapes(config)
    logits = ReferenceForward(source.config, source.tensors).logits(TOKENS)
    assert 1 < logits.std() < 4
    assert source.digest != random_source(config, 4, dtype=dtype).digest
    again = random_source(config, 3, dtype=dtype)
    assert all(again.tensors[key].data == tensor.data for key, tensor in source.tensors.items())
