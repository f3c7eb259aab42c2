"""Frequencies of rotary position embeddings, and the ways to stretch them over longer contexts.

A pair of elements turns by ``position * frequency`` radians. Every way of stretching comes down to other
frequencies, and for some to a factor of cosine and sine, the magnitude: see `stoker.models.config.Rotary`.
Frequencies are rounded to fp32 where the published models round: the exponent and the result.
"""

import struct
from collections.abc import Sequence
from math import ceil, floor, log, pi, sqrt

Frequencies = tuple[float, ...]
"""Radians a position, one for each pair, rounded to fp32; the fastest first."""


def rope_frequencies(base: float, n_dimensions: int) -> Frequencies:
    """Radians a position of each pair of ``n_dimensions`` elements: ``base ** (-2 * pair / n_dimensions)``.

    Source: RoFormer, https://arxiv.org/abs/2104.09864, section 3.2.2.
    """
    exponents = [fp32(2 * pair / n_dimensions) for pair in range(n_dimensions // 2)]
    return tuple(fp32(1.0 / base**exponent) for exponent in exponents)


def linear_frequencies(frequencies: Frequencies, factor: float) -> Frequencies:
    """Divide all by one factor, so that positions seem to lie closer together.

    Source: Position Interpolation, https://arxiv.org/abs/2306.15595.
    """
    return divided_frequencies(frequencies, [factor] * len(frequencies))


def divided_frequencies(frequencies: Frequencies, factors: Sequence[float]) -> Frequencies:
    """Divide each frequency by its own factor: LongRoPE's lists, and GGUF's for Llama 3.

    Source: LongRoPE, https://arxiv.org/abs/2402.13753; the lists come with the model.
    """
    return tuple(fp32(frequency / factor) for frequency, factor in zip(frequencies, factors, strict=True))


def longrope_magnitude(factor: float, original_context: int) -> float:
    """Factor of cosine and sine beside LongRoPE's lists, when the model states none.

    Args:
        factor: The context's length over the one that the model was first trained for.
        original_context: The latter, in tokens; above 1.
    """
    return 1.0 if factor <= 1 else sqrt(1 + log(factor) / log(original_context))


def llama3_frequencies(
    frequencies: Frequencies, *, factor: float, low: float, high: float, original_context: int
) -> Frequencies:
    """Divide slow frequencies by the factor, keep fast ones, blend those between.

    A pair that turns more than `high` times within the original context is fast, one that turns less than
    `low` times is slow; between the two the share of the kept frequency grows linearly with the turns.

    Source: Llama 3.1's own code, https://github.com/meta-llama/llama-models (``apply_scaling``).
    """
    stretched = []
    for frequency in frequencies:
        turns = original_context * frequency / (2 * pi)
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        stretched.append(fp32((1 - kept) * frequency / factor + kept * frequency))
    return tuple(stretched)


def yarn_frequencies(
    base: float,
    n_dimensions: int,
    *,
    factor: float,
    original_context: int,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Frequencies:
    """Divide slow frequencies by the factor, keep fast ones, with a ramp over the pairs between.

    The pair that turns `beta` times within the original context is, as a real number,
    ``n_dimensions * ln(original_context / (2 pi beta)) / (2 ln(base))``. The ramp goes from the pair of
    `beta_fast`, all kept, to that of `beta_slow`, all divided; `truncate` moves its ends outward to whole
    pairs. (The published code bounds its upper end by the number of elements, not of pairs.)

    `base` must be above 1, the other numbers above 0. Source: YaRN, https://arxiv.org/abs/2309.00071,
    section 3.2.
    """

    def pair_of(turns: float) -> float:
        return n_dimensions * log(original_context / (turns * 2 * pi)) / (2 * log(base))

    first, last = pair_of(beta_fast), pair_of(beta_slow)
    if truncate:
        first, last = floor(first), ceil(last)
    first, last = max(first, 0), min(last, n_dimensions - 1)
    width = last - first if last != first else 0.001
    stretched = []
    for pair, frequency in enumerate(rope_frequencies(base, n_dimensions)):
        divided = min(1.0, max(0.0, (pair - first) / width))
        stretched.append(fp32(divided * frequency / factor + (1 - divided) * frequency))
    return tuple(stretched)


def yarn_magnitude(factor: float, multiplier: float = 1.0) -> float:
    """Factor of cosine and sine beside YaRN's frequencies: ``0.1 * multiplier * ln(factor) + 1``.

    Source: YaRN, section 3.4 (there as the temperature ``1 / t = magnitude ** 2``).
    """
    return 1.0 if factor <= 1 else 0.1 * multiplier * log(factor) + 1.0


def fp32(value: float) -> float:
    """Round to the nearest value that 32 bits hold.

    Raises:
        OverflowError: The value is too large.
    """
    (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    return float(rounded)


def bf16(value: float) -> float:
    """Round to the nearest value that bfloat16 holds, ties to even; the value must be finite.

    Raises:
        OverflowError: The value is too large.
    """
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return float(struct.unpack("<f", struct.pack("<I", rounded))[0])
