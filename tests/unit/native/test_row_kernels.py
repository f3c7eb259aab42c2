"""RMSNorm, SwiGLU, rotation and exponentials against NumPy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stoker._native import kernels

Floats = NDArray[np.float32]

EPSILON = 2.0**-23

LENGTHS = st.integers(1, 40).map(lambda sixteens: 16 * sixteens)
SEEDS = st.integers(0, 2**32 - 1)
SETTINGS = settings(derandomize=True, deadline=None, max_examples=40)


def normal(seed: int, n: int, size: float = 1.0) -> Floats:
    return (np.random.default_rng(seed).standard_normal(n) * size).astype(np.float32)


@SETTINGS
@given(n=LENGTHS, seed=SEEDS, exponent=st.integers(-20, 17), epsilon=st.sampled_from([1e-5, 1e-6, 1e-12]))
def test_rms_norm(isa: str, n: int, seed: int, exponent: int, epsilon: float) -> None:
    x, weight = normal(seed, n, 10.0**exponent), normal(seed + 1, n)
    exact = x.astype(np.float64)
    expected = exact / np.sqrt(np.mean(exact**2) + np.float32(epsilon)) * weight
    np.testing.assert_allclose(kernels.rms_norm(isa, x, weight, epsilon), expected, rtol=4e-6, atol=1e-30)


def test_rms_norm_of_zeros(isa: str) -> None:
    assert not kernels.rms_norm(isa, np.zeros(64, np.float32), normal(1, 64), 1e-5).any()


@SETTINGS
@given(n=LENGTHS, seed=SEEDS, size=st.sampled_from([1e-30, 1e-3, 1.0, 10.0, 100.0, 1e4]))
def test_swiglu(isa: str, n: int, seed: int, size: float) -> None:
    gate, up = normal(seed, n, size), normal(seed + 1, n)
    exact = gate.astype(np.float64)
    with np.errstate(over="ignore"):
        expected = exact / (1 + np.exp(-exact)) * up
    # The exponential is clamped at exp(88), where a sigmoid is as good as 0.
    np.testing.assert_allclose(kernels.swiglu(isa, gate, up), expected, rtol=1e-6, atol=1e-33)


def test_swiglu_is_gate_times_up_for_large_gates(isa: str) -> None:
    gate = np.array([30.0, 88.0, 1e3, 1e30] * 4, np.float32)
    np.testing.assert_array_equal(kernels.swiglu(isa, gate, np.full(16, 2, np.float32)), 2 * gate)


@SETTINGS
@given(n=LENGTHS, seed=SEEDS, scale=st.sampled_from([1.0, 0.125, 1 / 64**0.5, 3.0]))
def test_rotate(isa: str, n: int, seed: int, scale: float) -> None:
    x = normal(seed, 2 * n, 10.0)
    angles = np.random.default_rng(seed).uniform(-4, 4, n)
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    a, b = x[:n].astype(np.float64), x[n:].astype(np.float64)
    expected = np.concatenate([a * cosine - b * sine, b * cosine + a * sine]) * np.float32(scale)
    rotated = kernels.rotate(isa, x, cosine, sine, scale)
    sizes = np.tile(np.hypot(a, b), 2) * scale
    assert np.all(np.abs(rotated - expected) <= 3 * EPSILON * sizes)


def test_rotate_by_nothing(isa: str) -> None:
    x = normal(1, 64)
    rotated = kernels.rotate(isa, x, np.ones(32, np.float32), np.zeros(32, np.float32), 1.0)
    np.testing.assert_array_equal(rotated, x)


@SETTINGS
@given(
    n=st.sampled_from([1, 2, 15, 16, 17, 100, 1023, 1024, 1025, 1041]),
    seed=SEEDS,
    factor=st.sampled_from([1.0, 1.25, 0.01, 3.0]),
)
def test_exp_terms(isa: str, n: int, seed: int, factor: float) -> None:
    x = normal(seed, n, 20.0)
    maximum = float(x.max())
    exponents = (x - np.float32(maximum)) * np.float32(factor)
    terms = kernels.exp_terms(isa, x, maximum, factor)
    expected = np.exp(exponents.astype(np.float64))
    kept = exponents > -87
    assert not terms[~kept].any()
    np.testing.assert_allclose(terms[kept], expected[kept], rtol=4e-7)


def test_exp_terms_of_odd_values(isa: str) -> None:
    x = np.array([0.0, -0.0, -1e-42, -86.9, -87.1, -1e30, -np.inf, np.nan], np.float32)
    terms = kernels.exp_terms(isa, x, 0.0, 1.0)
    np.testing.assert_allclose(terms, [1, 1, 1, np.exp(np.float64(x[3])), 0, 0, 0, 0], rtol=4e-7)


def test_exp_terms_are_the_same_in_every_lane(isa: str) -> None:
    x = normal(2, 1061, 20.0)
    maximum = float(x.max())
    terms = kernels.exp_terms(isa, x, maximum, 0.7)
    alone = np.concatenate([kernels.exp_terms(isa, x[i : i + 1], maximum, 0.7) for i in range(len(x))])
    assert terms.tobytes() == alone.tobytes()


def test_the_largest_term_is_exactly_one(isa: str) -> None:
    for n in (1, 16, 33):
        x = normal(n, n)
        assert kernels.exp_terms(isa, x, float(x.max()), 1.7).max() == 1


def test_lengths_that_do_not_fit_are_refused(isa: str) -> None:
    twelve, sixteen, thirty_two = (np.zeros(n, np.float32) for n in (12, 16, 32))
    with pytest.raises(ValueError, match="multiple of 16"):
        kernels.rms_norm(isa, twelve, twelve, 1e-5)
    with pytest.raises(ValueError, match="as long as x"):
        kernels.rms_norm(isa, thirty_two, sixteen, 1e-5)
    with pytest.raises(ValueError, match="multiple of 16"):
        kernels.swiglu(isa, twelve, twelve)
    with pytest.raises(ValueError, match="as long as gate"):
        kernels.swiglu(isa, sixteen, thirty_two)
    with pytest.raises(ValueError, match="multiple of 16"):
        kernels.rotate(isa, twelve, twelve, twelve, 1.0)
    with pytest.raises(ValueError, match="twice as long"):
        kernels.rotate(isa, sixteen, sixteen, sixteen, 1.0)
