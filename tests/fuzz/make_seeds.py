"""Makes files, as small as can be, for fuzz targets to start from.

Models of every architecture for ``gguf``, GGUF adapters and bottlenecks for ``adapter``.

Usage: ``python tests/fuzz/make_seeds.py``
"""

import json
from math import prod
from pathlib import Path

import numpy as np

from stoker.models.architectures import FAMILIES
from stoker.testing.gguf_architectures import TinySizes, tiny_metadata, tiny_tensors, vector
from stoker.testing.gguf_files import MetadataValue, encode_gguf, stored

CORPUS = Path(__file__).parent / "corpus"
SIZES = TinySizes(
    width=32,
    n_heads=1,
    n_kv_heads=1,
    ffn_width=32,
    expert_width=32,
    n_experts=2,
    context_length=64,
    n_layers=1,
    vocab_size=4,
    tokenizer={
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": ["<|im_end|>", "a", "b", "ab"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 0,
    },
)
FACTORS = {
    "llama": ("rope_freqs.weight",),
    "phi3": ("rope_factors_long.weight", "rope_factors_short.weight"),
}


def main() -> None:
    """Write the files into the corpus."""
    for architecture in FAMILIES:
        tensors = tiny_tensors(architecture, dtype="Q4_0", sizes=SIZES)
        tensors += [vector(name, [2.0] * 16) for name in FACTORS.get(architecture, ())]
        content = encode_gguf(tiny_metadata(architecture, sizes=SIZES), tensors)
        (CORPUS / "gguf" / architecture).write_bytes(content)
    for dtype in ("F32", "F16", "BF16", "Q8_0"):
        (CORPUS / "adapter" / f"gguf-{dtype.lower()}").write_bytes(adapter(dtype))
    for name, of_stream in (("houlsby", False), ("pfeiffer", True)):
        (CORPUS / "adapter" / name).write_bytes(bottlenecks(of_stream=of_stream))


def adapter(dtype: str) -> bytes:
    """Return an adapter of a query matrix, of 32 inputs and outputs."""
    metadata: dict[str, MetadataValue] = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 16.0,
    }
    rank = 32 if dtype == "Q8_0" else 2
    values = np.linspace(-1, 1, 32 * rank, dtype=np.float32)
    name = "blk.0.attn_q.weight.lora"
    tensors = [
        stored(f"{name}_a", values.reshape(rank, 32), dtype),
        stored(f"{name}_b", values.reshape(32, rank), dtype),
    ]
    return encode_gguf(metadata, tensors)


def bottlenecks(*, of_stream: bool) -> bytes:
    """Return the config and the header of bottlenecks behind one layer, of 32 inputs and outputs."""
    config = {
        "mh_adapter": True,
        "output_adapter": True,
        "non_linearity": "relu",
        "original_ln_before": of_stream,
        "original_ln_after": True,
        "residual_before_ln": True,
    }
    shapes = {"adapter_down.0.weight": (4, 32), "adapter_down.0.bias": (4,)}
    shapes |= {"adapter_up.weight": (32, 4), "adapter_up.bias": (32,)}
    header: dict[str, object] = {}
    end = 0
    for part, shape in shapes.items():
        start, end = end, end + 4 * prod(shape)
        name = f"model.layers.0.output_adapters.adapters.a.{part}"
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    return json.dumps({"config": config}).encode() + b"\f" + json.dumps(header).encode()


if __name__ == "__main__":
    main()
