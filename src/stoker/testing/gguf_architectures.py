"""Tiny random GGUF files of every architecture, with the keys and the tensor names of real ones.

Written from GGUF's converter and real files; what is written shares nothing with the reader that it tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stoker.models.config import ModelConfig
from stoker.models.opened import OpenedGguf, open_gguf
from stoker.testing.gguf_files import (
    TINY_VOCAB_SIZE,
    Encoded,
    MetadataValue,
    StoredTensor,
    encode_gguf,
    stored,
    tiny_tokenizer,
)

Shape = tuple[int, ...]
Changes = Mapping[str, MetadataValue | None]
"""Keys of an architecture, without its name, to set, or to leave out with None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinySizes:
    """Sizes of a tiny model.

    Attributes:
        width, n_heads, n_kv_heads, ffn_width, context_length: As in `ModelConfig`.
        head_size: As there; ``width / n_heads``, since some architectures' files do not state it.
        expert_width: As `ffn_width`, of an expert.
        n_experts: As in `Experts`.
        n_layers: Layers; None for as many as the architecture's patterns need.
        vocab_size: Tokens of the vocabulary.
        tokenizer: Its metadata; None for `tiny_tokenizer`.
    """

    width: int = 128
    n_heads: int = 4
    n_kv_heads: int = 2
    ffn_width: int = 96
    expert_width: int = 64
    n_experts: int = 4
    context_length: int = 512
    n_layers: int | None = None
    vocab_size: int = TINY_VOCAB_SIZE
    tokenizer: Mapping[str, MetadataValue] | None = None

    @property
    def head_size(self) -> int:
        """Size of a head."""
        return self.width // self.n_heads

    @property
    def kv_width(self) -> int:
        """Size of all keys of a token."""
        return self.n_kv_heads * self.head_size


TINY = TinySizes()


def layer_tensors(architecture: str, sizes: TinySizes = TINY) -> dict[str, Shape]:
    """Names and shapes of a layer's tensors in a file of the architecture; ``mixtral`` is one here."""
    width, kv_width, inner = sizes.width, sizes.kv_width, sizes.ffn_width
    norms: dict[str, Shape] = {"attn_norm.weight": (width,), "ffn_norm.weight": (width,)}
    post_norms: dict[str, Shape] = {"post_attention_norm.weight": (width,), "post_ffw_norm.weight": (width,)}
    output: dict[str, Shape] = {"attn_output.weight": (width, width)}
    attention: dict[str, Shape] = output | {
        "attn_q.weight": (width, width),
        "attn_k.weight": (kv_width, width),
        "attn_v.weight": (kv_width, width),
    }
    biases: dict[str, Shape] = {
        "attn_q.bias": (width,),
        "attn_k.bias": (kv_width,),
        "attn_v.bias": (kv_width,),
    }
    head_norms: dict[str, Shape] = {
        "attn_q_norm.weight": (sizes.head_size,),
        "attn_k_norm.weight": (sizes.head_size,),
    }
    down: dict[str, Shape] = {"ffn_down.weight": (width, inner)}
    network: dict[str, Shape] = down | {"ffn_gate.weight": (inner, width), "ffn_up.weight": (inner, width)}
    sparse = _experts(sizes, sizes.expert_width)
    named: dict[str, dict[str, Shape]] = {
        "qwen2": norms | attention | biases | network,
        "qwen3": norms | attention | head_norms | network,
        "qwen3moe": norms | attention | head_norms | sparse,
        "gemma2": norms | post_norms | attention | network,
        "gemma3": norms | post_norms | attention | head_norms | network,
        "phi3": norms
        | output
        | down
        | {"attn_qkv.weight": (width + 2 * kv_width, width), "ffn_up.weight": (2 * inner, width)},
        "olmo2": post_norms
        | attention
        | {"attn_q_norm.weight": (width,), "attn_k_norm.weight": (kv_width,)}
        | network,
        "gpt-oss": {"attn_norm.weight": (width,), "post_attention_norm.weight": (width,)}
        | attention
        | biases
        | {"attn_output.bias": (width,), "attn_sinks.weight": (sizes.n_heads,)}
        | sparse
        | _expert_biases(sizes),
        "mixtral": norms | attention | _experts(sizes, inner),
    }
    return named.get(architecture, norms | attention | network)


def _experts(sizes: TinySizes, inner: int) -> dict[str, Shape]:
    n, width = sizes.n_experts, sizes.width
    return {
        "ffn_gate_inp.weight": (n, width),
        "ffn_gate_exps.weight": (n, inner, width),
        "ffn_up_exps.weight": (n, inner, width),
        "ffn_down_exps.weight": (n, width, inner),
    }


def _expert_biases(sizes: TinySizes) -> dict[str, Shape]:
    n, inner = sizes.n_experts, sizes.expert_width
    return {
        "ffn_gate_inp.bias": (n,),
        "ffn_gate_exps.bias": (n, inner),
        "ffn_up_exps.bias": (n, inner),
        "ffn_down_exps.bias": (n, sizes.width),
    }


def architecture_keys(architecture: str, sizes: TinySizes = TINY) -> dict[str, MetadataValue]:
    """Keys that a file of the architecture has beside those of every one, without its name."""
    size = sizes.head_size
    heads: dict[str, MetadataValue] = {"attention.key_length": size, "attention.value_length": size}
    experts: dict[str, MetadataValue] = {
        "expert_count": sizes.n_experts,
        "expert_used_count": 2,
        "expert_feed_forward_length": sizes.expert_width,
    }
    turned: dict[str, MetadataValue] = {"rope.dimension_count": size}
    window: dict[str, MetadataValue] = {"attention.sliding_window": 24}
    keys: dict[str, dict[str, MetadataValue]] = {
        "llama": turned | {"vocab_size": sizes.vocab_size},
        "mistral3": heads | turned,
        "qwen2": {"rope.freq_base": 1_000_000.0},
        "qwen3": heads | {"rope.freq_base": 1_000_000.0},
        "qwen3moe": heads | experts | {"rope.freq_base": 1_000_000.0},
        "gemma2": heads | window | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        "gemma3": heads
        | window
        | {"rope.freq_base": 1_000_000.0, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        "phi3": turned
        | window
        | {"rope.freq_base": 10_000.0, "rope.scaling.original_context_length": sizes.context_length},
        "granite": turned
        | {"attention.scale": 0.125, "embedding_scale": 12.0, "residual_scale": 0.25, "logit_scale": 8.0},
        "olmo2": {"rope.freq_base": 500_000.0},
        "smollm3": turned | {"rope.freq_base": 5_000_000.0},
        "gpt-oss": heads
        | experts
        | window
        | {
            "rope.freq_base": 150_000.0,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 32.0,
            "rope.scaling.original_context_length": 64,
        },
    }
    return keys[architecture]


N_LAYERS = {"gemma3": 7, "olmo2": 4, "smollm3": 4}
"""Layers of the tiny model, where a pattern needs more than 2."""

UNTIED = frozenset({"olmo2", "gpt-oss", "phi3", "llama"})
"""Architectures whose tiny model has an output matrix."""


def n_layers_of(architecture: str, sizes: TinySizes) -> int:
    """Layers of the tiny model."""
    return sizes.n_layers or N_LAYERS.get(architecture, 2)


def tiny_metadata(
    architecture: str,
    changes: Changes | None = None,
    sizes: TinySizes = TINY,
) -> dict[str, MetadataValue]:
    """Metadata of a tiny model, tokenizer included.

    Args:
        architecture: GGUF's name of it.
        changes: What differs in its keys.
        sizes: The model's sizes.
    """
    keys: dict[str, MetadataValue | None] = {
        "block_count": n_layers_of(architecture, sizes),
        "context_length": sizes.context_length,
        "embedding_length": sizes.width,
        "feed_forward_length": sizes.ffn_width,
        "attention.head_count": sizes.n_heads,
        "attention.head_count_kv": sizes.n_kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-6,
    }
    keys |= architecture_keys(architecture, sizes)
    keys |= changes or {}
    named = {f"{architecture}.{suffix}": value for suffix, value in keys.items() if value is not None}
    return {"general.architecture": architecture, **named, **(sizes.tokenizer or tiny_tokenizer())}


def tiny_tensors(
    architecture: str,
    named: Mapping[str, Shape] | None = None,
    *,
    dtype: str = "F32",
    sizes: TinySizes = TINY,
) -> list[StoredTensor]:
    """Random tensors of a tiny model, the same in every run.

    Args:
        architecture: GGUF's name of it.
        named: Tensors of a layer; None for `layer_tensors`.
        dtype: Type of the matrices; what files keep as floats is F32.
        sizes: The model's sizes.
    """
    random = np.random.default_rng(0)
    vocabulary = (sizes.vocab_size, sizes.width)
    shapes: dict[str, Shape] = {"token_embd.weight": vocabulary, "output_norm.weight": (sizes.width,)}
    if architecture in UNTIED:
        shapes["output.weight"] = vocabulary
    named = named or layer_tensors(architecture, sizes)
    for layer in range(n_layers_of(architecture, sizes)):
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


def booleans(*values: bool) -> Encoded:
    """An array of booleans as a metadata value."""
    return Encoded(9, b"\x07\0\0\0" + len(values).to_bytes(8, "little") + bytes(values))


def open_tiny(
    folder: Path,
    architecture: str,
    changes: Changes | None = None,
    tensors: list[StoredTensor] | None = None,
) -> OpenedGguf:
    """Write a tiny model of an architecture into a folder, and open it."""
    path = folder / "model.gguf"
    content = encode_gguf(tiny_metadata(architecture, changes), tensors or tiny_tensors(architecture))
    path.write_bytes(content)
    return open_gguf(path)


def tiny_config(folder: Path, architecture: str, changes: Changes | None = None) -> ModelConfig:
    """Return the config that such a file is read as."""
    with open_tiny(folder, architecture, changes) as model:
        return model.config
