"""Rotary frequencies against those of `transformers` (see tests/golden/rope)."""

import json
from math import inf, sqrt
from pathlib import Path
from typing import Any

import pytest

from stoker.models.rope import (
    Frequencies,
    bf16,
    divided_frequencies,
    fp32,
    linear_frequencies,
    llama3_frequencies,
    longrope_magnitude,
    rope_frequencies,
    yarn_frequencies,
    yarn_magnitude,
)

GOLDEN: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "golden" / "rope" / "golden.json").read_text()
)
CLOSE = 6e-7
"""Relative difference of frequencies that were rounded to fp32 at different steps: some units in the last
place."""


def computed(parameters: dict[str, Any], head_size: int) -> tuple[Frequencies, float]:
    base = parameters["rope_theta"]
    plain = rope_frequencies(base, head_size)
    match parameters["rope_type"]:
        case "default":
            return plain, 1.0
        case "linear":
            return linear_frequencies(plain, parameters["factor"]), 1.0
        case "llama3":
            return (
                llama3_frequencies(
                    plain,
                    factor=parameters["factor"],
                    low=parameters["low_freq_factor"],
                    high=parameters["high_freq_factor"],
                    original_context=parameters["original_max_position_embeddings"],
                ),
                1.0,
            )
        case "yarn":
            frequencies = yarn_frequencies(
                base,
                head_size,
                factor=parameters["factor"],
                original_context=parameters["original_max_position_embeddings"],
                beta_fast=parameters.get("beta_fast", 32.0),
                beta_slow=parameters.get("beta_slow", 1.0),
                truncate=parameters.get("truncate", True),
            )
            return frequencies, yarn_magnitude(parameters["factor"])
        case _:
            original = parameters["original_max_position_embeddings"]
            return (
                divided_frequencies(plain, parameters["short_factor"]),
                longrope_magnitude(parameters["factor"], original),
            )


@pytest.mark.parametrize("name", GOLDEN)
def test_frequencies_are_those_of_transformers(name: str) -> None:
    case = GOLDEN[name]
    frequencies, magnitude = computed(case["parameters"], case["head_size"])
    assert frequencies == pytest.approx(case["frequencies"], rel=CLOSE)
    assert magnitude == pytest.approx(case["magnitude"], rel=1e-12)
    assert all(fp32(frequency) == frequency for frequency in frequencies)


def test_long_frequencies_are_those_of_transformers() -> None:
    case = GOLDEN["longrope"]
    plain = rope_frequencies(case["parameters"]["rope_theta"], case["head_size"])
    long = divided_frequencies(plain, case["parameters"]["long_factor"])
    assert long == pytest.approx(case["long_frequencies"], rel=CLOSE)


def test_each_golden_case_is_another_one() -> None:
    assert len({tuple(case["frequencies"]) for case in GOLDEN.values()}) == len(GOLDEN)


def test_a_factor_that_shortens_has_no_magnitude() -> None:
    assert yarn_magnitude(0.5) == longrope_magnitude(0.5, 4096) == 1.0
    assert yarn_magnitude(8.0, 0.0) == 1.0


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1.0, 1.0),
        (sqrt(640), 25.25),  # 25.298
        (sqrt(2304), 48.0),
        (1 + 2**-8, 1.0),  # a tie: to the even one
        (1 + 3 * 2**-8, 1 + 2**-6),
        (-sqrt(640), -25.25),
        (0.0, 0.0),
    ],
)
def test_bf16_rounds_to_the_nearest(value: float, rounded: float) -> None:
    assert bf16(value) == rounded


def test_fp32_refuses_what_does_not_fit() -> None:
    with pytest.raises(OverflowError):
        fp32(1e39)
    assert fp32(inf) == inf
