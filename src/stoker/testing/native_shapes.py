"""Shapes of models that between them have every part of a `ModelConfig`, and an engine to run them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models.config import Activation, Experts, LayerConfig, ModelConfig, Rotary, WeightSource
from stoker.models.rope import rope_frequencies

T = TypeVar("T")

VOCAB_SIZE = 75
CONTEXT = 704
"""More than a piece of 512 keys."""

PLAIN = ModelConfig(
    architecture="llama",
    layers=(LayerConfig(), LayerConfig()),
    width=64,
    n_heads=4,
    n_kv_heads=2,
    head_size=32,
    ffn_width=96,
    vocab_size=VOCAB_SIZE,
    context_length=CONTEXT,
    rotaries=(Rotary(frequencies=rope_frequencies(10_000.0, 32)),),
    rope_pairs="adjacent",
    norm_epsilon=1e-5,
    tied_embeddings=True,
)


def random_config(seed: int) -> ModelConfig:
    """Draw every part of a shape, small; the same seed gives the same shape."""
    random = np.random.default_rng(seed)

    def chance(share: float) -> bool:
        return bool(random.random() < share)

    def pick(*values: T) -> T:
        return values[int(random.integers(len(values)))]

    head_size = pick(32, 32, 64, 96)
    n_kv_heads = pick(1, 2)
    rotaries = tuple(_rotary(random, head_size) for _ in range(pick(1, 2)))
    layers = tuple(
        LayerConfig(
            window=pick(None, 1, 5, 24, 100, 2 * CONTEXT), rotary=pick(None, *range(len(rotaries)), 0)
        )
        for _ in range(pick(1, 2, 3))
    )
    qk_norm: Literal["none", "head", "row"] = pick("none", "head", "row")
    rope_pairs: Literal["adjacent", "halves"] = pick("adjacent", "halves")
    activation: Activation = pick("silu", "gelu_tanh", "clamped_swiglu")
    n_experts = pick(3, 8, 20)
    return ModelConfig(
        architecture="random",
        layers=layers,
        width=32 * pick(1, 2, 3),
        n_heads=n_kv_heads * pick(1, 2, 3),
        n_kv_heads=n_kv_heads,
        head_size=head_size,
        ffn_width=32 * pick(1, 2, 4),
        vocab_size=VOCAB_SIZE,
        context_length=CONTEXT,
        rotaries=rotaries,
        rope_pairs=rope_pairs,
        norm_epsilon=pick(1e-5, 1e-6),
        tied_embeddings=chance(0.5),
        activation=activation,
        pre_norms=(pre_norms := chance(0.7)),
        post_norms=not pre_norms or chance(0.5),
        qk_norm=qk_norm,
        qkv_bias=chance(0.5),
        attention_output_bias=chance(0.5),
        sinks=chance(0.5),
        score_scale=pick(None, 0.1, 0.3),
        score_softcap=pick(None, 2.0, 50.0),
        logit_softcap=pick(None, 3.0, 30.0),
        embedding_scale=pick(1.0, 8.0),
        residual_scale=pick(1.0, 0.25),
        logit_scale=pick(1.0, 0.125, 2.0),
        experts=Experts(
            n_experts=n_experts,
            n_used=pick(1, 2, 3),
            normalized=chance(0.5),
            biases=chance(0.5),
        )
        if chance(0.5)
        else None,
    )


def _rotary(random: np.random.Generator, head_size: int) -> Rotary:
    frequencies = rope_frequencies(float(random.choice([100.0, 10_000.0])), head_size)
    n_pairs = int(random.choice([1, 5, 16, len(frequencies), len(frequencies)]))
    return Rotary(
        frequencies=frequencies[:n_pairs],
        long_frequencies=rope_frequencies(500.0, head_size)[:n_pairs] if random.integers(2) else None,
        original_context=int(random.choice([64, 4 * CONTEXT])),
        magnitude=float(random.choice([1.0, 1.25])),
    )


RANDOM = {f"random {seed}": random_config(seed) for seed in range(24)}

FAR = {
    "windows that cross pieces": replace(
        PLAIN, layers=(LayerConfig(window=100), LayerConfig(window=530), LayerConfig())
    ),
    "sinks behind windows": replace(PLAIN, layers=(LayerConfig(window=70), LayerConfig()), sinks=True),
    "capped scores": replace(PLAIN, score_softcap=4.0),
}
"""Shapes to be run over more than a piece of keys."""


def load(
    source: WeightSource,
    isa: str = "auto",
    *,
    kv_type: str = "auto",
    threads: int = 1,
    float_path: bool = False,
) -> NativeEngine:
    """Load a model for steps of 256 tokens of at most four sequences."""
    settings = NativeEngineSettings(
        threads=threads,
        isa=isa,
        kv_type=kv_type,
        kv_memory_bytes=64 << 20,
        context_length=CONTEXT,
        max_running=4,
        step_tokens=256,
        float_path=float_path,
    )
    return load_engine(source, settings)


Run = tuple[Sequence[int], int, list[int]]
"""Tokens, the first one's position, and the sequence's block table."""


def step(engine: NativeEngine, runs: Sequence[Run]) -> list[NDArray[np.float32]]:
    """Logits of each run of one step."""
    plan = StepPlan(
        request_ids=[str(index) for index in range(len(runs))],
        tokens=[list(tokens) for tokens, _, _ in runs],
        first_positions=[first for _, first, _ in runs],
        block_tables=[table for _, _, table in runs],
        samples=[False] * len(runs),
    )
    ends = np.cumsum([len(tokens) for tokens, _, _ in runs])
    return np.split(engine.logits(plan), ends[:-1])


def scattered_tables(lengths: Sequence[int], n_blocks: int) -> list[list[int]]:
    """A block table for each sequence, in disorder and mixed with the others'."""
    blocks = np.random.default_rng(n_blocks).permutation(n_blocks).tolist()
    tables = []
    for length in lengths:
        n = -(-length // BLOCK_TOKENS)
        tables.append(blocks[:n])
        blocks = blocks[n:]
    return tables


def chunked(engine: NativeEngine, tokens: Sequence[int], sizes: Sequence[int]) -> NDArray[np.float32]:
    """Logits of one sequence that is computed in chunks of these sizes, over and over."""
    (table,) = scattered_tables([len(tokens)], engine.kv_blocks)
    chunks, first, turn = [], 0, 0
    while first < len(tokens):
        last = min(len(tokens), first + sizes[turn % len(sizes)])
        chunks += step(engine, [(tokens[first:last], first, table)])
        first, turn = last, turn + 1
    return np.concatenate(chunks)
