"""Activations as int8 codes: how far they are from the values, and what becomes of odd ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from stoker._native import kernels

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

EPSILON = 2.0**-23
LEAST_RANGE = 1e-30
"""A group whose range is smaller may be taken for one value."""


def check(isa: str, x: Floats) -> None:
    """Every value is within half a 255th of its group's range, and the sums are those of the codes."""
    codes, scales, offsets, sums = kernels.quantize(isa, x)
    assert codes.dtype == np.int8
    assert codes.shape == x.shape
    assert scales.shape == offsets.shape == sums.shape == (len(x), x.shape[1] // 32)
    groups = x.astype(np.float64).reshape(len(x), -1, 32)
    restored = codes.reshape(groups.shape) * scales[..., None].astype(np.float64) + offsets[..., None]
    ranges: Doubles = np.ptp(groups, axis=2)
    sizes: Doubles = np.abs(groups).max(axis=2)
    bound = ranges / 255 / 2 * (1 + 1e-4) + 4 * EPSILON * sizes + LEAST_RANGE
    assert np.all(np.abs(restored - groups) <= bound[..., None])
    assert np.all(np.abs(sums - restored.sum(axis=2)) <= 64 * EPSILON * (sizes + ranges) + LEAST_RANGE)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    x=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 4).map(lambda groups: 32 * groups)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
def test_any_values(isa: str, x: Floats) -> None:
    check(isa, x)


@pytest.mark.parametrize("exponent", [-45, -38, -30, -20, -5, 0, 5, 20, 36])
def test_values_of_every_size(isa: str, exponent: int) -> None:
    values = np.random.default_rng(1).standard_normal((33, 96)) * 10.0**exponent
    check(isa, values.astype(np.float32))


def test_a_group_of_one_value_is_kept(isa: str) -> None:
    values = np.array([[0.0], [-0.0], [1.0], [-7.25], [1e-41], [3e38]], np.float32)
    codes, scales, offsets, sums = kernels.quantize(isa, np.repeat(values, 32, axis=1))
    np.testing.assert_allclose(codes[:, :1] * scales + offsets, values, atol=LEAST_RANGE)
    np.testing.assert_allclose(sums[:5], 32 * values[:5], atol=LEAST_RANGE)


def test_zero_beside_others_stays_small(isa: str) -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, 5] = 1000
    check(isa, x)


def test_one_sided_groups_use_every_code(isa: str) -> None:
    x = np.linspace(100, 101, 256, dtype=np.float32)[::-1].reshape(8, 32)
    x[:, 0], x[:, 1] = 100, 101
    codes = kernels.quantize(isa, x)[0]
    assert codes.min() == -128
    assert codes.max() == 127
    check(isa, x)


def test_groups_do_not_see_each_other(isa: str) -> None:
    x = np.random.default_rng(2).standard_normal((3, 128)).astype(np.float32)
    whole = kernels.quantize(isa, x)
    x[:, 32:64] = np.nan
    spoilt = kernels.quantize(isa, x)
    keep = np.r_[0:32, 64:128]
    assert np.array_equal(whole[0][:, keep], spoilt[0][:, keep])
    for before, after in zip(whole[1:], spoilt[1:], strict=True):
        assert before[:, [0, 2, 3]].tobytes() == after[:, [0, 2, 3]].tobytes()


@pytest.mark.parametrize("odd", [np.inf, -np.inf])
def test_an_infinite_value_shows(isa: str, odd: float) -> None:
    x = np.random.default_rng(3).standard_normal((1, 64)).astype(np.float32)
    x[0, 40] = odd
    _, scales, offsets, sums = kernels.quantize(isa, x)
    assert np.isfinite([scales[0, 0], offsets[0, 0], sums[0, 0]]).all()
    assert not np.isfinite([scales[0, 1], offsets[0, 1], sums[0, 1]]).all()


def test_rows_of_part_groups_are_refused(isa: str) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        kernels.quantize(isa, np.zeros((1, 48), np.float32))
