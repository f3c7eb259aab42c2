"""GGUF's tensor types from float values and back, in plain NumPy, as a reference for tests.

Layouts of the types in blocks of 32 consecutive elements; those in super-blocks of 256 are in
`stoker.testing.gguf_superblocks`. Half a byte is element i (low) and element i + 16 (high):

- ``Q8_0``: f16 scale, 32 signed bytes.
- ``Q4_0`` and ``IQ4_NL``: f16 scale, 16 bytes; ``MXFP4``: scale's exponent in a byte, 16 bytes.
- ``Q4_1``: f16 scale, f16 minimum, 16 bytes.
- ``Q5_0`` and ``Q5_1``: the same with 4 bytes, the fifth bit of each code, before the 16.
"""

import numpy as np

from stoker.testing.gguf_groups import (
    FP4,
    NON_LINEAR,
    Bytes,
    Floats,
    Groups,
    half,
    half_bytes,
    join_nibbles,
    nearest_codes,
    nearest_entries,
    read_half,
    split_nibbles,
    symmetric,
)
from stoker.testing.gguf_superblocks import (
    SUPER_BLOCK,
    SUPER_BLOCK_BYTES,
    encode_super_blocks,
    read_super_blocks,
)

TYPE_NUMBERS = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8,
    "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
    "IQ4_NL": 20, "IQ4_XS": 23, "BF16": 30, "MXFP4": 39,
}  # fmt: skip
"""GGUF's number of each type that can be written."""

BLOCK = 32
BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "IQ4_NL": 18, "MXFP4": 17}
"""Size of a block of each type."""


def encode_blocks(values: Floats, dtype: str) -> bytes:
    """Encode ``[..., columns]`` row-major; quantized types round to the nearest code."""
    flat = np.ascontiguousarray(values, dtype=np.float32)
    match dtype:
        case "F32":
            return flat.astype("<f4").tobytes()
        case "F16":
            return flat.astype("<f2").tobytes()
        case "BF16":
            bits = flat.view(np.uint32)
            # Round to the nearest, ties to even.
            return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    if dtype in SUPER_BLOCK_BYTES:
        return encode_super_blocks(flat.reshape(-1, SUPER_BLOCK), dtype)
    if dtype not in BLOCK_BYTES:
        raise ValueError(f"no encoder for {dtype!r}; there are {', '.join(TYPE_NUMBERS)}")
    return np.hstack(_encode_parts(flat.reshape(-1, BLOCK), dtype)).tobytes()


def read_groups(data: bytes | memoryview, dtype: str) -> Groups:
    """Read a quantized tensor's bytes as groups of 32 elements, or 16 (Q2_K, Q3_K, Q6_K)."""
    if dtype in SUPER_BLOCK_BYTES:
        return read_super_blocks(np.frombuffer(data, np.uint8).reshape(-1, SUPER_BLOCK_BYTES[dtype]), dtype)
    blocks = np.frombuffer(data, np.uint8).reshape(-1, BLOCK_BYTES[dtype])
    if dtype == "MXFP4":
        # The table has twice the values, so half the scale.
        scale = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)
        return symmetric(FP4[split_nibbles(blocks[:, 1:])], scale)
    scale = read_half(blocks, 0)
    match dtype:
        case "Q8_0":
            return symmetric(blocks[:, 2:].view(np.int8).astype(np.float32), scale)
        case "IQ4_NL":
            return symmetric(NON_LINEAR[split_nibbles(blocks[:, 2:])], scale)
    codes = split_nibbles(blocks[:, -16:])
    if dtype.startswith("Q5"):
        codes |= np.unpackbits(blocks[:, -20:-16], axis=1, bitorder="little") << 4
    if dtype.endswith("_1"):
        return Groups(codes.astype(np.float32), scale, read_half(blocks, 2))
    return symmetric(codes.astype(np.float32) - (8 if dtype == "Q4_0" else 16), scale)


def decode_blocks(data: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> Floats:
    """Decode a tensor's bytes to float values of `shape`, outermost dimension first."""
    match dtype:
        case "F32":
            return np.frombuffer(data, "<f4").astype(np.float32).reshape(shape)
        case "F16":
            return np.frombuffer(data, "<f2").astype(np.float32).reshape(shape)
        case "BF16":
            bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
            return bits.view(np.float32).reshape(shape)
    return read_groups(data, dtype).values().reshape(shape)


def _encode_parts(blocks: Floats, dtype: str) -> list[Bytes]:
    """The parts of ``[n, 32]`` values' blocks, each ``[n, bytes]``."""
    peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    match dtype:
        case "Q8_0":
            scale = half(np.abs(peak) / 127)
            signed = nearest_codes(blocks, scale, -127, 127).astype(np.int8)
            return [half_bytes(scale), signed.view(np.uint8)]
        case "IQ4_NL":
            scale = half(peak / NON_LINEAR[0])
            return [half_bytes(scale), join_nibbles(nearest_entries(blocks, scale, NON_LINEAR))]
        case "MXFP4":
            _, power = np.frexp(np.abs(peak) / FP4.max())
            places = nearest_entries(blocks, np.ldexp(np.float32(1), power), FP4)
            return [np.clip(power + 128, 0, 254).astype(np.uint8), join_nibbles(places)]
    half_range = 8 if dtype.startswith("Q4") else 16
    if dtype.endswith("_0"):
        scale = half(peak / -half_range)
        codes = nearest_codes(blocks, scale, -half_range, half_range - 1) + half_range
        head = [half_bytes(scale)]
    else:
        minimum = half(blocks.min(axis=1, keepdims=True))
        scale = half((blocks.max(axis=1, keepdims=True) - minimum) / (2 * half_range - 1))
        codes = nearest_codes(blocks - minimum, scale, 0, 2 * half_range - 1)
        head = [half_bytes(scale), half_bytes(minimum)]
    whole = codes.astype(np.uint8)
    if dtype.startswith("Q5"):
        head.append(np.packbits(whole >> 4, axis=1, bitorder="little"))
    return [*head, join_nibbles(whole & 15)]
