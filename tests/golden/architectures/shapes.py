"""The tiny models: a ``config.json`` of each family in the spelling of its published folders.

Widths are as small as Stoker's groups of 32 weights allow. Windows, the contexts that rotary scaling
starts from and soft caps are so small that 70 tokens reach them.
"""

from dataclasses import dataclass, field
from typing import Any

VOCAB_SIZE = 275
"""Tokens of the tokenizer; `PADDED` rounds the embedding matrix up, as some families do."""

PADDED = 288
BOS, EOS = 1, 2

COMMON: dict[str, Any] = {
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.0",
    "use_cache": True,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model.

    Attributes:
        config: What its ``config.json`` has, apart from `COMMON`.
        absent: What of `COMMON` it does not have.
        gguf_type: Type of the GGUF file's matrices, as the converters' ``--outtype``; None for no file.
        gguf_config: Where the GGUF file says something else than ``config.json``.
        n_short: Also golden logits of the first so many tokens alone.
        n_files: Safetensors files.
    """

    config: dict[str, Any] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    gguf_type: str | None = "Q8_0"
    gguf_config: dict[str, Any] = field(default_factory=dict)
    n_short: int = 0
    n_files: int = 1

    def config_json(self) -> dict[str, Any]:
        """The whole ``config.json``."""
        merged = COMMON | self.config
        return {key: merged[key] for key in sorted(merged) if key not in self.absent}


GPT_OSS = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "attention_bias": True,
    "experts_per_token": 2,
    "head_dim": 32,
    "initial_context_length": 32,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "output_router_logits": False,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 8.0,
        "original_max_position_embeddings": 32,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150_000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 24,
    "swiglu_limit": 7.0,
}

CASES = {
    "llama-2": Case(
        config={
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "head_dim": 32,
            "hidden_size": 32,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            "pretraining_tp": 1,
            "rope_scaling": None,
            "torch_dtype": "float16",
        },
        gguf_type="F16",
    ),
    "llama-3": Case(
        config={
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "mlp_bias": False,
            "head_dim": 32,
            "rope_theta": 500_000.0,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 40,
                "rope_type": "llama3",
            },
            "eos_token_id": [0, 2],
            "tie_word_embeddings": True,
        },
        gguf_type="BF16",
    ),
    "mistral": Case(
        config={
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "head_dim": 32,
            "hidden_size": 32,
            "sliding_window": 24,
        },
        # The converters' files of this family do not tell a window.
        gguf_config={"sliding_window": None},
    ),
    "qwen2": Case(
        config={
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "max_window_layers": 2,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "sliding_window": 32,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "vocab_size": PADDED,
        },
        gguf_type="Q4_0",
    ),
    "qwen3": Case(
        config={
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "head_dim": 32,
            "layer_types": ["full_attention", "full_attention"],
            "max_window_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            # As later versions of `transformers` spell it.
            "rope_parameters": {"rope_theta": 1_000_000, "rope_type": "default"},
            "dtype": "bfloat16",
            "sliding_window": None,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
        },
        absent=("rope_theta", "torch_dtype"),
    ),
    "gemma-2": Case(
        config={
            "architectures": ["Gemma2ForCausalLM"],
            "model_type": "gemma2",
            "attention_bias": False,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 8.0,
            "head_dim": 32,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 32,
            "rms_norm_eps": 1e-6,
            "sliding_window": 24,
        },
        absent=("tie_word_embeddings",),
    ),
    "gemma-3": Case(
        config={
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "attention_bias": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "head_dim": 32,
            "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 6,
            "query_pre_attn_scalar": 32,
            "rms_norm_eps": 1e-6,
            "rope_local_base_freq": 10_000,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "rope_theta": 1_000_000,
            "sliding_window": 24,
            "sliding_window_pattern": 6,
        },
        absent=("hidden_act", "tie_word_embeddings"),
    ),
    "phi-3": Case(
        config={
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "num_key_value_heads": 2,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "original_max_position_embeddings": 256,
            "pad_token_id": 0,
            "rope_scaling": None,
            "sliding_window": 24,
        },
    ),
    "phi-4-mini": Case(
        config={
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            "attention_bias": False,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "original_max_position_embeddings": 32,
            "pad_token_id": 0,
            "partial_rotary_factor": 0.75,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.2, 2.5, 2.7, 3.0],
                "long_factor": [1.0, 1.1, 1.3, 1.7, 2.2, 3.0, 4.0, 5.5, 8.0, 11.0, 14.0, 16.0],
            },
            "sliding_window": 256,
            "tie_word_embeddings": True,
        },
        n_short=32,
    ),
    "granite": Case(
        config={
            "architectures": ["GraniteForCausalLM"],
            "model_type": "granite",
            "attention_bias": False,
            "attention_multiplier": 0.1,
            "embedding_multiplier": 4.0,
            "logits_scaling": 2.0,
            "mlp_bias": False,
            "residual_multiplier": 0.6,
            "rope_scaling": None,
            "tie_word_embeddings": True,
        },
        gguf_type="Q4_0",
    ),
    "olmo-2": Case(
        config={
            "architectures": ["Olmo2ForCausalLM"],
            "model_type": "olmo2",
            "attention_bias": False,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "pad_token_id": 0,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 500_000,
        },
        gguf_type="Q4_0",
    ),
    "smollm3": Case(
        config={
            "architectures": ["SmolLM3ForCausalLM"],
            "model_type": "smollm3",
            "attention_bias": False,
            "head_dim": 32,
            "hidden_size": 32,
            "layer_types": ["full_attention"] * 4,
            "max_window_layers": 4,
            "mlp_bias": False,
            "no_rope_layer_interval": 4,
            "no_rope_layers": [1, 1, 1, 0],
            "num_hidden_layers": 4,
            "pad_token_id": 0,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 5_000_000.0,
            "sliding_window": None,
            "use_sliding_window": False,
        },
        absent=("tie_word_embeddings",),
    ),
    "mixtral": Case(
        config={
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            "head_dim": 32,
            "hidden_size": 32,
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
            "output_router_logits": False,
            "rope_theta": 1_000_000.0,
            "router_aux_loss_coef": 0.02,
            "sliding_window": None,
        },
        n_files=2,
    ),
    "qwen3-moe": Case(
        config={
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "attention_bias": False,
            "decoder_sparse_step": 1,
            "head_dim": 32,
            "hidden_size": 32,
            "max_window_layers": 2,
            "mlp_only_layers": [],
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "num_experts": 5,
            "num_experts_per_tok": 3,
            "output_router_logits": False,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 1_000_000.0,
            "router_aux_loss_coef": 0.001,
            "sliding_window": None,
            "use_sliding_window": False,
        },
    ),
    "gpt-oss": Case(
        config=GPT_OSS
        | {
            "quantization_config": {
                "modules_to_not_convert": [
                    "model.layers.*.self_attn",
                    "model.layers.*.mlp.router",
                    "model.embed_tokens",
                    "lm_head",
                ],
                "quant_method": "mxfp4",
            }
        },
    ),
    "gpt-oss-bf16": Case(config=GPT_OSS | {"hidden_size": 32, "num_local_experts": 3}, gguf_type=None),
}
