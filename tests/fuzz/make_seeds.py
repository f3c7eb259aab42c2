"""Makes whole files of every architecture, as small as can be, for the ``gguf`` target to start from.

Usage: ``python tests/fuzz/make_seeds.py``
"""

from pathlib import Path

from stoker.models.architectures import FAMILIES
from stoker.testing.gguf_architectures import TinySizes, tiny_metadata, tiny_tensors, vector
from stoker.testing.gguf_files import encode_gguf

CORPUS = Path(__file__).parent / "corpus" / "gguf"
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
        (CORPUS / architecture).write_bytes(content)


if __name__ == "__main__":
    main()
