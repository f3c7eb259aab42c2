"""Operations and bytes of steps, the machine's limits, and what is reached of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.errors import SettingsError
from stoker.measure.cases import Case
from stoker.measure.machine import Machine, last_cache_bytes
from stoker.measure.roofline import limit_of, reach
from stoker.measure.step_work import PHASES, Run, Work, step_work
from stoker.models.config import Experts, LayerConfig, ModelConfig

CONFIG = ModelConfig(
    architecture="llama",
    layers=(LayerConfig(), LayerConfig(window=10)),
    width=64,
    n_heads=4,
    n_kv_heads=2,
    head_size=32,
    ffn_width=96,
    vocab_size=1000,
    context_length=4096,
    rotaries=(),
    rope_pairs="halves",
    norm_epsilon=1e-5,
    tied_embeddings=True,
)
MACHINE = Machine(
    isa="portable",
    n_threads=2,
    dot_ops=1000.0,
    fma_ops=100.0,
    bf16_ops=0.0,
    memory_bytes=10.0,
    cache_bytes=50.0,
    last_cache_size=1000,
)


def matrix(name: str, layer: int) -> tuple[str, int]:
    assert layer in (0, 1)
    return ("f32" if name == "router" else "u4"), {"embedding": 5000}.get(name, 100)


def test_products_of_every_layer_are_counted() -> None:
    work = step_work(CONFIG, matrix, 0.0, [Run(0, 3)], 1)
    assert work["qkv"] == Work(dot_ops=2 * 2 * 3 * 64 * (128 + 64 + 64), size_bytes=600)
    assert work["output"] == Work(dot_ops=2 * 2 * 3 * 64 * 128, size_bytes=200)
    assert work["feed_forward"] == Work(dot_ops=2 * 3 * 2 * 3 * 64 * 96, size_bytes=600)
    assert work["logits"] == Work(dot_ops=2 * 64 * 1000, size_bytes=5000)
    assert all(work[phase] == Work() for phase in ("normalize", "sampling", "other"))
    assert set(work) == set(PHASES)


def test_a_step_without_samples_has_no_logits() -> None:
    assert step_work(CONFIG, matrix, 0.0, [Run(0, 3)], 0)["logits"] == Work()


@pytest.mark.parametrize(
    "runs", [[Run(0, 1)], [Run(0, 40)], [Run(25, 8)], [Run(300, 1), Run(7, 5), Run(0, 2)]]
)
def test_attention_is_that_of_every_token_and_key(runs: list[Run]) -> None:
    kv_token_bytes = 12.0
    n_pairs, n_bytes = 0, 0.0
    for layer in CONFIG.layers:
        for run in runs:
            seen: set[int] = set()
            for position in range(run.first, run.first + run.n_tokens):
                first = 0 if layer.window is None else max(0, position - layer.window + 1)
                seen.update(range(first, position + 1))
                n_pairs += position + 1 - first
            n_bytes += len(seen) * kv_token_bytes / 2
    work = step_work(CONFIG, matrix, kv_token_bytes, runs, len(runs))["attention"]
    assert work == Work(float_ops=4.0 * 128 * n_pairs, size_bytes=n_bytes)


def test_of_experts_only_those_in_use_are_counted() -> None:
    config = replace(CONFIG, experts=Experts(n_experts=8, n_used=2, normalized=True))
    one = step_work(config, matrix, 0.0, [Run(0, 1)], 0)["feed_forward"]
    assert one.dot_ops == 2 * 3 * 2 * 2 * 64 * 96
    assert one.float_ops == 2 * 2 * 64 * 8
    assert one.size_bytes == 2 * (100 + 3 * 100 * 2 / 8)
    many = step_work(config, matrix, 0.0, [Run(0, 50)], 0)["feed_forward"]
    assert many.size_bytes == 2 * (100 + 3 * 100)


def test_the_limit_is_what_takes_longer() -> None:
    assert limit_of(Work(dot_ops=500.0, float_ops=10.0), MACHINE, 0) == (0.6, "compute")
    assert limit_of(Work(dot_ops=500.0, size_bytes=100.0), MACHINE, 501) == (10.0, "memory")
    assert limit_of(Work(dot_ops=500.0, size_bytes=100.0), MACHINE, 500) == (2.0, "memory")
    assert limit_of(Work(), MACHINE, 0) == (0.0, "")


def test_what_is_reached_is_the_limit_by_the_median_time() -> None:
    work = dict.fromkeys(PHASES, Work()) | {"qkv": Work(dot_ops=1000.0), "logits": Work(size_bytes=10.0)}
    still = dict.fromkeys(PHASES, 0.0)
    steps = [still | {"qkv": qkv_s, "logits": 1.0, "other": 1.0} for qkv_s in (2.0, 30.0, 4.0)]
    idle = [still | {"qkv": 1.0} for _ in steps]
    reached = reach(work, MACHINE, steps, idle)
    assert reached["qkv"].wall_s == 4.0
    assert reached["qkv"].idle_s == 0.5
    assert reached["qkv"].reached == 0.25
    assert reached["logits"].reached == 0.2  # of the cache's rate
    assert reached["other"].reached is None
    assert reached["step"].wall_s == 6.0
    assert reached["step"].limit_s == pytest.approx(1.2)
    assert reached["step"].bound == "compute"
    assert reached["step"].work == Work(dot_ops=1000.0, size_bytes=10.0)


def test_cases_are_read() -> None:
    assert Case.parse("512, 16x2048") == [Case(0, 512), Case(16, 2048)]
    assert [str(case) for case in Case.parse("512,16x2048")] == [
        "prefill of 512 tokens",
        "decode of 16 x 2,048 tokens",
    ]


@pytest.mark.parametrize(
    "text", ["", "0", "x", "0x5", "3x", "300x5", "9999999", "1,,2", "-1", ",".join(["1"] * 65)]
)
def test_cases_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--cases"):
        Case.parse(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("32768K\n", 32 << 20), ("12M", 12 << 20), ("4096", 4096), ("", 8 << 20), ("huge", 8 << 20)],
)
def test_the_size_of_the_last_cache_level_is_read(tmp_path: Path, text: str, size: int) -> None:
    path = tmp_path / "size"
    assert last_cache_bytes(path) == 8 << 20
    path.write_text(text)
    assert last_cache_bytes(path) == size


def test_the_machine_is_measured() -> None:
    machine = Machine.measure("auto", 1, seconds_each=0.001)
    assert machine.dot_ops > 0
    assert machine.memory_bytes > 0
