"""Activations at 16 bits: the sum of a coarse and a fine row of int8 codes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker._native import kernels

Floats = NDArray[np.float32]

EPSILON = 2.0**-23
STEPS = 32639 + 32768
LEAST_RANGE = 1e-30
"""A group whose range is smaller may be taken for one value."""


def check(isa: str, x: Floats) -> None:
    """Every value is within half a step of its group's range, and the sums are those of the codes."""
    codes, scales, offsets, sums = kernels.quantize_twice(isa, x)
    assert codes.dtype == np.int8
    assert codes.shape == (2, x.size)
    assert scales.shape == offsets.shape == sums.shape == (2, x.size // 32)
    groups = x.astype(np.float64).reshape(-1, 32)
    rows = codes.reshape(2, -1, 32) * scales[..., None].astype(np.float64) + offsets[..., None]
    ranges = np.ptp(groups, axis=1)
    sizes = np.abs(groups).max(axis=1)
    bound = ranges / STEPS / 2 * 1.02 + 4 * EPSILON * (sizes + ranges) + LEAST_RANGE
    assert np.all(np.abs(rows.sum(axis=0) - groups) <= bound[:, None])
    assert np.all(np.abs(sums - rows.sum(axis=2)) <= 64 * EPSILON * (sizes + ranges) + LEAST_RANGE)


@pytest.mark.parametrize("exponent", [-45, -38, -30, -20, -5, 0, 5, 20, 36])
@pytest.mark.parametrize("n_groups", [1, 2, 18])
def test_values_of_every_size(isa: str, exponent: int, n_groups: int) -> None:
    values = np.random.default_rng(n_groups).standard_normal(32 * n_groups) * 10.0**exponent
    check(isa, values.astype(np.float32))


def test_every_code_is_reached_and_split_into_bytes(isa: str) -> None:
    for start in range(0, STEPS, 30):
        x = np.minimum(np.arange(start, start + 32, dtype=np.float32), STEPS)
        x[0], x[31] = 0, STEPS  # the group's range: a step is 1
        codes, scales, _, _ = kernels.quantize_twice(isa, x)
        assert scales[:, 0].tolist() == [256, 1]
        whole = 256 * codes[0].astype(int) + codes[1]
        np.testing.assert_array_equal(whole + 32768, x.astype(int))


def test_a_group_of_one_value_is_kept(isa: str) -> None:
    for value in (0.0, -0.0, 1.0, -7.25, 1e-41, 3e38):
        x = np.full(32, value, np.float32)
        codes, scales, offsets, _ = kernels.quantize_twice(isa, x)
        restored = (codes * scales + offsets).sum(axis=0)
        np.testing.assert_allclose(restored, x, atol=LEAST_RANGE)


def test_the_sixteen_bits_beat_eight_by_far(isa: str) -> None:
    x = np.random.default_rng(3).standard_normal(32 * 64).astype(np.float32)
    eight = kernels.quantize(isa, x[None])
    sixteen = kernels.quantize_twice(isa, x)
    errors = [
        np.abs(
            (codes.reshape(len(scales), -1, 32) * scales[..., None] + offsets[..., None]).sum(axis=0)
            - x.reshape(-1, 32)
        ).mean()
        for codes, scales, offsets, _ in (eight, sixteen)
    ]
    assert errors[1] < errors[0] / 100


def test_a_row_must_be_whole_groups(isa: str) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        kernels.quantize_twice(isa, np.zeros(33, np.float32))
