"""Reading bottleneck adapters: what fits its base becomes checked arrays, the rest is refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stoker.core.errors import CorruptFileError, ModelError, UnsupportedModelError
from stoker.models import open_model
from stoker.models.adapters import AdapterLimits, CheckedAdapter
from stoker.models.adapters.reading import adapter_digest, read_adapter
from stoker.models.config import ModelConfig
from stoker.testing.adapters import bottleneck_weights, write_bottlenecks
from stoker.testing.model_folders import encode_safetensors, raw, write_tiny_folder

LIMITS = AdapterLimits()
FIRST = "model.layers.0.attention_adapters.adapters.mine"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    with open_model(write_tiny_folder(tmp_path_factory.mktemp("base"))) as model:
        return model.config


def read(folder: Path, config: ModelConfig, **limits: int) -> CheckedAdapter:
    return read_adapter(folder, config, AdapterLimits(**limits))


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_every_module_is_read_as_it_is_stored(tmp_path: Path, config: ModelConfig, dtype: str) -> None:
    weights = bottleneck_weights(config, size=5)
    adapter = read(write_bottlenecks(tmp_path, weights, dtype=dtype, scaling=2), config)
    assert (adapter.rank, adapter.parts, len(adapter.bottlenecks)) == (5, (), 4)
    for part in adapter.bottlenecks:
        half = "attention" if part.half == "attention" else "output"
        name = f"model.layers.{part.layer}.{half}_adapters.adapters.mine"
        assert np.array_equal(part.down, weights[f"{name}.adapter_down.0.weight"])
        assert np.array_equal(part.bias, weights[f"{name}.adapter_down.0.bias"])
        assert np.array_equal(part.up, weights[f"{name}.adapter_up.weight"])
        assert np.array_equal(part.up_bias, weights[f"{name}.adapter_up.bias"])
        assert (part.scale, part.bend, part.of_stream) == (2.0, "silu", False)


@pytest.mark.parametrize(
    ("before", "residual", "after", "of_stream"),
    [
        (False, True, True, False),
        (False, False, True, False),
        (True, True, True, True),
        (True, False, False, True),
    ],
)
def test_what_modules_read(
    tmp_path: Path, config: ModelConfig, *, before: bool, residual: bool, after: bool, of_stream: bool
) -> None:
    folder = write_bottlenecks(
        tmp_path,
        bottleneck_weights(config, size=4, halves=("output",)),
        original_ln_before=before,
        residual_before_ln=residual,
        original_ln_after=after,
    )
    assert {part.of_stream for part in read(folder, config).bottlenecks} == {of_stream}


def test_the_digest_names_both_files(tmp_path: Path, config: ModelConfig) -> None:
    weights = bottleneck_weights(config, size=4)
    digests = {
        adapter_digest(write_bottlenecks(tmp_path / "a", weights), LIMITS),
        adapter_digest(write_bottlenecks(tmp_path / "b", weights, scaling=2.0), LIMITS),
        adapter_digest(write_bottlenecks(tmp_path / "c", bottleneck_weights(config, size=4, seed=1)), LIMITS),
    }
    assert len(digests) == 3
    assert adapter_digest(write_bottlenecks(tmp_path / "d", weights), LIMITS) in digests


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"non_linearity": "leakyrelu"}, "non_linearity is 'leakyrelu'"),
        ({"non_linearity": None}, "non_linearity is 'None'"),
        ({"scaling": "learned"}, "scaling is 'learned'"),
        ({"scaling": 0}, "scaling is '0'"),
        ({"is_parallel": True}, "is_parallel"),
        ({"use_gating": True}, "use_gating"),
        ({"phm_layer": True}, "phm_layer"),
        ({"inv_adapter": "nice"}, "inv_adapter"),
        ({"ln_after": True}, "ln_after"),
        ({"ln_before": True}, "ln_before"),
        ({"invented_later": 1}, "invented_later"),
        ({"residual_before_ln": "post_add"}, "DoubleSeqBnConfig"),
        ({"original_ln_after": False}, "DoubleSeqBnConfig"),
    ],
)
def test_configs_that_are_refused(
    tmp_path: Path, config: ModelConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read(write_bottlenecks(tmp_path, bottleneck_weights(config, size=4), **changes), config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{FIRST}.adapter_down.0.weight": np.zeros((4, 32), np.float32)}, "expected one and its reverse"),
        ({f"{FIRST}.adapter_down.0.weight": np.zeros(64, np.float32)}, "expected one and its reverse"),
        (
            {
                f"{FIRST}.adapter_down.0.weight": np.zeros((0, 64), np.float32),
                f"{FIRST}.adapter_down.0.bias": np.zeros(0, np.float32),
                f"{FIRST}.adapter_up.weight": np.zeros((64, 0), np.float32),
            },
            "expected one and its reverse",
        ),
        ({f"{FIRST}.adapter_down.0.bias": np.zeros(5, np.float32)}, r"biases of \[5\] and \[64\]"),
        ({f"{FIRST}.adapter_up.bias": np.zeros(63, np.float32)}, r"biases of \[4\] and \[63\]"),
        ({f"{FIRST}.adapter_up.bias": np.full(64, np.nan, np.float32)}, "not finite"),
        ({f"{FIRST}.adapter_down.0.weight": np.full((4, 64), np.inf, np.float32)}, "not finite"),
        ({f"{FIRST}.adapter_norm_before.weight": np.zeros(64, np.float32)}, "adapter_norm_before"),
        ({f"{FIRST}.adapter_up.bias".removeprefix("model."): np.zeros(64, np.float32)}, "twice"),
        ({"model.layers.7.output_adapters.adapters.a.adapter_up.bias": np.zeros(64, np.float32)}, "has no"),
        ({"lm_head.weight": np.zeros((4, 64), np.float32)}, "lm_head"),
    ],
)
def test_weights_that_are_refused(
    tmp_path: Path, config: ModelConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read(write_bottlenecks(tmp_path, bottleneck_weights(config, size=4) | changes), config)


def test_adapters_of_other_models_are_refused(tmp_path: Path, config: ModelConfig) -> None:
    for other in (replace(config, width=128), replace(config, layers=config.layers * 2)):
        with pytest.raises(UnsupportedModelError, match="made for another model"):
            read(write_bottlenecks(tmp_path, bottleneck_weights(other, size=4)), config)
    folder = write_bottlenecks(tmp_path, bottleneck_weights(config, size=4))
    for other in (replace(config, post_norms=True), replace(config, residual_scale=0.5)):
        with pytest.raises(UnsupportedModelError, match="llama changes it"):
            read(folder, other)


def test_models_that_norm_what_halves_give_have_those_that_read_it(
    tmp_path: Path, config: ModelConfig
) -> None:
    other = replace(config, post_norms=True, architecture="gemma2")
    weights = bottleneck_weights(config, size=4)
    assert len(read(write_bottlenecks(tmp_path / "houlsby", weights), other).bottlenecks) == 4
    folder = write_bottlenecks(tmp_path / "pfeiffer", weights, original_ln_before=True)
    with pytest.raises(UnsupportedModelError, match=r"original_ln_before is on, .* for gemma2"):
        read(folder, other)


def test_sizes_have_the_limit_of_ranks(tmp_path: Path, config: ModelConfig) -> None:
    folder = write_bottlenecks(tmp_path, bottleneck_weights(config, size=65))
    with pytest.raises(UnsupportedModelError, match=r"of 65, .* at most 64 \(max_lora_rank\)"):
        read(folder, config)
    assert read(folder, config, max_rank=65).rank == 65


def test_pickles_and_heads_are_refused(tmp_path: Path, config: ModelConfig) -> None:
    folder = write_bottlenecks(tmp_path, bottleneck_weights(config, size=4))
    (folder / "head_config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="with_head=False"):
        read(folder, config)
    (folder / "adapter.safetensors").rename(folder / "pytorch_adapter.bin")
    with pytest.raises(UnsupportedModelError, match="can run code when it is opened"):
        read(folder, config)


def test_damaged_files(tmp_path: Path, config: ModelConfig) -> None:
    folder = write_bottlenecks(tmp_path, bottleneck_weights(config, size=4))
    for content, message in (("{", "malformed"), ('{"config": 1}', "no object 'config'"), (None, "missing")):
        path = folder / "adapter_config.json"
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        with pytest.raises(CorruptFileError, match=message):
            read(folder, config)
    write_bottlenecks(folder, {})
    with pytest.raises(CorruptFileError, match="no tensors"):
        read(folder, config)
    tensors = {f"{FIRST}.adapter_up.bias": raw(np.zeros(64, np.float32))}
    path = folder / "adapter.safetensors"
    path.write_bytes(encode_safetensors(tensors).replace(b'"F32"', b'"I32"'))
    with pytest.raises(ModelError, match="has no adapter_down"):
        read(folder, config)
    write_bottlenecks(folder, bottleneck_weights(config, size=4))
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"'))
    with pytest.raises(UnsupportedModelError, match="I32"):
        read(folder, config)
