"""Quantized groups as arrays, and the rounding that GGUF's encoders share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.integer]
"""Bytes, or codes of fewer bits: in fact uint8, which NumPy's types lose at every shift."""

NON_LINEAR = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
"""What the codes of IQ4_NL and IQ4_XS mean."""

FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
"""What the codes of MXFP4 mean, doubled."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of values that share a scale: ``code * scale + offset``.

    Attributes:
        codes: Whole numbers, ``[n, 16 or 32]``; signed where the type is symmetric.
        scale: ``[n, 1]``.
        offset: ``[n, 1]``; zeros where the type is symmetric.
    """

    codes: Floats
    scale: Floats
    offset: Floats

    def values(self) -> Floats:
        """The stored values, rounded once."""
        return self.codes * self.scale + self.offset

    def rounded(self) -> "Groups":
        """The same codes with scales and offsets that are f16 values."""
        return Groups(self.codes, half(self.scale), half(self.offset))


def symmetric(codes: Floats, scale: Floats) -> Groups:
    """Groups without an offset."""
    return Groups(codes, scale, np.zeros_like(scale))


def half(values: NDArray[np.floating]) -> Floats:
    """Round to what an f16 can hold."""
    return values.astype(np.float16).astype(np.float32)


def half_bytes(values: Floats) -> Bytes:
    """F16 values, ``[n, 1]``, as bytes, ``[n, 2]``."""
    return values.astype("<f2").view(np.uint8)


def read_half(blocks: Bytes, offset: int) -> Floats:
    """Read each block's f16 at a byte offset, ``[n, 1]``."""
    return blocks[:, offset : offset + 2].copy().view("<f2").astype(np.float32)


def nearest_codes(values: Floats, scale: Floats, low: int, high: int) -> Floats:
    """Codes whose products with the scale are nearest to the values."""
    codes: Floats = np.clip(np.rint(values / nonzero(scale)), low, high)
    return codes


def nearest_entries(values: Floats, scale: Floats, table: Floats) -> Bytes:
    """Places in a table whose products with the scale are nearest to the values."""
    distances = np.abs((values / nonzero(scale))[..., None] - table)
    places: Bytes = distances.argmin(axis=-1).astype(np.uint8)
    return places


def nonzero(scale: Floats) -> Floats:
    """Replace zeros by ones, so as to divide."""
    return np.where(scale == 0, np.float32(1), scale)


def join_nibbles(codes: NDArray[np.generic]) -> Bytes:
    """``[..., 2 n]`` codes of 4 bits as ``[..., n]`` bytes, the first half in the low nibbles."""
    whole = codes.astype(np.uint8)
    middle = whole.shape[-1] // 2
    return whole[..., :middle] | (whole[..., middle:] << 4)


def split_nibbles(packed: Bytes) -> Bytes:
    """Undo `join_nibbles`."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)
