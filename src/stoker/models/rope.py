"""Frequencies of rotary position embeddings."""

import struct


def rope_frequencies(base: float, n_dimensions: int) -> tuple[float, ...]:
    """Radians a position of each pair of ``n_dimensions`` elements.

    Rounded to fp32 where the published models round: the exponent and the result.
    """
    exponents = [fp32(2 * pair / n_dimensions) for pair in range(n_dimensions // 2)]
    return tuple(fp32(1.0 / base**exponent) for exponent in exponents)


def fp32(value: float) -> float:
    """Round to the nearest value that 32 bits hold."""
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)
