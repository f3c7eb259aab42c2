"""Writes a tiny random model of the ``gpt2`` architecture, which the native engine does not know."""

from pathlib import Path

import numpy as np

from stoker.testing.gguf_files import MetadataValue, StoredTensor, encode_gguf, stored, tiny_tokenizer

N_LAYERS, WIDTH, N_HEADS, FFN_WIDTH = 2, 64, 2, 128


def write_tiny_gpt2(path: Path, *, context_length: int = 512, seed: int = 0) -> Path:
    """Write a random model to `path` and return it; the same seed gives the same weights."""
    tokenizer = tiny_tokenizer()
    metadata: dict[str, MetadataValue] = {
        "general.architecture": "gpt2",
        "general.name": "Tiny GPT-2",
        "gpt2.block_count": N_LAYERS,
        "gpt2.context_length": context_length,
        "gpt2.embedding_length": WIDTH,
        "gpt2.feed_forward_length": FFN_WIDTH,
        "gpt2.attention.head_count": N_HEADS,
        "gpt2.attention.layer_norm_epsilon": 1e-5,
    }
    tokens = tokenizer["tokenizer.ggml.tokens"]
    n_tokens = len(tokens) if isinstance(tokens, list) else 0
    path.write_bytes(encode_gguf(metadata | tokenizer, _tensors(n_tokens, context_length, seed)))
    return path


def _tensors(n_tokens: int, context_length: int, seed: int) -> list[StoredTensor]:
    random = np.random.default_rng(seed)

    def values(name: str, *shape: int, around: float = 0.0) -> StoredTensor:
        drawn = around + random.standard_normal(shape) / shape[-1] ** 0.5
        return stored(name, drawn.astype(np.float32), "F32")

    tensors = [
        values("token_embd.weight", n_tokens, WIDTH),
        values("position_embd.weight", context_length, WIDTH),
    ]
    norms = [
        "output_norm",
        *(f"blk.{i}.{name}" for i in range(N_LAYERS) for name in ("attn_norm", "ffn_norm")),
    ]
    for norm in norms:
        tensors += [values(f"{norm}.weight", WIDTH, around=1.0), values(f"{norm}.bias", WIDTH)]
    shapes = {
        "attn_qkv": (3 * WIDTH, WIDTH),
        "attn_output": (WIDTH, WIDTH),
        "ffn_up": (FFN_WIDTH, WIDTH),
        "ffn_down": (WIDTH, FFN_WIDTH),
    }
    for i in range(N_LAYERS):
        for name, (rows, columns) in shapes.items():
            tensors += [values(f"blk.{i}.{name}.weight", rows, columns), values(f"blk.{i}.{name}.bias", rows)]
    return tensors
