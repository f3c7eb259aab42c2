"""Packing a matrix and reading it back gives the stored values, rounded only where docs/models.md says so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stoker._native import kernels
from stoker.testing.gguf_blocks import BLOCK_BYTES, decode_blocks, read_groups
from stoker.testing.gguf_groups import half
from stoker.testing.gguf_superblocks import SUPER_BLOCK_BYTES

HALVES: dict[str, dict[int, float]] = {
    "Q8_0": {0: 511}, "Q4_0": {0: 8188}, "Q4_1": {0: 65504, 2: 65504}, "Q5_0": {0: 4094},
    "Q5_1": {0: 65504, 2: 65504}, "IQ4_NL": {0: 511}, "IQ4_XS": {0: 511 / 32}, "Q3_K": {108: 511},
    "Q4_K": {0: 1039, 2: 1039}, "Q5_K": {0: 1039, 2: 1039}, "Q2_K": {80: 727, 82: 727}, "Q6_K": {208: 15.9},
}  # fmt: skip
"""Where a block's f16 scales and minimums are, and the largest that the packed layout holds.

Scale and minimum, -128, -16 or -8 times the scale, must be f16 values; so must values that are widened."""

PLAIN_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
BLOCKS = {
    **{name: (32, size * 32) for name, size in PLAIN_BYTES.items()},
    **{name: (32, size) for name, size in BLOCK_BYTES.items()},
    **{name: (256, size) for name, size in SUPER_BLOCK_BYTES.items()},
}
"""Elements and bytes of a block, or of 32 plain values."""

ROUNDED = ("Q4_K", "Q5_K", "IQ4_XS")
WIDENED = ("Q2_K", "Q6_K")


def random_blocks(dtype: str, n_blocks: int, seed: int) -> NDArray[np.uint8]:
    """Random bytes, ``[n_blocks, bytes]``, with scales that are f16 values of every size."""
    random = np.random.default_rng(seed)
    if dtype == "F32":
        values = random.standard_normal((n_blocks, 32)) * 10.0 ** random.integers(-37, 38, (n_blocks, 32))
        return values.astype("<f4").view(np.uint8)
    blocks = random.integers(0, 256, (n_blocks, BLOCKS[dtype][1]), np.uint8)
    if dtype in PLAIN_BYTES:
        exponents = blocks.view("<u2")
        largest = 0x7C00 if dtype == "F16" else 0x7F80
        exponents[(exponents & largest) == largest] = 0  # neither infinite nor NaN
    elif dtype == "MXFP4":
        blocks[:, 0] = random.integers(104, 141, n_blocks)
    else:
        for offset, largest_scale in HALVES[dtype].items():
            sizes = 2.0 ** random.uniform(-24, np.log2(largest_scale), n_blocks)
            sizes[random.random(n_blocks) < 0.1] = 0
            scales = (sizes * random.choice([-1, 1], n_blocks)).astype("<f2")
            blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks


def held(data: bytes, dtype: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The values that packed weights have."""
    if dtype in ROUNDED:
        return read_groups(data, dtype).rounded().values().reshape(shape)
    values = decode_blocks(data, dtype, shape)
    return half(values) if dtype in WIDENED else values


@pytest.mark.parametrize("dtype", BLOCKS)
@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    n=st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 100]),
    blocks=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_bytes(dtype: str, n: int, blocks: int, seed: int) -> None:
    data = random_blocks(dtype, n * blocks, seed).ravel()
    k = BLOCKS[dtype][0] * blocks
    unpacked = kernels.unpack(dtype, data, n, k)
    np.testing.assert_array_equal(unpacked, held(data.tobytes(), dtype, (n, k)))
    floats = kernels.unpack(dtype, data, n, k, dequantize=True)
    np.testing.assert_array_equal(floats, decode_blocks(data.tobytes(), dtype, (n, k)))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_finite_half(dtype: str) -> None:
    halves = np.arange(2**16, dtype="<u2")
    largest = 0x7C00 if dtype == "F16" else 0x7F80
    halves = halves[(halves & largest) != largest]
    data = halves.view(np.uint8)
    unpacked = kernels.unpack(dtype, data, len(halves) // 32, 32)
    expected = decode_blocks(data.tobytes(), dtype, unpacked.shape)
    np.testing.assert_array_equal(unpacked, expected)
    np.testing.assert_array_equal(np.signbit(unpacked), np.signbit(expected))


@pytest.mark.parametrize(
    ("dtype", "offset"), [(dtype, offset) for dtype, halves in HALVES.items() for offset in halves]
)
@pytest.mark.parametrize("scale", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dequantize", [False, True])
def test_a_scale_that_is_not_finite_is_refused(
    dtype: str, offset: int, *, scale: float, dequantize: bool
) -> None:
    data = random_blocks(dtype, 34, 1)
    data[33, offset : offset + 2] = np.array([scale], "<f2").view(np.uint8)
    with pytest.raises(ValueError, match="scale is infinite, not a number, or too large"):
        kernels.unpack(dtype, data.ravel(), 17, 2 * BLOCKS[dtype][0], dequantize=dequantize)


@pytest.mark.parametrize(
    ("dtype", "offset", "scale"),
    [
        ("Q8_0", 0, 512),
        ("Q8_0", 0, 65504),
        ("Q4_0", 0, 8192),
        ("Q5_0", 0, 4096),
        ("IQ4_NL", 0, 512),
        ("IQ4_XS", 0, 512),
        ("Q3_K", 108, 512),
        ("Q4_K", 0, 65504),
        ("Q4_K", 2, 65504),
        ("Q5_K", 0, 65504),
        ("Q2_K", 80, 65504),
        ("Q6_K", 208, 65504),
    ],
)
def test_a_scale_too_large_for_the_layout_is_refused(dtype: str, offset: int, scale: float) -> None:
    data = random_blocks(dtype, 1, 2)
    data[0, offset : offset + 2] = np.array([scale], "<f2").view(np.uint8)
    with pytest.raises(ValueError, match="too large"):
        kernels.unpack(dtype, data.ravel(), 1, BLOCKS[dtype][0])


def test_exponents_of_mxfp4() -> None:
    blocks = random_blocks("MXFP4", 256, 4)
    blocks[:, 0] = np.arange(256)
    values = decode_blocks(blocks[:141].tobytes(), "MXFP4", (141, 32))
    for exponent, block in enumerate(blocks):
        if exponent > 140:  # 12 times the scale does not fit an f16
            with pytest.raises(ValueError, match="too large"):
                kernels.unpack("MXFP4", block, 1, 32)
            continue
        error = np.abs(kernels.unpack("MXFP4", block, 1, 32) - values[exponent]).max()
        assert error <= (0 if exponent >= 104 else 12 * 2.0**-25)


@pytest.mark.parametrize("dtype", BLOCKS)
def test_sizes_that_do_not_fit_are_refused(dtype: str) -> None:
    data = random_blocks(dtype, 4, 3).ravel()
    k = 2 * BLOCKS[dtype][0]
    for n, columns in ((2, k + k // 2), (4, k), (0, k), (-1, k), (4, 33), (4, 0), (4, -k), (2, k - 32)):
        with pytest.raises(ValueError, match=r"n rows of k values|not a multiple of (32|256)"):
            kernels.unpack(dtype, data, n, columns)
    with pytest.raises(ValueError, match="n rows of k values"):
        kernels.unpack(dtype, data[:-1], 2, k)
