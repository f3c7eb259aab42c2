"""The steps that `bench/embeddings.py` times are ones that engines take."""

import importlib
from types import ModuleType

import pytest

from stoker.testing.step_engine import FakeStepEngine


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return importlib.import_module("embeddings")


def test_steps_read_pool_or_give_logits(bench: ModuleType) -> None:
    engine = FakeStepEngine(kv_blocks=64, vocab_size=10_000)
    for n_inputs, n_tokens in bench.SHAPES:
        found = {kind: engine.forward(bench.make_plan(kind, n_inputs, n_tokens)) for kind in bench.KINDS}
        assert {kind for kind, result in found.items() if len(result.sums) == n_inputs} == {"mean", "last"}
        assert {kind for kind, result in found.items() if any(result.token_ids)} == {"logits"}
        assert found["mean"].sums != found["last"].sums


def test_what_is_added_is_by_round(bench: ModuleType) -> None:
    seconds = {
        "read": [1.0, 2.0, 4.0],
        "mean": [1.1, 2.2, 4.4],
        "last": [1.0, 2.0, 4.0],
        "logits": [2.0, 4.0, 8.0],
    }
    summary = bench.summarize(seconds, 100)
    assert [summary["added"][kind][0] for kind in ("mean", "last", "logits")] == pytest.approx(
        [0.1, 0.0, 1.0]
    )
    assert summary["tokens_per_s"]["read"][0] == 50.0
