"""A row's product has the same bits whatever is multiplied beside it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker._native import kernels
from stoker.testing.gguf_blocks import encode_blocks

Floats = NDArray[np.float32]

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q4_0", "Q4_1"]
N, K = 35, 288


@pytest.fixture(scope="module")
def x() -> Floats:
    random = np.random.default_rng(1)
    return (random.standard_normal((33, K)) * 10 ** random.uniform(-3, 3, (33, 1))).astype(np.float32)


def encoded(dtype: str) -> NDArray[np.uint8]:
    weights = np.random.default_rng(2).standard_normal((N, K)).astype(np.float32)
    return np.frombuffer(encode_blocks(weights, dtype), np.uint8)


@pytest.fixture(scope="module", params=TYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def alone(isa: str, dtype: str, x: Floats) -> Floats:
    """Each row's product, multiplied by itself."""
    data = encoded(dtype)
    return np.concatenate([kernels.matmul(isa, dtype, data, N, K, row[None]) for row in x])


def same_bits(a: Floats, b: Floats) -> bool:
    return a.tobytes() == b.tobytes()


def test_in_a_batch_of_any_size(isa: str, dtype: str, x: Floats, alone: Floats) -> None:
    data = encoded(dtype)
    for rows in range(1, 34):
        assert same_bits(kernels.matmul(isa, dtype, data, N, K, x[:rows]), alone[:rows])


def test_at_any_place_among_31_others(isa: str, dtype: str, x: Floats, alone: Floats) -> None:
    data = encoded(dtype)
    for place in range(32):
        order = np.roll(np.arange(32), place)
        assert same_bits(kernels.matmul(isa, dtype, data, N, K, x[order]), alone[order])


def test_beside_a_row_that_is_not_a_number(isa: str, dtype: str, x: Floats, alone: Floats) -> None:
    spoilt = x[:20].copy()
    spoilt[3], spoilt[7], spoilt[11, ::2] = np.nan, np.inf, -np.inf
    product = kernels.matmul(isa, dtype, encoded(dtype), N, K, spoilt)
    healthy = [row for row in range(20) if row not in {3, 7, 11}]
    assert same_bits(product[healthy], alone[healthy])


def test_of_a_matrix_with_fewer_outputs(isa: str, dtype: str, x: Floats, alone: Floats) -> None:
    data = encoded(dtype).reshape(N, -1)
    for n in (1, 15, 16, 17, 32, 33):
        product = kernels.matmul(isa, dtype, data[:n].ravel(), n, K, x)
        assert same_bits(product, np.ascontiguousarray(alone[:, :n]))
