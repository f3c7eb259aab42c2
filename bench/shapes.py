"""Write GGUF files of Llama's larger shapes with random weights: ``python bench/shapes.py 1B --out FOLDER``.

A speed does not depend on what the weights say, only on their shapes and types. The shapes are those of Llama
3.2 1B and 3B and Llama 3.1 8B; the weights have the right size for activations to stay finite, the tokenizer
is tiny with unused tokens up to the vocabulary's size. Files are written piece by piece: memory does not grow
with them.
"""

import argparse
import math
import shutil
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from stoker.testing.gguf_blocks import TYPE_NUMBERS
from stoker.testing.gguf_files import tiny_tokenizer

ALIGNMENT = 32
PIECE_BYTES = 8 << 20
SPARE_BYTES = 1 << 30
"""Left free on the disk."""

LAYOUTS = {"Q4_0": (32, 18), "Q4_1": (32, 20), "Q8_0": (32, 34), "Q4_K": (256, 144), "Q6_K": (256, 210)}
"""Weights and bytes of a block."""

CODE_DEVIATION = 4.6
"""Standard deviation of a random 4-bit code."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    ffn_width: int
    tied: bool
    rope_factor: float
    vocabulary: int = 128_256
    context: int = 131_072


SHAPES = {
    "1B": Shape(
        layers=16, width=2048, heads=32, kv_heads=8, head_size=64, ffn_width=8192, tied=True, rope_factor=32.0
    ),
    "3B": Shape(
        layers=28,
        width=3072,
        heads=24,
        kv_heads=8,
        head_size=128,
        ffn_width=8192,
        tied=True,
        rope_factor=32.0,
    ),
    "8B": Shape(
        layers=32,
        width=4096,
        heads=32,
        kv_heads=8,
        head_size=128,
        ffn_width=14336,
        tied=False,
        rope_factor=8.0,
    ),
}

MIXES = ("Q4_0", "Q4_1", "Q4_K_M")
"""What can be written. Q4_0 and Q4_1 have an output matrix in Q8_0; Q4_K_M mixes types as llama.cpp does."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to be written; `shape` is outermost first."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        weights, size = LAYOUTS.get(self.dtype, (1, 4))
        return self.shape[-1] // weights * size

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows."""
        return math.prod(self.shape[:-1]) * self.row_bytes


def tensors(shape: Shape, mix: str) -> Iterator[Tensor]:
    """Yield a model's tensors in the order of the file."""
    plain, output = ("Q4_K", "Q6_K") if mix == "Q4_K_M" else (mix, "Q8_0")
    query, kv = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    embedding = output if shape.tied else plain
    yield Tensor("token_embd.weight", (shape.vocabulary, shape.width), embedding)
    yield Tensor("rope_freqs.weight", (shape.head_size // 2,), "F32")
    for i in range(shape.layers):
        eighth = shape.layers // 8
        fine = mix == "Q4_K_M" and (i < eighth or i >= 7 * eighth or (i - eighth) % 3 == 2)  # noqa: PLR2004
        better = "Q6_K" if fine else plain
        for name, rows, columns, dtype in (
            ("attn_q", query, shape.width, plain),
            ("attn_k", kv, shape.width, plain),
            ("attn_v", kv, shape.width, better),
            ("attn_output", shape.width, query, plain),
            ("ffn_gate", shape.ffn_width, shape.width, plain),
            ("ffn_up", shape.ffn_width, shape.width, plain),
            ("ffn_down", shape.width, shape.ffn_width, better),
        ):
            yield Tensor(f"blk.{i}.{name}.weight", (rows, columns), dtype)
        for name in ("attn_norm", "ffn_norm"):
            yield Tensor(f"blk.{i}.{name}.weight", (shape.width,), "F32")
    yield Tensor("output_norm.weight", (shape.width,), "F32")
    if not shape.tied:
        yield Tensor("output.weight", (shape.vocabulary, shape.width), output)


def rope_factors(shape: Shape) -> NDArray[np.float32]:
    """Return by what each frequency is divided, as Llama 3 stretches a context of 8,192 tokens."""
    wavelengths = 2 * math.pi * 500_000.0 ** (np.arange(0, shape.head_size, 2) / shape.head_size)
    short, long = 8192 / 4, 8192 / 1
    share = np.clip((8192 / wavelengths - 1) / 3, 0, 1)
    between = 1 / ((1 - share) / shape.rope_factor + share)
    factors = np.where(wavelengths < short, 1.0, np.where(wavelengths > long, shape.rope_factor, between))
    return factors.astype("<f4")


def random_rows(numbers: np.random.Generator, tensor: Tensor, n_rows: int) -> Bytes:
    """Return rows of random blocks whose weights have a variance of about one by the number of columns."""
    n_blocks = n_rows * tensor.shape[-1] // LAYOUTS[tensor.dtype][0]
    size = LAYOUTS[tensor.dtype][1]
    blocks = np.frombuffer(numbers.bytes(n_blocks * size), np.uint8).reshape(n_blocks, size).copy()
    unit = tensor.shape[-1] ** -0.5

    def put(offset: int, value: float) -> None:
        blocks[:, offset : offset + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)

    match tensor.dtype:
        case "Q4_0":
            put(0, unit / CODE_DEVIATION)
        case "Q4_1":
            put(0, unit / CODE_DEVIATION)
            put(2, -7.5 * unit / CODE_DEVIATION)
        case "Q8_0":
            put(0, unit / 74)
        case "Q4_K":  # 6-bit scales and minimums, 32 on average
            put(0, unit / CODE_DEVIATION / 32)
            put(2, 7.5 * unit / CODE_DEVIATION / 32)
        case "Q6_K":  # 8-bit scales, after 192 bytes of codes
            put(208, unit / (18.5 * 74))
    return blocks.reshape(-1)


def header(metadata: Mapping[str, object], found: Sequence[Tensor]) -> bytes:
    """Return everything before the tensors' data."""
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(found), len(metadata)))
    for key, value in metadata.items():
        out += _string(key) + _value(value)
    offset = 0
    for tensor in found:
        out += _string(tensor.name) + struct.pack("<I", len(tensor.shape))
        out += struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        out += struct.pack("<IQ", TYPE_NUMBERS[tensor.dtype], offset)
        offset += tensor.size_bytes + -tensor.size_bytes % ALIGNMENT
    return bytes(out + bytes(-len(out) % ALIGNMENT))


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: object) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _string(value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_string(str(each)) for each in value)
        case [int(), *_]:
            return struct.pack("<IIQ", 9, 5, len(value)) + np.array(value, "<i4").tobytes()
    raise TypeError(f"{value!r} is no metadata")


def metadata(name: str, shape: Shape) -> dict[str, object]:
    """Return the file's metadata."""
    return {
        "general.architecture": "llama",
        "general.name": f"Random weights in the shape of Llama {name}",
        "llama.block_count": shape.layers,
        "llama.context_length": shape.context,
        "llama.embedding_length": shape.width,
        "llama.feed_forward_length": shape.ffn_width,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.attention.key_length": shape.head_size,
        "llama.attention.value_length": shape.head_size,
        "llama.rope.dimension_count": shape.head_size,
        "llama.rope.freq_base": 500_000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.vocab_size": shape.vocabulary,
        **{
            key: list(value) if isinstance(value, tuple) else value
            for key, value in tiny_tokenizer(shape.vocabulary).items()
        },
    }


def write_tensor(file: BinaryIO, tensor: Tensor, shape: Shape, numbers: np.random.Generator) -> None:
    """Write a tensor's data, a piece at a time."""
    if tensor.name == "rope_freqs.weight":
        file.write(rope_factors(shape).tobytes())
    elif tensor.dtype == "F32":  # a norm
        file.write(np.ones(tensor.shape, "<f4").tobytes())
    else:
        most = max(1, PIECE_BYTES // tensor.row_bytes)
        for first in range(0, tensor.shape[0], most):
            n_rows = min(most, tensor.shape[0] - first)
            file.write(random_rows(numbers, tensor, n_rows).data)
    file.write(bytes(-tensor.size_bytes % ALIGNMENT))


def write_model(path: Path, name: str, shape: Shape, mix: str) -> None:
    """Write a file, whole or not at all.

    Raises:
        SystemExit: The disk has no room for it.
    """
    found = list(tensors(shape, mix))
    head = header(metadata(name, shape), found)
    size_bytes = len(head) + sum(tensor.size_bytes + ALIGNMENT for tensor in found)
    free_bytes = shutil.disk_usage(path.parent).free
    if size_bytes + SPARE_BYTES > free_bytes:
        sys.exit(
            f"{path} will have {size_bytes / 1e9:.1f} GB, but {path.parent} has {free_bytes / 1e9:.1f} GB"
            f" free, of which {SPARE_BYTES >> 30} GiB is to stay so: give another folder by --out"
        )
    part = path.with_suffix(".part")
    numbers = np.random.Generator(np.random.SFC64(1))
    try:
        with part.open("wb") as file:
            file.write(head)
            for tensor in found:
                write_tensor(file, tensor, shape, numbers)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def main() -> None:
    """Write the files that are asked for; one that is there already stays."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shapes", nargs="+", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--type", choices=MIXES, default="Q4_0", help="(default: Q4_0)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.shapes:
        path = options.out / f"llama-{name}-random.{options.type}.gguf"
        if not path.exists():
            write_model(path, name, SHAPES[name], options.type)
        print(f"{path}  {path.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
