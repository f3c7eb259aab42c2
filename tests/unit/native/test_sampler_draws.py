"""Seeded draws against a sampler in plain Python: same random numbers, same tokens."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker._native import kernels

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

MASK = 2**32 - 1


def philox(counter: tuple[int, int, int, int], key: int) -> tuple[int, int, int, int]:
    """Philox 4x32-10, written from Salmon et al., SC 2011."""
    key_low, key_high = key & MASK, key >> 32
    a, b, c, d = counter
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (second >> 32) ^ b ^ key_low, second & MASK, (first >> 32) ^ d ^ key_high, first & MASK
        key_low, key_high = (key_low + 0x9E3779B9) & MASK, (key_high + 0xBB67AE85) & MASK
    return a, b, c, d


def uniform(seed: int, choice: int, position: int) -> float:
    high, low, _, _ = philox((position, choice, 0, 0), seed)
    return (((high << 32) | low) >> 11) * 2.0**-53


@dataclass(frozen=True)
class Params:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def candidates(logits: Floats, params: Params) -> tuple[NDArray[np.intp], Doubles]:
    """Tokens that may be drawn, in the order of the walk, and their probabilities.

    Temperature, then top-k, then top-p of what is left, then min-p. The walk goes best first once
    anything was cut off from the end of that order, else by token id.
    """
    exponents = (logits.astype(np.float64) - float(logits.max())) / np.float32(params.temperature)
    terms = np.where(exponents > -87, np.exp(np.maximum(exponents, -87)), 0)
    kept = np.flatnonzero(terms)
    best_first = np.lexsort((kept, -terms[kept]))
    if 0 < params.top_k < len(kept):
        kept = kept[best_first[: params.top_k]]
    if params.top_p < 1:
        kept = kept[np.lexsort((kept, -terms[kept]))]
        shares = np.cumsum(terms[kept]) / terms[kept].sum()
        kept = kept[: np.searchsorted(shares, np.float32(params.top_p)) + 1]
    kept = kept[terms[kept] >= np.float32(params.min_p)]
    return kept, terms[kept] / terms[kept].sum()


VARIANTS = [
    Params(),
    Params(temperature=0.7),
    Params(temperature=1.9),
    Params(top_k=1),
    Params(top_k=2),
    Params(top_k=40),
    Params(top_k=10**6),
    Params(top_p=0.9),
    Params(top_p=0.3),
    Params(temperature=3.0, top_p=0.999),
    Params(min_p=0.05),
    Params(temperature=1.5, top_k=50, top_p=0.95, min_p=0.02),
    Params(temperature=0.6, top_k=20, top_p=0.95),
    Params(temperature=2.0, top_p=0.8, min_p=0.1),
]


def draw(isa: str, logits: Floats, params: Params, *, seed: int, choice: int = 0, position: int = 0) -> int:
    return kernels.sample(
        isa,
        logits,
        params.temperature,
        params.top_k,
        params.top_p,
        params.min_p,
        seed,
        choice,
        position,
        -1,
    )[0]


def random_logits(seed: int, n: int) -> Floats:
    return (np.random.default_rng(seed).standard_normal(n) * 3).astype(np.float32)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((MASK,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_reference_is_philox(
    counter: tuple[int, int, int, int], key: int, words: tuple[int, int, int, int]
) -> None:
    # Known answers of the authors' Random123 library.
    assert philox(counter, key) == words


@pytest.mark.parametrize("params", VARIANTS, ids=str)
@pytest.mark.parametrize("n", [2, 17, 1024, 3000])
def test_the_same_tokens_as_the_reference(isa: str, n: int, params: Params) -> None:
    logits = random_logits(n, n)
    logits[1::5] = -np.inf
    tokens, probabilities = candidates(logits, params)
    borders = np.cumsum(probabilities)
    n_compared = 0
    for seed in range(150):
        u = uniform(seed, 0, 0)
        if len(tokens) > 1 and np.abs(borders[:-1] - u).min() < 2e-6:
            continue  # rounding may decide
        place = int(np.searchsorted(borders, u, side="right"))
        assert draw(isa, logits, params, seed=seed) == tokens[min(place, len(tokens) - 1)]
        n_compared += 1
    assert n_compared > 75


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 + 12345, 2**64 - 1])
def test_seed_choice_and_position_key_the_numbers(isa: str, seed: int) -> None:
    logits = np.zeros(256, np.float32)
    for choice in (0, 1, 2, 127):
        for position in (0, 1, 2, 8191, 2**32 - 1):
            expected = math.floor(256 * uniform(seed, choice, position))
            assert draw(isa, logits, Params(), seed=seed, choice=choice, position=position) == expected


@pytest.mark.parametrize("params", VARIANTS, ids=str)
def test_the_distribution(isa: str, params: Params) -> None:
    logits = random_logits(11, 60)
    tokens, probabilities = candidates(logits, params)
    n_draws = 3000
    drawn = [draw(isa, logits, params, seed=5, choice=1, position=p) for p in range(n_draws)]
    assert set(drawn) <= set(tokens.tolist())
    counts = np.bincount(drawn, minlength=60)[tokens]
    expected = n_draws * probabilities
    # Chi-squared, rare tokens together; its mean is the degrees of freedom, its variance twice that.
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    some = wanted > 0
    statistic = float((((observed - wanted) ** 2)[some] / wanted[some]).sum())
    degrees = int(some.sum()) - 1
    assert statistic <= degrees + 5 * math.sqrt(2 * degrees) + 1e-9
