"""Packing a matrix and reading it back gives exactly the stored values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stoker._native import kernels
from stoker.testing.gguf_blocks import decode_blocks

GROUP_BYTES = {"F32": 128, "F16": 64, "BF16": 64, "Q8_0": 34, "Q4_0": 18, "Q4_1": 20}
SCALE_BYTES = {"Q8_0": 2, "Q4_0": 2, "Q4_1": 4}
LARGEST_SCALE = {"Q8_0": 511, "Q4_0": 8188, "Q4_1": 65504}
"""The minimum, -128 or -8 times the scale, must be an f16 too."""


def random_groups(dtype: str, n_groups: int, seed: int) -> NDArray[np.uint8]:
    """Random bytes, ``[n_groups, bytes]``, with scales that are f16 values of every size."""
    random = np.random.default_rng(seed)
    if dtype == "F32":
        values = random.standard_normal((n_groups, 32)) * 10.0 ** random.integers(-37, 38, (n_groups, 32))
        return values.astype("<f4").view(np.uint8)
    groups = random.integers(0, 256, (n_groups, GROUP_BYTES[dtype]), np.uint8)
    if dtype in SCALE_BYTES:
        shape = (n_groups, SCALE_BYTES[dtype] // 2)
        sizes = 2.0 ** random.uniform(-24, np.log2(LARGEST_SCALE[dtype]), shape)
        scales = (sizes * random.choice([-1, 1], shape)).astype("<f2")
        groups[:, : SCALE_BYTES[dtype]] = scales.view(np.uint8)
    else:
        exponents = groups.view("<u2")
        largest = 0x7C00 if dtype == "F16" else 0x7F80
        exponents[(exponents & largest) == largest] = 0  # neither infinite nor NaN
    return groups


@pytest.mark.parametrize("dtype", GROUP_BYTES)
@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    n=st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 100]),
    groups=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_random_bytes(dtype: str, n: int, groups: int, seed: int) -> None:
    data = random_groups(dtype, n * groups, seed).ravel()
    k = 32 * groups
    unpacked = kernels.unpack(dtype, data, n, k)
    np.testing.assert_array_equal(unpacked, decode_blocks(data.tobytes(), dtype, (n, k)))


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


@pytest.mark.parametrize(("dtype", "offset"), [("Q8_0", 0), ("Q4_0", 0), ("Q4_1", 0), ("Q4_1", 2)])
@pytest.mark.parametrize("scale", [np.inf, -np.inf, np.nan])
def test_a_scale_that_is_not_finite_is_refused(dtype: str, offset: int, scale: float) -> None:
    data = random_groups(dtype, 34, 1)
    data[33, offset : offset + 2] = np.array([scale], "<f2").view(np.uint8)
    with pytest.raises(ValueError, match="scale is infinite, not a number, or too large"):
        kernels.unpack(dtype, data.ravel(), 17, 64)


@pytest.mark.parametrize(("dtype", "scale"), [("Q8_0", 512), ("Q8_0", 65504), ("Q4_0", 8192)])
def test_a_scale_too_large_for_the_layout_is_refused(dtype: str, scale: float) -> None:
    data = random_groups(dtype, 1, 2)
    data[0, :2] = np.array([scale], "<f2").view(np.uint8)
    with pytest.raises(ValueError, match="too large"):
        kernels.unpack(dtype, data.ravel(), 1, 32)


@pytest.mark.parametrize("dtype", GROUP_BYTES)
def test_sizes_that_do_not_fit_are_refused(dtype: str) -> None:
    data = random_groups(dtype, 4, 3).ravel()
    for n, k in ((2, 96), (4, 64), (0, 64), (-1, 64), (4, 33), (4, 0), (4, -32)):
        with pytest.raises(ValueError, match=r"n rows of k values|not a multiple of 32"):
            kernels.unpack(dtype, data, n, k)
