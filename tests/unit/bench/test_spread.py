"""Medians, ratios and intervals of the benchmarks."""

import importlib
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def spread() -> ModuleType:
    return importlib.import_module("harness.spread")


def test_quartiles(spread: ModuleType) -> None:
    assert spread.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]).to_json() == [3.0, 2.0, 4.0]
    assert spread.quartiles([7.0]).to_json() == [7.0, 7.0, 7.0]


def test_ratios_are_taken_within_rounds(spread: ModuleType) -> None:
    assert spread.paired_ratio([2.0, 40.0, 9.0], [1.0, 10.0, 3.0]).to_json() == [3.0, 2.0, 4.0]
    with pytest.raises(ValueError, match="shorter"):
        spread.paired_ratio([1.0, 2.0], [1.0])


def test_an_interval_holds_the_median_and_narrows_with_more_samples(spread: ModuleType) -> None:
    few = spread.bootstrap_median([float(i % 10) for i in range(10)])
    many = spread.bootstrap_median([float(i % 10) for i in range(200)])
    assert few.low <= few.median <= few.high
    assert many.high - many.low < few.high - few.low
    assert many == spread.bootstrap_median([float(i % 10) for i in range(200)])


def test_engines_are_summarized_over_rounds() -> None:
    engine = importlib.import_module("engine")
    samples = {
        "stoker": {"decode 1x128": [[1.0, 1.0], [2.0, 2.0]]},
        "llama.cpp Q4_0": {"decode 1x128": [[3.0, 3.0], [4.0, 4.0]]},
        "stoker 8-bit KV": {"decode 1x128": [[2.0, 2.0], [2.0, 2.0]]},
        "openvino": {"decode 1x128": [[6.0, 6.0], [8.0, 8.0]]},
        "stoker Q4_K_M": {"decode 1x128": [[5.0, 5.0], [5.0, 5.0]]},
        "llama.cpp Q4_K_M": {"decode 1x128": [[10.0, 10.0], [20.0, 20.0]]},
    }
    assert engine.summarize(samples)["decode 1x128"]["stoker"] == [1.5, 1.0, 2.0]
    of_case = engine.ratios(samples)["decode 1x128"]
    assert of_case["llama.cpp Q4_0"] == [2.5, 2.0, 3.0]
    assert of_case["openvino"] == [5.0, 4.0, 6.0]
    assert of_case["openvino by 8-bit KV"] == [3.5, 3.0, 4.0]
    assert of_case["llama.cpp Q4_K_M"] == [3.0, 2.0, 4.0], "compared with Stoker on the same file"


def test_a_step_is_timed_while_all_streams_run() -> None:
    streams = importlib.import_module("harness.streams")
    first = [(float(t), 1.0) for t in range(1, 11)]
    second = [(float(t), 1.0) for t in range(4, 15)]
    step = streams.steady_step([first, second], cpu_s=2.1)
    assert (step.seconds, step.n_steps) == (1.0, 6.0)
    assert step.client_cpu_s == pytest.approx(2.1 * 12 / 21 / 6)


def test_streams_that_did_not_run_together_have_no_step() -> None:
    streams = importlib.import_module("harness.streams")
    with pytest.raises(RuntimeError, match="one stream ended before another began"):
        streams.steady_step([[(1.0, 1.0), (2.0, 1.0)], [(2.0, 1.0), (3.0, 1.0)]], cpu_s=1.0)
