"""What the architectures differ in, as data.

The facts are those of the published models (`transformers`' modelling code) and of GGUF's converter, which
says what of them a file states and what it leaves to be known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from stoker.models.config import Activation

Renames = Mapping[str, str]
Cuts = Mapping[str, tuple[str, ...]]

_NONE: Mapping[str, str] = MappingProxyType({})
_NO_CUTS: Cuts = MappingProxyType({})
_NO_VALUES: Mapping[str, bool] = MappingProxyType({})
_NO_CAPS: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Which layers see only the last tokens, when the file states a window.

    Attributes:
        full_every: Of this many layers the last sees everything; None when no layer does. A file may say
            otherwise (``attention.sliding_window_pattern``).
        size: The window of a file that does not state one; 0 for none, None when it must.
        base: Rotary base of windowed layers, unless the file says another; None for that of the others.
        scaled: Whether what stretches the rotary embedding of the others stretches theirs too.
    """

    full_every: int | None
    size: int | None = 0
    base: float | None = None
    scaled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture. What is not said of it here is as in ``llama``.

    Attributes:
        rope_pairs: As in `ModelConfig`; ``adjacent`` where the converter permutes query and key rows.
        activation, pre_norms, post_norms, qk_norm, qkv_bias, attention_output_bias, sinks: As there.
        windows: Which layers have a window; None when no model of the family has one.
        rope_tensors: Tensors of frequency factors that a file may have.
        no_rope_every: Every so many layers one has no positions.
        yarn_truncate: As in `yarn_frequencies`.
        experts: Whether the feed-forward network is made of experts: never, always, or when the file
            counts some.
        expert_biases: As `Experts.biases`.
        scales: The file may scale embeddings, what layers add, scores and logits.
        softcaps: Soft caps that a file may state, by key, and what is meant when it does not; 0 for none.
        scaled_embeddings: Embeddings are scaled by the root of the width, rounded to bf16 as the
            published weights are.
        wide_heads: Numbers of layers of those models whose scores are scaled by the root of
            ``width / n_heads`` and not of the head's size; files do not say.
        must_be: Values that keys must have if they are there.
        renamed: Names that a file gives to tensors of a layer, and those of `expected_shapes`.
        fused: Matrices of a layer whose rows are those of several, first to last.
    """

    rope_pairs: Literal["adjacent", "halves"]
    activation: Activation = "silu"
    pre_norms: bool = True
    post_norms: bool = False
    qk_norm: Literal["none", "head", "row"] = "none"
    qkv_bias: bool = False
    attention_output_bias: bool = False
    sinks: bool = False
    windows: Windows | None = None
    rope_tensors: frozenset[str] = frozenset()
    no_rope_every: int | None = None
    yarn_truncate: bool = True
    experts: Literal["never", "counted", "always"] = "never"
    expert_biases: bool = False
    scales: bool = False
    softcaps: Mapping[str, float] = field(default_factory=lambda: _NO_CAPS)
    scaled_embeddings: bool = False
    wide_heads: frozenset[int] = frozenset()
    must_be: Mapping[str, bool] = field(default_factory=lambda: _NO_VALUES)
    renamed: Renames = field(default_factory=lambda: _NONE)
    fused: Cuts = field(default_factory=lambda: _NO_CUTS)


ROPE_FACTORS = "rope_freqs.weight"
"""Frequencies are divided by these; Llama 3's way to stretch, worked out by the converter."""

LONG_FACTORS, SHORT_FACTORS = "rope_factors_long.weight", "rope_factors_short.weight"
"""LongRoPE's lists, for a served context longer than the original one, and for any other."""

_LLAMA = Family(
    rope_pairs="adjacent",
    windows=Windows(full_every=None),
    rope_tensors=frozenset({ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS}),
    experts="counted",
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": _LLAMA,  # Llama 2 and 3, Mistral, Mixtral, SmolLM2
        "mistral3": _LLAMA,  # Mistral Small 3
        "qwen2": Family(rope_pairs="halves", qkv_bias=True),
        "qwen3": Family(rope_pairs="halves", qk_norm="head"),
        "qwen3moe": Family(rope_pairs="halves", qk_norm="head", experts="always"),
        "gemma2": Family(
            rope_pairs="halves",
            activation="gelu_tanh",
            post_norms=True,
            windows=Windows(full_every=2, size=4096),
            softcaps=MappingProxyType({"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
            scaled_embeddings=True,
            wide_heads=frozenset({46}),  # 27B
        ),
        "gemma3": Family(
            rope_pairs="halves",
            activation="gelu_tanh",
            post_norms=True,
            qk_norm="head",
            windows=Windows(full_every=6, base=10_000.0, scaled=False),
            softcaps=MappingProxyType({"final_logit_softcapping": 0.0}),
            scaled_embeddings=True,
            wide_heads=frozenset({62}),  # 27B
        ),
        "phi3": Family(  # Phi-3, Phi-3.5, Phi-4
            rope_pairs="halves",
            windows=Windows(full_every=None, size=None),
            rope_tensors=frozenset({LONG_FACTORS, SHORT_FACTORS}),
            fused=MappingProxyType(
                {
                    "attn_qkv.weight": ("attn_q.weight", "attn_k.weight", "attn_v.weight"),
                    "ffn_up.weight": ("ffn_gate.weight", "ffn_up.weight"),
                }
            ),
        ),
        "granite": Family(
            rope_pairs="adjacent",
            rope_tensors=frozenset({ROPE_FACTORS}),
            scales=True,
            must_be=MappingProxyType({"rope.scaling.finetuned": True}),  # false: without positions
        ),
        "olmo2": Family(  # OLMo 2 and 3
            rope_pairs="halves",
            pre_norms=False,
            post_norms=True,
            qk_norm="row",
            windows=Windows(full_every=4, scaled=False),
        ),
        "smollm3": Family(rope_pairs="adjacent", no_rope_every=4),
        "gpt-oss": Family(
            rope_pairs="halves",
            activation="clamped_swiglu",
            qkv_bias=True,
            attention_output_bias=True,
            sinks=True,
            windows=Windows(full_every=2, size=None),
            yarn_truncate=False,
            experts="always",
            expert_biases=True,
            renamed=MappingProxyType({"post_attention_norm.weight": "ffn_norm.weight"}),
        ),
    }
)
"""The architectures that Stoker runs, by GGUF's name."""
