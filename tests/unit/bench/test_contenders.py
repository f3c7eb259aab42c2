"""Files of larger shapes can be loaded, and contenders obey."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from stoker.models import open_model


@pytest.fixture(scope="module")
def shapes() -> Any:
    return importlib.import_module("shapes")


def small(shapes: Any) -> Any:
    return shapes.Shape(
        layers=8, width=256, heads=4, kv_heads=2, head_size=64, ffn_width=512, tied=False, rope_factor=8.0,
        vocabulary=32_000, context=8192,
    )  # fmt: skip


@pytest.mark.parametrize("mix", ["Q4_0", "Q4_1", "Q4_K_M"])
def test_a_random_model_is_what_its_shape_says(shapes: Any, tmp_path: Path, mix: str) -> None:
    path = tmp_path / "model.gguf"
    shapes.write_model(path, "small", small(shapes), mix)
    with open_model(path) as model:
        config = model.config
        types = {name: tensor.dtype for name, tensor in model.tensors.items()}
    assert (config.n_layers, config.width, config.n_kv_heads, config.vocab_size) == (8, 256, 2, 32_000)
    assert config.context_length == 8192
    plain = "Q4_K" if mix == "Q4_K_M" else mix
    assert types["output.weight"] == ("Q6_K" if mix == "Q4_K_M" else "Q8_0")
    assert types["blk.1.ffn_gate.weight"] == plain
    assert types["blk.0.ffn_down.weight"] == ("Q6_K" if mix == "Q4_K_M" else plain)
    assert list(tmp_path.iterdir()) == [path]


def test_the_shapes_are_those_of_the_models(shapes: Any) -> None:
    def parameters(name: str) -> int:
        total = 0
        for tensor in shapes.tensors(shapes.SHAPES[name], "Q4_0"):
            n_values = 1
            for size in tensor.shape:
                n_values *= size
            total += n_values
        return total

    assert [round(parameters(name) / 1e9, 2) for name in ("1B", "3B", "8B")] == [1.24, 3.21, 8.03]


def test_a_file_that_does_not_fit_the_disk_is_refused(
    shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "SPARE_BYTES", 1 << 62)
    with pytest.raises(SystemExit, match="give another folder by --out"):
        shapes.write_model(tmp_path / "model.gguf", "small", small(shapes), "Q4_0")
    assert list(tmp_path.iterdir()) == []


def test_a_contender_times_what_it_is_asked_for(shapes: Any, tmp_path: Path) -> None:
    contender = importlib.import_module("harness.contender")
    path = tmp_path / "model.gguf"
    shapes.write_model(path, "small", small(shapes), "Q4_1")
    entry = contender.Entry(
        name="stoker",
        python=Path(sys.executable),
        script="stoker_engine.py",
        model=path,
        cases=(("prefill", 1, 64), ("decode", 3, 40)),
    )
    with contender.Contender(entry, 1) as running:
        assert running.hello["engine"] == "stoker"
        for _ in range(2):
            prefill = running.time(("prefill", 1, 64), repeats=2, steps=0)
            steps = running.time(("decode", 3, 40), repeats=0, steps=4, warm_s=0.0)
            assert len(prefill) == 2
            assert len(steps) == 4
            assert min(prefill + steps) > 0


def test_what_a_step_must_do_is_counted_by_the_packed_weights(shapes: Any, tmp_path: Path) -> None:
    work = importlib.import_module("harness.work")
    path = tmp_path / "model.gguf"
    shape = small(shapes)
    shapes.write_model(path, "small", shape, "Q4_1")
    step, two = work.work_of(path, (("decode", 1, 99), ("decode", 2, 99)), tmp_path)
    weights = shape.layers * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 512 * 256) + 32_000 * 256
    assert step["matrix_ops"] == 2.0 * weights
    assert two["matrix_ops"] == 2 * step["matrix_ops"]
    assert two["weight_bytes"] == step["weight_bytes"] > weights / 2
    assert two["kv_bytes"] == 2 * step["kv_bytes"] > 0


@pytest.mark.parametrize("text", ["prefill", "decode 16", "16x512", "prefill 5x5", ""])
def test_what_is_no_case_is_refused(text: str) -> None:
    lineup = importlib.import_module("harness.lineup")
    with pytest.raises(ValueError, match="write 'prefill 512'"):
        lineup.parse_case(text)
    assert lineup.parse_case("decode 16x512") == ("decode", 16, 512)
