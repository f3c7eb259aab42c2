"""Tiny random GGUF files of every architecture, with the keys and the tensor names of real ones.

Written from GGUF's converter and real files; shares nothing with the reader it tests.
"""

from collections.abc import Mapping

import numpy as np

from stoker.testing.gguf_files import (
    TINY_VOCAB_SIZE,
    Encoded,
    MetadataValue,
    StoredTensor,
    encode_gguf,
    stored,
    tiny_tokenizer,
)

WIDTH, N_HEADS, N_KV_HEADS, HEAD_SIZE = 128, 4, 2, 32
FFN_WIDTH, EXPERT_WIDTH, N_EXPERTS = 96, 64, 4
CONTEXT_LENGTH = 512

Shape = tuple[int, ...]

_KV_WIDTH = N_KV_HEADS * HEAD_SIZE
_QKV: dict[str, Shape] = {
    "attn_q.weight": (WIDTH, WIDTH),
    "attn_k.weight": (_KV_WIDTH, WIDTH),
    "attn_v.weight": (_KV_WIDTH, WIDTH),
    "attn_output.weight": (WIDTH, WIDTH),
}
_QKV_BIASES: dict[str, Shape] = {
    "attn_q.bias": (WIDTH,),
    "attn_k.bias": (_KV_WIDTH,),
    "attn_v.bias": (_KV_WIDTH,),
}
_HEAD_NORMS: dict[str, Shape] = {"attn_q_norm.weight": (HEAD_SIZE,), "attn_k_norm.weight": (HEAD_SIZE,)}
_PRE_NORMS: dict[str, Shape] = {"attn_norm.weight": (WIDTH,), "ffn_norm.weight": (WIDTH,)}
_POST_NORMS: dict[str, Shape] = {"post_attention_norm.weight": (WIDTH,), "post_ffw_norm.weight": (WIDTH,)}
_FFN: dict[str, Shape] = {
    "ffn_gate.weight": (FFN_WIDTH, WIDTH),
    "ffn_up.weight": (FFN_WIDTH, WIDTH),
    "ffn_down.weight": (WIDTH, FFN_WIDTH),
}


def _experts(inner: int) -> dict[str, Shape]:
    return {
        "ffn_gate_inp.weight": (N_EXPERTS, WIDTH),
        "ffn_gate_exps.weight": (N_EXPERTS, inner, WIDTH),
        "ffn_up_exps.weight": (N_EXPERTS, inner, WIDTH),
        "ffn_down_exps.weight": (N_EXPERTS, WIDTH, inner),
    }


_LLAMA = _PRE_NORMS | _QKV | _FFN
LAYER_TENSORS: Mapping[str, Mapping[str, Shape]] = {
    "llama": _LLAMA,
    "mistral3": _LLAMA,
    "qwen2": _LLAMA | _QKV_BIASES,
    "qwen3": _LLAMA | _HEAD_NORMS,
    "qwen3moe": _PRE_NORMS | _QKV | _HEAD_NORMS | _experts(EXPERT_WIDTH),
    "gemma2": _LLAMA | _POST_NORMS,
    "gemma3": _LLAMA | _POST_NORMS | _HEAD_NORMS,
    "phi3": _PRE_NORMS
    | {
        "attn_qkv.weight": (WIDTH + 2 * _KV_WIDTH, WIDTH),
        "attn_output.weight": (WIDTH, WIDTH),
        "ffn_up.weight": (2 * FFN_WIDTH, WIDTH),
        "ffn_down.weight": (WIDTH, FFN_WIDTH),
    },
    "granite": _LLAMA,
    "olmo2": _QKV | {"attn_q_norm.weight": (WIDTH,), "attn_k_norm.weight": (_KV_WIDTH,)} | _POST_NORMS | _FFN,
    "smollm3": _LLAMA,
    "gpt-oss": {"attn_norm.weight": (WIDTH,), "post_attention_norm.weight": (WIDTH,)}
    | _QKV
    | _QKV_BIASES
    | {"attn_output.bias": (WIDTH,), "attn_sinks.weight": (N_HEADS,)}
    | _experts(EXPERT_WIDTH)
    | {
        "ffn_gate_inp.bias": (N_EXPERTS,),
        "ffn_gate_exps.bias": (N_EXPERTS, EXPERT_WIDTH),
        "ffn_up_exps.bias": (N_EXPERTS, EXPERT_WIDTH),
        "ffn_down_exps.bias": (N_EXPERTS, WIDTH),
    },
}
"""Names and shapes of a layer's tensors in the file, by architecture."""

MIXTRAL_TENSORS: Mapping[str, Shape] = _PRE_NORMS | _QKV | _experts(FFN_WIDTH)
"""Those of the ``llama`` architecture with experts."""

_HEADS: dict[str, MetadataValue] = {"attention.key_length": HEAD_SIZE, "attention.value_length": HEAD_SIZE}
_GEMMA2: dict[str, MetadataValue] = _HEADS | {
    "attention.sliding_window": 24,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_EXPERT_KEYS: dict[str, MetadataValue] = {
    "expert_count": N_EXPERTS,
    "expert_used_count": 2,
    "expert_feed_forward_length": EXPERT_WIDTH,
}
KEYS: Mapping[str, Mapping[str, MetadataValue]] = {
    "llama": {"rope.dimension_count": HEAD_SIZE, "vocab_size": TINY_VOCAB_SIZE},
    "mistral3": _HEADS | {"rope.dimension_count": HEAD_SIZE},
    "qwen2": {"rope.freq_base": 1_000_000.0},
    "qwen3": _HEADS | {"rope.freq_base": 1_000_000.0},
    "qwen3moe": _HEADS | _EXPERT_KEYS | {"rope.freq_base": 1_000_000.0},
    "gemma2": _GEMMA2,
    "gemma3": _HEADS
    | {
        "attention.sliding_window": 24,
        "rope.freq_base": 1_000_000.0,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
    },
    "phi3": {
        "rope.dimension_count": HEAD_SIZE,
        "rope.freq_base": 10_000.0,
        "rope.scaling.original_context_length": CONTEXT_LENGTH,
        "attention.sliding_window": 24,
    },
    "granite": {
        "attention.scale": 0.125,
        "embedding_scale": 12.0,
        "residual_scale": 0.25,
        "logit_scale": 8.0,
        "rope.dimension_count": HEAD_SIZE,
    },
    "olmo2": {"rope.freq_base": 500_000.0},
    "smollm3": {"rope.freq_base": 5_000_000.0, "rope.dimension_count": HEAD_SIZE},
    "gpt-oss": _HEADS
    | _EXPERT_KEYS
    | {
        "attention.sliding_window": 24,
        "rope.freq_base": 150_000.0,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": 32.0,
        "rope.scaling.original_context_length": 64,
    },
}
"""Keys of a file beside those of `tiny_metadata`, by architecture and without its name."""

N_LAYERS = {"gemma3": 7, "olmo2": 4, "smollm3": 4}
"""Layers of the tiny model, where a pattern needs more than 2."""

UNTIED = frozenset({"olmo2", "gpt-oss", "phi3", "llama"})
"""Architectures whose tiny model has an output matrix."""


def tiny_metadata(
    architecture: str, changes: Mapping[str, MetadataValue | None] | None = None
) -> dict[str, MetadataValue]:
    """Metadata of a tiny model, tokenizer included.

    Args:
        architecture: One of `KEYS`.
        changes: Keys of the architecture, without its name, to set, or to leave out with None.
    """
    keys: dict[str, MetadataValue | None] = {
        "block_count": N_LAYERS.get(architecture, 2),
        "context_length": CONTEXT_LENGTH,
        "embedding_length": WIDTH,
        "feed_forward_length": FFN_WIDTH,
        "attention.head_count": N_HEADS,
        "attention.head_count_kv": N_KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    keys |= KEYS[architecture]
    keys |= changes or {}
    named = {f"{architecture}.{suffix}": value for suffix, value in keys.items() if value is not None}
    return {"general.architecture": architecture, **named, **tiny_tokenizer()}


def tiny_tensors(
    architecture: str,
    layer_tensors: Mapping[str, Shape] | None = None,
    *,
    dtype: str = "F32",
    n_layers: int | None = None,
) -> list[StoredTensor]:
    """Random tensors of a tiny model, the same in every run.

    Args:
        architecture: One of `LAYER_TENSORS`.
        layer_tensors: Those of a layer; None for the architecture's.
        dtype: Type of the matrices; what files keep as floats is F32.
        n_layers: Layers; None for as many as `tiny_metadata` says.
    """
    random = np.random.default_rng(0)
    vocabulary = (TINY_VOCAB_SIZE, WIDTH)
    shapes: dict[str, Shape] = {"token_embd.weight": vocabulary, "output_norm.weight": (WIDTH,)}
    if architecture in UNTIED:
        shapes["output.weight"] = vocabulary
    for layer in range(n_layers or N_LAYERS.get(architecture, 2)):
        named = layer_tensors or LAYER_TENSORS[architecture]
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in named.items()}
    tensors = []
    for name, shape in shapes.items():
        values = random.standard_normal(shape)
        norm, small = "norm" in name, name.endswith(("bias", "sinks.weight", "gate_inp.weight"))
        scaled = 1 + values / 10 if norm else values / shape[-1] ** 0.5
        tensors.append(stored(name, scaled.astype(np.float32), "F32" if norm or small else dtype))
    return tensors


def vector(name: str, values: list[float]) -> StoredTensor:
    """An F32 tensor of one dimension."""
    return stored(name, np.array(values, np.float32), "F32")


def tiny_file(architecture: str, *, dtype: str = "F32") -> bytes:
    """A whole file of a tiny model."""
    return encode_gguf(tiny_metadata(architecture), tiny_tensors(architecture, dtype=dtype))


def booleans(*values: bool) -> Encoded:
    """An array of booleans as a metadata value."""
    return Encoded(9, b"\x07\0\0\0" + len(values).to_bytes(8, "little") + bytes(values))
