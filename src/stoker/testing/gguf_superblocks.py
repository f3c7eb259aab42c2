"""GGUF's types in super-blocks of 256 elements: their bytes from float values and back.

A super-block has 8 groups of 32 elements, or 16 of 16, whose scales are small integers times an f16.
Encoders round plainly; they do not look for better scales as llama.cpp's do.
"""

import numpy as np

from stoker.testing.gguf_groups import (
    NON_LINEAR,
    Bytes,
    Floats,
    Groups,
    half,
    half_bytes,
    join_nibbles,
    nearest_codes,
    nearest_entries,
    nonzero,
    read_half,
    split_nibbles,
    symmetric,
)

SUPER_BLOCK = 256
SUPER_BLOCK_BYTES = {"Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210, "IQ4_XS": 136}
"""Size of a super-block of each type."""


def encode_super_blocks(values: Floats, dtype: str) -> bytes:
    """Encode ``[n, 256]`` values."""
    match dtype:
        case "Q2_K":
            codes, scales, minimums, d, dmin = _asymmetric(values, 16, n_codes=4, n_scales=16)
            parts = [scales | (minimums << 4), _join_crumbs(codes), half_bytes(d), half_bytes(dmin)]
        case "Q3_K":
            signed, steps, d = _symmetric(values, largest_code=3, largest_scale=31)
            unsigned = (signed + 4).astype(np.uint8)
            high = _join_bits(unsigned.reshape(-1, 8, 32) >> 2)
            parts = [high, _join_crumbs(unsigned & 3), _join_q3_k_scales(steps + 32), half_bytes(d)]
        case "Q4_K" | "Q5_K":
            n_codes = 16 if dtype == "Q4_K" else 32
            codes, scales, minimums, d, dmin = _asymmetric(values, 32, n_codes=n_codes, n_scales=64)
            high = _join_bits(codes.reshape(-1, 8, 32) >> 4)
            low = join_nibbles((codes & 15).reshape(-1, 4, 64)).reshape(-1, 128)
            packed = [low] if dtype == "Q4_K" else [high, low]
            parts = [half_bytes(d), half_bytes(dmin), _join_pairs(scales, minimums), *packed]
        case "Q6_K":
            signed, steps, d = _symmetric(values, largest_code=31, largest_scale=127)
            unsigned = (signed + 32).astype(np.uint8)
            low = join_nibbles((unsigned & 15).reshape(-1, 2, 128)).reshape(-1, 128)
            factors = steps.astype(np.int8).view(np.uint8)
            parts = [low, _join_crumbs(unsigned >> 4), factors, half_bytes(d)]
        case _:
            parts = _iq4_xs(values)
    return np.hstack(parts).tobytes()


def read_super_blocks(blocks: Bytes, dtype: str) -> Groups:
    """Read ``[n, bytes]`` super-blocks as groups of 32, or of 16."""
    match dtype:
        case "Q2_K":
            pairs = blocks[:, :16]
            codes = _split_crumbs(blocks[:, 16:80])
            scale = read_half(blocks, 80) * (pairs & 15)
            return _groups(codes, scale, read_half(blocks, 82) * -(pairs >> 4).astype(np.float32))
        case "Q3_K":
            codes = _split_crumbs(blocks[:, 32:96]) | (_split_bits(blocks[:, :32]) << 2)
            scale = read_half(blocks, 108) * _split_q3_k_scales(blocks[:, 96:108])
            return _groups(codes.astype(np.float32) - 4, scale, np.zeros_like(scale))
        case "Q4_K" | "Q5_K":
            scales, minimums = _split_pairs(blocks[:, 4:16])
            codes = split_nibbles(blocks[:, -128:].reshape(-1, 4, 32)).reshape(-1, 256)
            if dtype == "Q5_K":
                codes |= _split_bits(blocks[:, 16:48]) << 4
            minimum = read_half(blocks, 2) * minimums.astype(np.float32)
            return _groups(codes, read_half(blocks, 0) * scales, -minimum)
        case "Q6_K":
            codes = split_nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 256)
            codes |= _split_crumbs(blocks[:, 128:192]) << 4
            scale = read_half(blocks, 208) * blocks[:, 192:208].view(np.int8)
            return _groups(codes.astype(np.float32) - 32, scale, np.zeros_like(scale))
        case _:
            high = blocks[:, 2:4].copy().view("<u2") >> (2 * np.arange(8, dtype=np.uint16)) & 3
            low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=2).reshape(-1, 8)
            scale = read_half(blocks, 0) * ((low | (high << 4)).astype(np.float32) - 32)
            places = split_nibbles(blocks[:, 8:].reshape(-1, 8, 16))
            return symmetric(NON_LINEAR[places].reshape(-1, 32), scale.reshape(-1, 1))


def _groups(codes: Bytes | Floats, scale: Floats, offset: Floats) -> Groups:
    """Cut ``[n, 256]`` codes by the ``[n, groups]`` scales."""
    cut = codes.astype(np.float32).reshape(scale.size, -1)
    return Groups(cut, scale.astype(np.float32).reshape(-1, 1), offset.astype(np.float32).reshape(-1, 1))


def _asymmetric(
    values: Floats, group: int, *, n_codes: int, n_scales: int
) -> tuple[Bytes, Bytes, Bytes, Floats, Floats]:
    """Return codes ``[n, 256]``, scales and minimums ``[n, groups]``, and what these are multiples of."""
    groups = values.reshape(len(values), -1, group)
    below = np.maximum(0, -groups.min(axis=2))
    size = (np.maximum(0, groups.max(axis=2)) + below) / (n_codes - 1)
    d, dmin = (half(part.max(axis=1, keepdims=True) / (n_scales - 1)) for part in (size, below))
    scales, minimums = nearest_codes(size, d, 0, n_scales - 1), nearest_codes(below, dmin, 0, n_scales - 1)
    codes = nearest_codes(
        groups + (dmin * minimums)[..., None], (d * scales)[..., None], 0, n_codes - 1
    ).reshape(values.shape)
    return codes.astype(np.uint8), scales.astype(np.uint8), minimums.astype(np.uint8), d, dmin


def _symmetric(values: Floats, *, largest_code: int, largest_scale: int) -> tuple[Floats, Floats, Floats]:
    """Return codes ``[n, 256]``, a scale for each 16 of them, and what these are multiples of."""
    groups = values.reshape(len(values), -1, 16)
    size = np.abs(groups).max(axis=2) / largest_code
    d = half(size.max(axis=1, keepdims=True) / largest_scale)
    scales = nearest_codes(size, d, 0, largest_scale)
    codes = nearest_codes(groups, (d * scales)[..., None], -largest_code - 1, largest_code)
    return codes.reshape(values.shape), scales, d


def _iq4_xs(values: Floats) -> list[Bytes]:
    groups = values.reshape(-1, 8, 32)
    size = np.abs(groups).max(axis=2) / NON_LINEAR[-1]
    d = half(size.max(axis=1, keepdims=True) / 31)
    scales = nearest_codes(size, d, 0, 31)
    places = nearest_entries(groups, nonzero(d * scales)[..., None], NON_LINEAR)
    # Where a group's scale is 0, its codes do not matter.
    stored = (scales + 32).astype(np.uint16)
    high = np.bitwise_or.reduce((stored >> 4) << (2 * np.arange(8, dtype=np.uint16)), axis=1)
    low = (stored & 15).astype(np.uint8)
    return [
        half_bytes(d),
        high.astype("<u2")[:, None].view(np.uint8),
        low[:, ::2] | (low[:, 1::2] << 4),
        join_nibbles(places).reshape(-1, 128),
    ]


def _join_bits(bits: Bytes) -> Bytes:
    """``[n, 8, 32]`` bits as ``[n, 32]`` bytes: group g's are bit g."""
    packed: Bytes = np.bitwise_or.reduce(bits << np.arange(8, dtype=np.uint8)[:, None], axis=1)
    return packed


def _split_bits(packed: Bytes) -> Bytes:
    return ((packed[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & 1).reshape(-1, 256)


def _join_crumbs(codes: Bytes) -> Bytes:
    """``[n, 256]`` codes of 2 bits as ``[n, 64]`` bytes: four groups of 32 share 32 bytes."""
    shifts = 2 * np.arange(4, dtype=np.uint8)[:, None]
    quarters = codes.astype(np.uint8).reshape(-1, 2, 4, 32)
    packed: Bytes = np.bitwise_or.reduce(quarters << shifts, axis=2)
    return packed.reshape(-1, 64)


def _split_crumbs(packed: Bytes) -> Bytes:
    shifts = 2 * np.arange(4, dtype=np.uint8)[:, None]
    return ((packed.reshape(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 256)


def _join_pairs(scales: Bytes, minimums: Bytes) -> Bytes:
    """8 scales and 8 minimums of 6 bits as 12 bytes."""
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = minimums[:, :4] | ((minimums[:, 4:] >> 4) << 6)
    return np.hstack([first, second, (scales[:, 4:] & 15) | (minimums[:, 4:] << 4)])


def _split_pairs(packed: Bytes) -> tuple[Bytes, Bytes]:
    first, second, low = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.hstack([first & 63, (low & 15) | ((first >> 6) << 4)])
    return scales, np.hstack([second & 63, (low >> 4) | ((second >> 6) << 4)])


def _join_q3_k_scales(scales: Floats) -> Bytes:
    """16 scales of 6 bits as 12 bytes."""
    whole = scales.astype(np.uint8)
    shifts = 2 * np.arange(4, dtype=np.uint8)[:, None]
    high = np.bitwise_or.reduce((whole.reshape(-1, 4, 4) >> 4) << shifts, axis=1)
    return np.hstack([join_nibbles(whole & 15), high])


def _split_q3_k_scales(packed: Bytes) -> Floats:
    shifts = 2 * np.arange(4, dtype=np.uint8)[:, None]
    high = ((packed[:, None, 8:] >> shifts) & 3).reshape(-1, 16)
    return (split_nibbles(packed[:, :8]) | (high << 4)).astype(np.float32) - 32
