"""The model families of Hugging Face folders, as data.

Sources: the configuration and modelling files of `transformers` 4 and 5. Keys are those of ``config.json``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stoker.models.config import Activation

Json = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
"""Whatever a ``config.json`` holds."""

Windows = Literal["none", "all", "late", "alternate", "without_rope"]
"""Which layers have a sliding window where ``layer_types`` does not say:

``all``; ``late``: those from ``max_window_layers`` on if ``use_sliding_window``; ``alternate``: all but each
`Family.window_period`-th; ``without_rope``: those without positions, if ``use_sliding_window``.
"""

FeedForward = Literal["dense", "fused", "mixtral", "qwen_moe", "gpt_oss"]
"""How a layer's feed-forward matrices are stored: gate, up and down; gate and up in one; or experts."""

_SIZES = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "rms_norm_eps",
}
_ROPE = {"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What is the same in all models of one ``model_type``.

    Attributes:
        model_type: ``model_type``.
        classes: Names that ``architectures`` may hold.
        architecture: GGUF's name of it.
        defaults: What `transformers` takes for keys that are left out; a key that is read and not here must
            be there.
        fixed: Keys of which one value alone is computed.
        activation: See `ModelConfig`.
        norms: Norms before attention and feed-forward, after them, or both.
        gemma_norms: Norms are stored without the 1 that is added to them.
        qk_norm: See `ModelConfig`.
        qkv_bias: Query, key and value products have a bias; None for as ``attention_bias`` says.
        output_bias: The attention's output product has one; None likewise.
        fused_qkv: Query, key and value matrices are stored as one.
        feed_forward: How the feed-forward network is stored.
        windows: Which layers have a sliding window.
        window_period: Used by ``alternate``.
        local_theta: Base of the rotary embedding of layers with a window, where they have their own.
    """

    model_type: str
    classes: tuple[str, ...]
    architecture: str
    defaults: Mapping[str, Json] = field(default_factory=dict)
    fixed: Mapping[str, Json] = field(default_factory=dict)
    activation: Activation = "silu"
    norms: Literal["pre", "post", "both"] = "pre"
    gemma_norms: bool = False
    qk_norm: Literal["none", "head", "row"] = "none"
    qkv_bias: bool | None = None
    output_bias: bool | None = None
    fused_qkv: bool = False
    feed_forward: FeedForward = "dense"
    windows: Windows = "none"
    window_period: int = 0
    local_theta: float | None = None

    @property
    def keys(self) -> frozenset[str]:
        """Every key that is read."""
        return frozenset({*_SIZES, *_ROPE, *self.defaults, *self.fixed})


_LLAMA: dict[str, Json] = {
    "num_key_value_heads": None,
    "head_dim": None,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "rope_theta": 10_000.0,
    "hidden_act": "silu",
}
_SILU: dict[str, Json] = {"hidden_act": "silu"}
_NO_MLP_BIAS: dict[str, Json] = {"mlp_bias": False}
_WINDOWS: dict[str, Json] = {"sliding_window": None, "layer_types": None}
_LATE: dict[str, Json] = {"use_sliding_window": False, "max_window_layers": 28} | _WINDOWS
_GEMMA: dict[str, Json] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_act": "gelu_pytorch_tanh",
    "use_bidirectional_attention": None,
}
_GEMMA_FIXED: dict[str, Json] = {
    "hidden_activation": "gelu_pytorch_tanh",
    "use_bidirectional_attention": False,
}
_ALL = (
    Family(
        model_type="llama",
        classes=("LlamaForCausalLM",),
        architecture="llama",
        defaults=_LLAMA | _NO_MLP_BIAS,
        fixed=_SILU | _NO_MLP_BIAS,
    ),
    Family(
        model_type="mistral",
        classes=("MistralForCausalLM",),
        architecture="llama",
        defaults=_LLAMA | {"num_key_value_heads": 8, "sliding_window": 4096},
        fixed=_SILU,
        qkv_bias=False,
        output_bias=False,
        windows="all",
    ),
    Family(
        model_type="qwen2",
        classes=("Qwen2ForCausalLM",),
        architecture="qwen2",
        defaults=_LLAMA | {"num_key_value_heads": 32} | _LATE,
        fixed=_SILU,
        qkv_bias=True,
        output_bias=False,
        windows="late",
    ),
    Family(
        model_type="qwen3",
        classes=("Qwen3ForCausalLM",),
        architecture="qwen3",
        defaults=_LLAMA | {"num_key_value_heads": 32, "head_dim": 128} | _LATE,
        fixed=_SILU,
        qk_norm="head",
        windows="late",
    ),
    Family(
        model_type="gemma2",
        classes=("Gemma2ForCausalLM",),
        architecture="gemma2",
        defaults=_GEMMA
        | {"rope_theta": 10_000.0, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        fixed=_GEMMA_FIXED,
        activation="gelu_tanh",
        norms="both",
        gemma_norms=True,
        windows="alternate",
        window_period=2,
    ),
    Family(
        model_type="gemma3_text",
        classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        architecture="gemma3",
        defaults=_GEMMA
        | {
            "vocab_size": 262_208,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "max_position_embeddings": 131_072,
            "rope_theta": 1_000_000.0,
            "rope_local_base_freq": 10_000.0,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "sliding_window_pattern": 6,
        },
        fixed=_GEMMA_FIXED,
        activation="gelu_tanh",
        norms="both",
        gemma_norms=True,
        qk_norm="head",
        windows="alternate",
        window_period=6,
        local_theta=10_000.0,
    ),
    Family(
        model_type="phi3",
        classes=("Phi3ForCausalLM",),
        architecture="phi3",
        defaults=_LLAMA
        | {
            "sliding_window": None,
            "original_max_position_embeddings": 4096,
            "full_attn_mod": 1,
            "interpolate_factor": 1,
        },
        fixed=_SILU | {"attention_bias": False, "full_attn_mod": 1, "interpolate_factor": 1},
        fused_qkv=True,
        feed_forward="fused",
        windows="all",
    ),
    Family(
        model_type="granite",
        classes=("GraniteForCausalLM",),
        architecture="granite",
        defaults=_LLAMA
        | _NO_MLP_BIAS
        | {
            "embedding_multiplier": 1.0,
            "logits_scaling": 1.0,
            "residual_multiplier": 1.0,
            "attention_multiplier": 1.0,
        },
        fixed=_SILU | _NO_MLP_BIAS,
    ),
    Family(
        model_type="olmo2",
        classes=("Olmo2ForCausalLM",),
        architecture="olmo2",
        defaults=_LLAMA | {"rms_norm_eps": 1e-5},
        fixed=_SILU,
        norms="post",
        qk_norm="row",
    ),
    Family(
        model_type="smollm3",
        classes=("SmolLM3ForCausalLM",),
        architecture="smollm3",
        defaults=_LLAMA
        | _NO_MLP_BIAS
        | _WINDOWS
        | {
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
            "rope_theta": 2_000_000.0,
            "use_sliding_window": False,
            "max_window_layers": 28,
            "no_rope_layers": None,
            "no_rope_layer_interval": 4,
        },
        fixed=_SILU | _NO_MLP_BIAS,
        windows="without_rope",
    ),
    Family(
        model_type="mixtral",
        classes=("MixtralForCausalLM",),
        architecture="llama",
        defaults=_LLAMA
        | {
            "num_key_value_heads": 8,
            "rope_theta": 1_000_000.0,
            "sliding_window": None,
            "num_experts_per_tok": 2,
            "num_local_experts": 8,
        },
        fixed=_SILU,
        qkv_bias=False,
        output_bias=False,
        feed_forward="mixtral",
        windows="all",
    ),
    Family(
        model_type="qwen3_moe",
        classes=("Qwen3MoeForCausalLM",),
        architecture="qwen3moe",
        defaults=_LLAMA
        | {
            "num_key_value_heads": 4,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "max_window_layers": 28,
            "decoder_sparse_step": 1,
            "moe_intermediate_size": 768,
            "num_experts_per_tok": 8,
            "num_experts": None,
            "num_local_experts": None,
            "norm_topk_prob": False,
            "mlp_only_layers": None,
        },
        fixed=_SILU | {"decoder_sparse_step": 1, "mlp_only_layers": []},
        qk_norm="head",
        feed_forward="qwen_moe",
        windows="all",
    ),
    Family(
        model_type="gpt_oss",
        classes=("GptOssForCausalLM",),
        architecture="gpt-oss",
        defaults=_LLAMA
        | _WINDOWS
        | {
            "num_key_value_heads": 8,
            "head_dim": 64,
            "attention_bias": True,
            "rope_theta": 150_000.0,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
            "sliding_window": 128,
            "num_experts_per_tok": 4,
            "experts_per_token": 4,
            "num_local_experts": 128,
            "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
            "initial_context_length": 4096,
        },
        fixed=_SILU | {"attention_bias": True, "swiglu_alpha": 1.702, "swiglu_limit": 7.0},
        activation="clamped_swiglu",
        feed_forward="gpt_oss",
        windows="alternate",
        window_period=2,
    ),
)

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _ALL}
"""By ``model_type``."""

WRAPPERS: Mapping[str, str] = {"gemma3": "gemma3_text"}
"""Models that see, whose ``text_config`` is a model of a family: what its ``model_type`` is if unsaid."""
