"""Writes GGUF files: any metadata and tensors, or a whole tiny random model, in milliseconds.

The encoders here are the tests' own and share no code with the readers they test.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from stoker.testing.gguf_blocks import TYPE_NUMBERS, encode_blocks

Floats = NDArray[np.float32]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, without a default system message."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""The tiny vocabulary's first tokens; the last one is its ``eos``."""

MERGES = (
    "Ġ t", "h e", "Ġt he", "i n", "l l", "he ll", "hell o", "Ġ a", "o r", "Ġ w",
    "Ġw or", "Ġwor l", "Ġworl d", "in g", "e r", "Ġ Ġ",
)  # fmt: skip
"""The tiny vocabulary's merges; each makes one token."""

TINY_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256 + len(MERGES)
"""Tokens in use: the special ones, one for each byte, one for each merge."""

_NORMAL, _CONTROL, _UNUSED = 1, 3, 5


@dataclass(frozen=True, slots=True)
class Encoded:
    """A metadata value spelt out: GGUF's number of the type, and the bytes after it."""

    kind: int
    payload: bytes


MetadataValue = str | bool | int | float | Sequence[str] | Sequence[int] | Encoded


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor to be written; `shape` is outermost first, `type_number` is GGUF's."""

    name: str
    shape: tuple[int, ...]
    type_number: int
    data: bytes


def stored(name: str, values: Floats, dtype: str) -> StoredTensor:
    """Encode float values, ``[..., columns]``, as a tensor of the named type."""
    return StoredTensor(name, values.shape, TYPE_NUMBERS[dtype], encode_blocks(values, dtype))


def encode_gguf(
    metadata: Mapping[str, MetadataValue],
    tensors: Sequence[StoredTensor],
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """Lay out a whole file. Integers are written as UINT32 (arrays as INT32), floats as FLOAT32."""
    header = bytearray(b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)))
    for key, value in metadata.items():
        header += _string(key) + _value(value)
    data = bytearray()
    for tensor in tensors:
        header += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
        header += struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        header += struct.pack("<IQ", tensor.type_number, len(data))
        data += tensor.data + bytes(-len(tensor.data) % alignment)
    return bytes(header + bytes(-len(header) % alignment) + data)


def byte_alphabet() -> list[str]:
    """The letter that GPT-2's byte-level alphabet gives to each byte value, ``[256]``.

    Printable bytes stand for themselves; the others take the letters from U+0100 on, in order.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    letters = {value: chr(value) for value in printable}
    others = (value for value in range(256) if value not in letters)
    letters |= {value: chr(256 + index) for index, value in enumerate(others)}
    return [letters[value] for value in range(256)]


def tiny_tokenizer(vocab_size: int | None = None) -> dict[str, MetadataValue]:
    """Metadata of a byte-level BPE vocabulary: `SPECIAL_TOKENS`, 256 bytes, `MERGES`, then unused ones.

    Args:
        vocab_size: Number of tokens, at least `TINY_VOCAB_SIZE`; None for exactly those.
    """
    used = [*byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES)]
    n_unused = (vocab_size or TINY_VOCAB_SIZE) - TINY_VOCAB_SIZE
    if n_unused < 0:
        raise ValueError(f"the tiny vocabulary has {TINY_VOCAB_SIZE} tokens, more than {vocab_size}")
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [*SPECIAL_TOKENS, *used, *(f"<unused{n}>" for n in range(n_unused))],
        "tokenizer.ggml.token_type": [
            *[_CONTROL] * len(SPECIAL_TOKENS),
            *[_NORMAL] * len(used),
            *[_UNUSED] * n_unused,
        ],
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyLlama:
    """What a random model of the ``llama`` architecture looks like.

    Attributes:
        n_layers, width, n_heads, n_kv_heads, head_size, ffn_width, context_length: As in `ModelConfig`.
        vocab_size: As in `tiny_tokenizer`.
        dtype: Type of the matrices, one of `TYPE_NUMBERS`; those in super-blocks need sizes that
            are multiples of 256.
        embedding_dtype: Type of the embedding and output matrices; None for `dtype`.
        norm_dtype: Type of the norms.
        tied: Whether the output matrix is the embedding matrix, and not in the file.
        seed: The same seed gives the same weights.
    """

    n_layers: int = 2
    width: int = 64
    n_heads: int = 2
    n_kv_heads: int = 1
    head_size: int = 32
    ffn_width: int = 96
    vocab_size: int | None = None
    context_length: int = 512
    dtype: str = "Q4_1"
    embedding_dtype: str | None = None
    norm_dtype: str = "F32"
    tied: bool = True
    seed: int = 0

    def metadata(self) -> dict[str, MetadataValue]:
        """The file's metadata, tokenizer included."""
        tokenizer = tiny_tokenizer(self.vocab_size)
        shape: dict[str, MetadataValue] = {
            "general.architecture": "llama",
            "general.name": "Tiny",
            "general.license": "apache-2.0",
            "llama.block_count": self.n_layers,
            "llama.context_length": self.context_length,
            "llama.embedding_length": self.width,
            "llama.feed_forward_length": self.ffn_width,
            "llama.attention.head_count": self.n_heads,
            "llama.attention.head_count_kv": self.n_kv_heads,
            "llama.attention.key_length": self.head_size,
            "llama.attention.value_length": self.head_size,
            "llama.rope.dimension_count": self.head_size,
            "llama.rope.freq_base": 10_000.0,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.vocab_size": self.n_tokens,
        }
        return shape | tokenizer

    @property
    def n_tokens(self) -> int:
        """Tokens of the vocabulary."""
        return self.vocab_size or TINY_VOCAB_SIZE

    def tensors(self) -> list[StoredTensor]:
        """The file's tensors."""
        random = np.random.default_rng(self.seed)

        def matrix(name: str, rows: int, columns: int, dtype: str = self.dtype) -> StoredTensor:
            values = random.standard_normal((rows, columns)) / columns**0.5
            return stored(f"{name}.weight", values.astype(np.float32), dtype)

        def norm(name: str) -> StoredTensor:
            values = 1 + random.standard_normal(self.width) / 10
            return stored(f"{name}.weight", values.astype(np.float32), self.norm_dtype)

        width, query_width, kv_width = (
            self.width,
            self.n_heads * self.head_size,
            self.n_kv_heads * self.head_size,
        )
        vocabulary_dtype = self.embedding_dtype or self.dtype
        tensors = [matrix("token_embd", self.n_tokens, width, vocabulary_dtype), norm("output_norm")]
        if not self.tied:
            tensors.append(matrix("output", self.n_tokens, width, vocabulary_dtype))
        for layer in (f"blk.{index}" for index in range(self.n_layers)):
            tensors += [
                norm(f"{layer}.attn_norm"),
                matrix(f"{layer}.attn_q", query_width, width),
                matrix(f"{layer}.attn_k", kv_width, width),
                matrix(f"{layer}.attn_v", kv_width, width),
                matrix(f"{layer}.attn_output", width, query_width),
                norm(f"{layer}.ffn_norm"),
                matrix(f"{layer}.ffn_gate", self.ffn_width, width),
                matrix(f"{layer}.ffn_up", self.ffn_width, width),
                matrix(f"{layer}.ffn_down", width, self.ffn_width),
            ]
        return tensors


class TinyOptions(TypedDict, total=False):
    """The attributes of `TinyLlama`, as keyword arguments."""

    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    ffn_width: int
    vocab_size: int | None
    context_length: int
    dtype: str
    embedding_dtype: str | None
    norm_dtype: str
    tied: bool
    seed: int


def write_tiny_llama(path: Path, **options: Unpack[TinyOptions]) -> Path:
    """Write a random model to `path`, options as in `TinyLlama`, and return `path`."""
    model = TinyLlama(**options)
    path.write_bytes(encode_gguf(model.metadata(), model.tensors()))
    return path


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: MetadataValue) -> bytes:
    match value:
        case Encoded(kind, payload):
            encoded = struct.pack("<I", kind) + payload
        case str():
            encoded = struct.pack("<I", 8) + _string(value)
        case bool():
            encoded = struct.pack("<IB", 7, value)
        case int():
            encoded = struct.pack("<II", 4, value)
        case float():
            encoded = struct.pack("<If", 6, value)
        case _:
            encoded = struct.pack("<I", 9) + _array(value)
    return encoded


def _array(values: Sequence[str] | Sequence[int]) -> bytes:
    strings = [_string(item) for item in values if isinstance(item, str)]
    if strings:
        return struct.pack("<IQ", 8, len(strings)) + b"".join(strings)
    integers = [item for item in values if isinstance(item, int)]
    return struct.pack(f"<IQ{len(integers)}i", 5, len(integers), *integers)
