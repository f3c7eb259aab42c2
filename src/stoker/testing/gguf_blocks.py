"""GGUF's tensor types from float values and back, in plain NumPy, as a reference for tests.

Block layouts (32 consecutive elements): ``Q8_0`` is an f16 scale and 32 signed bytes; ``Q4_0`` an f16
scale and 16 bytes; ``Q4_1`` an f16 scale, an f16 minimum and 16 bytes. A byte of 4-bit codes holds
element i in its low and element i + 16 in its high half.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

TYPE_NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "BF16": 30}
"""GGUF's number of each type that can be written."""

BLOCK = 32


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
    blocks = flat.reshape(-1, BLOCK)
    match dtype:
        case "Q8_0":
            scale = _half(np.abs(blocks).max(axis=1, keepdims=True) / 127)
            signed = _codes(blocks, scale, -127, 127).astype(np.int8)
            return np.hstack([_half_bytes(scale), signed.view(np.uint8)]).tobytes()
        case "Q4_0":
            largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
            scale = _half(largest / -8)
            return np.hstack([_half_bytes(scale), _nibbles(_codes(blocks, scale, -8, 7) + 8)]).tobytes()
        case "Q4_1":
            minimum = _half(blocks.min(axis=1, keepdims=True))
            scale = _half((blocks.max(axis=1, keepdims=True) - minimum) / 15)
            codes = _codes(blocks - minimum, scale, 0, 15)
            return np.hstack([_half_bytes(scale), _half_bytes(minimum), _nibbles(codes)]).tobytes()
    raise ValueError(f"no encoder for {dtype!r}; there are {', '.join(TYPE_NUMBERS)}")


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
    block_bytes = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[dtype]
    blocks = np.frombuffer(data, np.uint8).reshape(-1, block_bytes)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    match dtype:
        case "Q8_0":
            values = blocks[:, 2:].view(np.int8) * scale
        case "Q4_0":
            values = (_split(blocks[:, 2:]) - np.float32(8)) * scale
        case _:
            minimum = blocks[:, 2:4].copy().view("<f2").astype(np.float32)
            values = _split(blocks[:, 4:]) * scale + minimum
    return values.astype(np.float32).reshape(shape)


def _half(values: NDArray[np.floating]) -> Floats:
    """Round to what an f16 can hold."""
    return values.astype(np.float16).astype(np.float32)


def _half_bytes(values: Floats) -> Bytes:
    return values.astype("<f2").view(np.uint8)


def _codes(values: Floats, scale: Floats, low: int, high: int) -> Floats:
    safe = np.where(scale == 0, np.float32(1), scale)
    codes: Floats = np.clip(np.rint(values / safe), low, high)
    return codes


def _nibbles(codes: Floats) -> Bytes:
    whole = codes.astype(np.uint8)
    packed: Bytes = np.bitwise_or(whole[:, :16], whole[:, 16:] * np.uint8(16))
    return packed


def _split(packed: Bytes) -> Floats:
    return np.hstack([packed & 15, packed >> 4]).astype(np.float32)
