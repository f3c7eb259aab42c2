"""Writes safetensors files, and whole tiny random models as Hugging Face folders, in milliseconds.

The encoders here are the tests' own and share no code with the readers they test.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from stoker.testing.gguf_blocks import encode_blocks
from stoker.testing.gguf_files import CHAT_TEMPLATE, MERGES, SPECIAL_TOKENS, TINY_VOCAB_SIZE, byte_alphabet

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor to be written: safetensors' name of its type, its shape, its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def raw(values: Floats, dtype: str = "F32") -> RawTensor:
    """Encode float values as F32, F16 or BF16."""
    return RawTensor(dtype, values.shape, encode_blocks(values, dtype))


def raw_integers(values: NDArray[np.integer]) -> RawTensor:
    """Encode integers of 1 or 4 bytes."""
    dtype = {"u1": "U8", "i4": "I32", "u4": "I32"}[f"{values.dtype.kind}{values.dtype.itemsize}"]
    return RawTensor(dtype, values.shape, np.ascontiguousarray(values).tobytes())


def encode_safetensors(tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Lay out a whole file."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    position = 0
    for name, tensor in tensors.items():
        end = position + len(tensor.data)
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    return with_header(header, b"".join(tensor.data for tensor in tensors.values()))


def with_header(header: object, data: bytes = b"") -> bytes:
    """Put a header, as JSON, and its length before the data; it is padded with spaces to 8 bytes."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def tiny_tokenizer_json() -> dict[str, object]:
    """``tokenizer.json`` of the vocabulary of `stoker.testing.gguf_files.tiny_tokenizer`."""
    first = len(SPECIAL_TOKENS)
    texts = [*byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES)]
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": index, "content": text, "special": True} for index, text in enumerate(SPECIAL_TOKENS)
        ],
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": {text: first + index for index, text in enumerate(texts)},
            "merges": list(MERGES),
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyFolder:
    """What a random model of the type ``llama`` looks like.

    Attributes:
        n_layers, width, n_heads, n_kv_heads, head_size, ffn_width, context_length: As in `ModelConfig`.
        vocab_size: Rows of the embedding matrix, at least the tokens of `tiny_tokenizer_json`.
        dtype: Type of all tensors: F32, F16 or BF16.
        n_shards: Files that the weights are spread over; 1 for one without an index.
        tied: Whether the output matrix is the embedding matrix, and not in the file.
        seed: The same seed gives the same weights.
    """

    n_layers: int = 2
    width: int = 64
    n_heads: int = 2
    n_kv_heads: int = 1
    head_size: int = 32
    ffn_width: int = 96
    context_length: int = 512
    vocab_size: int = TINY_VOCAB_SIZE
    dtype: str = "F32"
    n_shards: int = 1
    tied: bool = True
    seed: int = 0

    def config(self) -> dict[str, object]:
        """``config.json``."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.width,
            "intermediate_size": self.ffn_width,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_size,
            "max_position_embeddings": self.context_length,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "rope_scaling": None,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "torch_dtype": "float32",
        }

    def weights(self) -> dict[str, Floats]:
        """The weights by the file's names."""
        random = np.random.default_rng(self.seed)
        query_width, kv_width = self.n_heads * self.head_size, self.n_kv_heads * self.head_size

        def matrix(rows: int, columns: int) -> Floats:
            values: Floats = (random.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)
            return values

        def norm() -> Floats:
            return (1 + random.standard_normal(self.width) / 10).astype(np.float32)

        weights = {
            "model.embed_tokens.weight": matrix(self.vocab_size, self.width),
            "model.norm.weight": norm(),
        }
        if not self.tied:
            weights["lm_head.weight"] = matrix(self.vocab_size, self.width)
        for layer in (f"model.layers.{index}" for index in range(self.n_layers)):
            weights |= {
                f"{layer}.input_layernorm.weight": norm(),
                f"{layer}.self_attn.q_proj.weight": matrix(query_width, self.width),
                f"{layer}.self_attn.k_proj.weight": matrix(kv_width, self.width),
                f"{layer}.self_attn.v_proj.weight": matrix(kv_width, self.width),
                f"{layer}.self_attn.o_proj.weight": matrix(self.width, query_width),
                f"{layer}.post_attention_layernorm.weight": norm(),
                f"{layer}.mlp.gate_proj.weight": matrix(self.ffn_width, self.width),
                f"{layer}.mlp.up_proj.weight": matrix(self.ffn_width, self.width),
                f"{layer}.mlp.down_proj.weight": matrix(self.width, self.ffn_width),
            }
        return weights


class TinyFolderOptions(TypedDict, total=False):
    """The attributes of `TinyFolder`, as keyword arguments."""

    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    ffn_width: int
    context_length: int
    vocab_size: int
    dtype: str
    n_shards: int
    tied: bool
    seed: int


def write_tiny_folder(folder: Path, **options: Unpack[TinyFolderOptions]) -> Path:
    """Write a random model with its tokenizer, options as in `TinyFolder`, and return the folder."""
    model = TinyFolder(**options)
    tensors = {name: raw(values, model.dtype) for name, values in model.weights().items()}
    write_folder(folder, model.config(), tensors, n_shards=model.n_shards)
    write_json(folder / "tokenizer.json", tiny_tokenizer_json())
    write_json(
        folder / "tokenizer_config.json",
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": CHAT_TEMPLATE},
    )
    write_json(folder / "generation_config.json", {"eos_token_id": [2, 0], "temperature": 0.6})
    return folder


def write_folder(
    folder: Path, config: Mapping[str, object], tensors: Mapping[str, RawTensor], *, n_shards: int = 1
) -> Path:
    """Write ``config.json`` and the weights, and return the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    if n_shards == 1:
        (folder / "model.safetensors").write_bytes(encode_safetensors(tensors, {"format": "pt"}))
        return folder
    shards: list[dict[str, RawTensor]] = [{} for _ in range(n_shards)]
    for index, (name, tensor) in enumerate(tensors.items()):
        shards[index % n_shards][name] = tensor
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{n_shards:05}.safetensors"
        (folder / file).write_bytes(encode_safetensors(shard, {"format": "pt"}))
        weight_map |= dict.fromkeys(shard, file)
    total = sum(len(tensor.data) for tensor in tensors.values())
    index_file = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index_file)
    return folder


def write_json(path: Path, content: object) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content))
