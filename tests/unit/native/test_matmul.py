"""Matrix products against NumPy in float64, within what the order of summation may cost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stoker._native import kernels
from stoker.testing.gguf_blocks import decode_blocks, encode_blocks

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

FLOAT_TYPES = ["F32", "F16", "BF16"]
QUANTIZED_TYPES = ["Q8_0", "Q5_1", "Q4_0", "Q4_1"]
TYPES = FLOAT_TYPES + QUANTIZED_TYPES

GROUP = 32
EPSILON = 2.0**-23
TINY = 2.0**-126
"""The smallest normal float; what is smaller may be taken for 0."""


def encode(weights: Floats, dtype: str) -> NDArray[np.uint8]:
    return np.frombuffer(encode_blocks(weights, dtype), np.uint8)


def represented(isa: str, x: Floats) -> Doubles:
    """What is left of `x` when its groups are quantized."""
    codes, scales, offsets, _ = (part.astype(np.float64) for part in kernels.quantize(isa, x))
    return codes * np.repeat(scales, GROUP, axis=1) + np.repeat(offsets, GROUP, axis=1)


def check(isa: str, dtype: str, weights: Floats, x: Floats) -> None:
    data = encode(weights, dtype)
    n, k = weights.shape
    product = kernels.matmul(isa, dtype, data, n, k, x)
    w = decode_blocks(data.tobytes(), dtype, (n, k)).astype(np.float64)
    seen = represented(isa, x) if dtype in QUANTIZED_TYPES else x.astype(np.float64)
    term_sizes = np.abs(seen) @ np.abs(w).T
    if dtype in QUANTIZED_TYPES:
        # Codes count from a group's minimum, so terms as large as its range cancel: of weights and of x.
        ranges = np.abs(w).reshape(n, -1, GROUP).max(axis=2) * 2
        sizes = np.abs(seen).reshape(len(x), -1, GROUP).max(axis=2) * 2
        term_sizes += GROUP * sizes @ ranges.T
    flushed = TINY * (np.abs(seen).sum(axis=1)[:, None] + np.abs(w).sum(axis=1) + k)
    error = np.abs(product - seen @ w.T)
    assert product.shape == (len(x), n)
    assert np.all(error <= EPSILON * (k / 4 + 8) * term_sizes + flushed)


def normal(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", TYPES)
@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    rows=st.integers(1, 33),
    n=st.sampled_from([1, 2, 15, 16, 17, 31, 33, 48, 65]),
    groups=st.sampled_from([1, 2, 3, 4, 5, 8, 9, 18]),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-8, 8),
)
def test_random_shapes(
    isa: str, dtype: str, *, rows: int, n: int, groups: int, seed: int, exponent: int
) -> None:
    k = groups * GROUP
    check(isa, dtype, normal(seed, n, k), normal(seed + 1, rows, k) * np.float32(10.0**exponent))


@pytest.mark.parametrize("dtype", TYPES)
def test_every_number_of_rows(isa: str, dtype: str) -> None:
    for rows in range(1, 34):
        check(isa, dtype, normal(1, 17, 96), normal(2, rows, 96))


@pytest.mark.parametrize("dtype", TYPES)
def test_long_rows(isa: str, dtype: str) -> None:
    check(isa, dtype, normal(3, 33, 4096), normal(4, 5, 4096))


@pytest.mark.parametrize("dtype", TYPES)
def test_outliers(isa: str, dtype: str) -> None:
    x = normal(5, 3, 128)
    x[:, ::37] *= 300
    weights = normal(6, 19, 128)
    weights[:, ::29] *= 50
    check(isa, dtype, weights, x)


@pytest.mark.parametrize("dtype", TYPES)
def test_huge_and_small_values(isa: str, dtype: str) -> None:
    weights = normal(7, 16, 64)
    weights[:8] *= np.float32(400)
    weights[8:] *= np.float32(1e-4)
    x = np.concatenate([normal(8, 2, 64) * np.float32(1e30), normal(9, 2, 64) * np.float32(1e-20)])
    check(isa, dtype, weights, x)


@pytest.mark.parametrize("dtype", TYPES)
def test_subnormal_values(isa: str, dtype: str) -> None:
    x = normal(10, 4, 64)
    x[0] *= np.float32(1e-40)
    x[1, ::2] = 1e-42
    check(isa, dtype, normal(11, 16, 64), x)


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_subnormal_weights(isa: str, dtype: str) -> None:
    # An f16's subnormals, from 6e-8 to 6e-5, are normal floats and must count.
    weights = normal(12, 16, 64) * np.float32(1e-6 if dtype == "F16" else 1e-39)
    check(isa, dtype, weights, normal(13, 4, 64))


@pytest.mark.parametrize("dtype", TYPES)
def test_zeros(isa: str, dtype: str) -> None:
    data = encode(normal(14, 17, 64), dtype)
    x = np.zeros((3, 64), np.float32)
    assert not kernels.matmul(isa, dtype, data, 17, 64, x).any()
    check(isa, dtype, np.zeros((17, 64), np.float32), normal(15, 3, 64))


@pytest.mark.parametrize("dtype", QUANTIZED_TYPES)
def test_extreme_codes(isa: str, dtype: str) -> None:
    # The largest sums of integer products: each activation code at an end, each weight code at an end.
    weights = np.where(np.arange(GROUP * 8) % 2, 1.0, -1.0).astype(np.float32)
    x = np.stack([np.ones_like(weights), weights, -weights])
    x[0, ::GROUP] = -1
    check(isa, dtype, np.stack([weights, -weights, np.abs(weights)]), x)


@pytest.mark.parametrize("dtype", TYPES)
def test_one_hot_rows_pick_columns(isa: str, dtype: str) -> None:
    weights = normal(16, 33, 64)
    data = encode(weights, dtype)
    product = kernels.matmul(isa, dtype, data, 33, 64, np.eye(64, dtype=np.float32))
    expected = decode_blocks(data.tobytes(), dtype, (33, 64)).T
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "n", "k", "width", "message"),
    [
        ("F32", 2, 64, 32, "x must have k columns"),
        ("F32", 3, 64, 64, "n rows of k values"),
        ("F32", 0, 64, 64, "n rows of k values"),
        ("F32", 4, 16, 16, "not a multiple of 32"),
        ("Q8_K", 2, 64, 64, "unknown tensor type"),
    ],
)
def test_refused(isa: str, dtype: str, *, n: int, k: int, width: int, message: str) -> None:
    data = np.zeros(2 * 64 * 4, np.uint8)
    with pytest.raises(ValueError, match=message):
        kernels.matmul(isa, dtype, data, n, k, np.zeros((1, width), np.float32))


def test_unknown_path_is_refused() -> None:
    with pytest.raises(ValueError, match="z80"):
        kernels.matmul("z80", "F32", np.zeros(128, np.uint8), 1, 32, np.zeros((1, 32), np.float32))
