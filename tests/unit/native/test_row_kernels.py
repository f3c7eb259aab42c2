"""RMSNorm, activations, soft caps, rotation and exponentials against NumPy in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stoker._native import kernels

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

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


SIZES = st.sampled_from([1e-30, 1e-3, 1.0, 10.0, 100.0, 1e4])


def activated(activation: str, gate: Doubles, up: Doubles) -> Doubles:
    """The formulas of `ModelConfig.activation`."""
    result: Doubles
    with np.errstate(over="ignore"):
        match activation:
            case "silu":
                result = gate / (1 + np.exp(-gate)) * up
            case "gelu_tanh":
                # (1 + tanh(y)) / 2, but for the bits that are lost near -1.
                y = (2 / np.pi) ** 0.5 * (gate + 0.044715 * gate**3)
                result = gate / (1 + np.exp(-2 * y)) * up
            case _:
                gate = gate.clip(max=7)
                result = (up.clip(-7, 7) + 1) * gate / (1 + np.exp(-1.702 * gate))
    return result


RELATIVE_ERRORS = {"silu": 1e-6, "gelu_tanh": 4e-5, "clamped_swiglu": 1e-5}
"""An exponent's rounding error grows with it: 2 y is up to 87."""


@pytest.mark.parametrize("activation", RELATIVE_ERRORS)
@SETTINGS
@given(n=LENGTHS, seed=SEEDS, size=SIZES)
def test_activations(isa: str, activation: str, *, n: int, seed: int, size: float) -> None:
    gate, up = normal(seed, n, size), normal(seed + 1, n, 4.0)
    expected = activated(activation, gate.astype(np.float64), up.astype(np.float64))
    # The exponential is clamped at exp(88), where a sigmoid is as good as 0.
    atol = 1e-32
    if activation == "clamped_swiglu":  # one more than a value near -1 has lost some of its bits
        atol += 1e-6 * min(7.0, float(np.abs(gate).max()))
    result = kernels.activate(isa, activation, gate, up)
    np.testing.assert_allclose(result, expected, rtol=RELATIVE_ERRORS[activation], atol=atol)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_activated_is_gate_times_up_for_large_gates(isa: str, activation: str) -> None:
    gate = np.array([30.0, 88.0, 1e3, 1e30] * 4, np.float32)
    result = kernels.activate(isa, activation, gate, np.full(16, 2, np.float32))
    np.testing.assert_array_equal(result, 2 * gate)


def test_clamped_values_are_those_of_the_limits(isa: str) -> None:
    limit = np.full(16, 7, np.float32)
    at_limits = kernels.activate(isa, "clamped_swiglu", limit, limit)
    beyond = kernels.activate(isa, "clamped_swiglu", 1e3 * limit, 1e3 * limit)
    assert beyond.tobytes() == at_limits.tobytes()
    below = kernels.activate(isa, "clamped_swiglu", limit, -1e3 * limit)
    assert below.tobytes() == kernels.activate(isa, "clamped_swiglu", limit, -limit).tobytes()


@SETTINGS
@given(n=LENGTHS, seed=SEEDS, size=SIZES, cap=st.sampled_from([0.5, 15.0, 30.0, 50.0]))
def test_softcap(isa: str, n: int, seed: int, size: float, cap: float) -> None:
    x = normal(seed, n, size)
    expected = cap * np.tanh(x.astype(np.float64) / cap)
    np.testing.assert_allclose(kernels.softcap(isa, x, cap), expected, rtol=2e-6, atol=1e-36)


def test_softcap_of_odd_values(isa: str) -> None:
    x = np.array([np.inf, -np.inf, 3e38, -3e38, 0.0, -0.0, np.nan, 1e-40] * 2, np.float32)
    capped = kernels.softcap(isa, x, 30.0)[:8]
    np.testing.assert_allclose(capped, [30, -30, 30, -30, 0, 0, np.nan, 0], rtol=1e-6, atol=1e-39)


@SETTINGS
@given(
    n=st.one_of(LENGTHS, st.integers(1, 70)),
    seed=SEEDS,
    scale=st.sampled_from([1.0, 0.125, 1 / 64**0.5, 3.0]),
)
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
        kernels.activate(isa, "silu", twelve, twelve)
    with pytest.raises(ValueError, match="as long as gate"):
        kernels.activate(isa, "silu", sixteen, thirty_two)
    with pytest.raises(ValueError, match="unknown activation 'relu'; known are silu"):
        kernels.activate(isa, "relu", sixteen, sixteen)
    with pytest.raises(ValueError, match="multiple of 16"):
        kernels.softcap(isa, twelve, 1.0)
    with pytest.raises(ValueError, match="twice as long"):
        kernels.rotate(isa, sixteen, sixteen, sixteen, 1.0)
