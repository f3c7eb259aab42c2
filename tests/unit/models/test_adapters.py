"""Reading adapters: what fits its base becomes checked arrays, the rest is refused by name."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stoker.core.errors import CorruptFileError, ModelError, UnsupportedModelError
from stoker.models import open_model
from stoker.models.adapters import AdapterLimits, CheckedAdapter
from stoker.models.adapters.reading import adapter_digest, read_adapter
from stoker.models.config import ModelConfig
from stoker.testing.adapters import adapter_weights, write_adapter
from stoker.testing.model_folders import encode_safetensors, raw, write_tiny_folder

LIMITS = AdapterLimits()
QUERIES = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    with open_model(write_tiny_folder(tmp_path_factory.mktemp("base"))) as model:
        return model.config


def read(folder: Path, config: ModelConfig, **limits: int) -> CheckedAdapter:
    return read_adapter(folder, config, AdapterLimits(**limits))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_every_matrix_is_read_as_it_is_stored(tmp_path: Path, config: ModelConfig, dtype: str) -> None:
    weights = {
        name: values.astype(np.float16).astype(np.float32) if dtype == "F16" else values
        for name, values in adapter_weights(config, rank=4).items()
    }
    adapter = read(write_adapter(tmp_path, weights, rank=4, alpha=6, dtype=dtype), config)
    assert (adapter.rank, len(adapter.parts)) == (4, 14)
    for part in adapter.parts:
        kind = "self_attn" if part.target in "qkvo" else "mlp"
        name = f"base_model.model.model.layers.{part.layer}.{kind}.{part.target}_proj"
        assert np.array_equal(part.down, weights[f"{name}.lora_A.weight"])
        assert np.array_equal(part.up, weights[f"{name}.lora_B.weight"])
        assert part.scale == 1.5


def test_ranks_and_alphas_of_single_modules(tmp_path: Path, config: ModelConfig) -> None:
    weights = adapter_weights(config, rank=4, modules=("q_proj", "v_proj"))
    weights |= adapter_weights(config, rank=9, modules=("down_proj",))
    folder = write_adapter(
        tmp_path,
        weights,
        rank=4,
        alpha=8,
        rank_pattern={"down_proj": 9},
        alpha_pattern={"layers.1.self_attn.v_proj": 3, "^model.layers.0.self_attn.q_proj": 5, "^q_proj": 7},
        use_rslora=True,
    )
    scales = {(part.target, part.layer): part.scale for part in read(folder, config).parts}
    assert scales == {
        ("q", 0): 5 / 2,
        ("q", 1): 8 / 2,
        ("v", 0): 8 / 2,
        ("v", 1): 3 / 2,
        ("down", 0): 8 / 3,
        ("down", 1): 8 / 3,
    }


def test_the_digest_names_both_files(tmp_path: Path, config: ModelConfig) -> None:
    weights = adapter_weights(config, rank=4)
    digests = {
        adapter_digest(write_adapter(tmp_path / "a", weights, rank=4), LIMITS),
        adapter_digest(write_adapter(tmp_path / "b", weights, rank=4, alpha=17), LIMITS),
        adapter_digest(
            write_adapter(tmp_path / "c", adapter_weights(config, rank=4, seed=1), rank=4), LIMITS
        ),
    }
    assert len(digests) == 3
    assert adapter_digest(write_adapter(tmp_path / "d", weights, rank=4), LIMITS) in digests


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"invented_later": {"a": 1}}, "invented_later"),
        ({"init_lora_weights": "pissa"}, "changes the base"),
        ({"init_lora_weights": [1]}, "changes the base"),
        ({"target_modules": ["q_proj", "lm_head"]}, "'lm_head'"),
        ({"target_modules": ["q_proj", "v_proj"]}, "no tensor"),
        ({"r": 65}, "at most 64"),
        ({"r": 0}, "r is '0'"),
        ({"r": True}, "r is 'True'"),
        ({"r": 5}, "says 5"),
        ({"lora_alpha": -1}, "lora_alpha"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"rank_pattern": {"(a+)+$": 4}}, "not regular expressions"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": math.inf}}, "malformed|alpha_pattern"),
    ],
)
def test_configs_that_are_refused(
    tmp_path: Path, config: ModelConfig, changes: dict[str, Any], message: str
) -> None:
    weights = adapter_weights(config, rank=4, modules=("q_proj",))
    folder = write_adapter(tmp_path, weights, rank=4)
    given = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(given | changes))
    with pytest.raises(ModelError, match=message):
        read(folder, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{QUERIES}.lora_A.weight": np.zeros((4, 32), np.float32)}, "made for another model"),
        ({f"{QUERIES}.lora_B.weight": np.zeros((96, 4), np.float32)}, "made for another model"),
        ({f"{QUERIES}.lora_A.weight": np.zeros((3, 64), np.float32)}, "rank of 3 in lora_A and 4 in lora_B"),
        ({f"{QUERIES}.lora_A.weight": np.zeros(64, np.float32)}, "two dimensions"),
        ({f"{QUERIES}.lora_A.weight": np.full((4, 64), np.nan, np.float32)}, "not finite"),
        ({f"{QUERIES}.lora_B.weight": np.full((64, 4), np.inf, np.float32)}, "not finite"),
        ({f"{QUERIES}.lora_B.weight": np.full((64, 4), 3.4e38, np.float32)}, "not finite, or too large"),
        ({f"{QUERIES}.lora_A.default.weight": np.zeros((4, 64), np.float32)}, "twice"),
        ({"base_model.model.lm_head.lora_A.weight": np.zeros((4, 64), np.float32)}, "lm_head"),
        ({f"{QUERIES[:-6]}qkv_proj.lora_A.weight": np.zeros((4, 64), np.float32)}, "qkv_proj"),
        ({f"{QUERIES}.lora_magnitude_vector": np.zeros(64, np.float32)}, "lora_magnitude_vector"),
        ({QUERIES.replace("0", "7") + ".lora_A.weight": np.zeros((4, 64), np.float32)}, "no lora_B"),
    ],
)
def test_weights_that_are_refused(
    tmp_path: Path, config: ModelConfig, changes: dict[str, Any], message: str
) -> None:
    weights = adapter_weights(config, rank=4, modules=("q_proj",)) | changes
    folder = write_adapter(tmp_path, adapter_weights(config, rank=4, modules=("q_proj",)), rank=4)
    content = encode_safetensors({name: raw(values) for name, values in weights.items()})
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read(folder, config)


def test_a_layer_that_the_base_has_not(tmp_path: Path, config: ModelConfig) -> None:
    weights = {
        name.replace("layers.1", "layers.2"): values
        for name, values in adapter_weights(config, rank=4, modules=("q_proj",)).items()
    }
    with pytest.raises(UnsupportedModelError, match="2 layers; the adapter was made for another model"):
        read(write_adapter(tmp_path, weights, rank=4), config)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_truncated_and_oversized_files(tmp_path: Path, config: ModelConfig, name: str) -> None:
    path = write_adapter(tmp_path, adapter_weights(config, rank=4), rank=4) / name
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(CorruptFileError, match="is missing"):
        read(tmp_path, config)
    path.write_bytes(content[:-1])
    with pytest.raises(CorruptFileError, match=r"malformed|truncated"):
        read(tmp_path, config)
    path.write_bytes(content + b" " * 2**21)
    with pytest.raises(CorruptFileError, match="more than"):
        read(tmp_path, config, max_file_bytes=2**20)


def test_integers_are_no_adapter(tmp_path: Path, config: ModelConfig) -> None:
    folder = write_adapter(tmp_path, adapter_weights(config, rank=4, modules=("q_proj",)), rank=4)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"'))
    with pytest.raises(UnsupportedModelError, match="I32"):
        read(folder, config)


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + ".gguf"])
def test_a_path_that_no_file_can_have(tmp_path: Path, config: ModelConfig, name: str) -> None:
    with pytest.raises(CorruptFileError, match="cannot be read"):
        read_adapter(tmp_path / name, config, AdapterLimits())
    with pytest.raises(CorruptFileError, match="cannot be read"):
        adapter_digest(tmp_path / name, AdapterLimits())
