"""Reading llama.cpp's adapters: as PEFT's of the same numbers, and what does not fit refused by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stoker.core.errors import CorruptFileError, ModelError, UnsupportedModelError
from stoker.models import open_model
from stoker.models.adapters import AdapterLimits, CheckedAdapter
from stoker.models.adapters.reading import adapter_digest, read_adapter
from stoker.models.config import ModelConfig
from stoker.testing.adapters import adapter_weights, write_adapter, write_gguf_adapter
from stoker.testing.gguf_files import MetadataValue, encode_gguf, stored
from stoker.testing.model_folders import write_tiny_folder

LIMITS = AdapterLimits()
QUERIES = "blk.0.attn_q.weight"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    with open_model(write_tiny_folder(tmp_path_factory.mktemp("base"), n_heads=4, n_kv_heads=2)) as model:
        return model.config


def read(path: Path, config: ModelConfig, **limits: int) -> CheckedAdapter:
    return read_adapter(path, config, AdapterLimits(**limits))


def assert_same(found: CheckedAdapter, expected: CheckedAdapter, tolerance: float = 0.0) -> None:
    assert found.rank == expected.rank
    by_place = {(part.target, part.layer): part for part in expected.parts}
    assert len(found.parts) == len(by_place)
    for part in found.parts:
        other = by_place[part.target, part.layer]
        assert part.scale == other.scale
        for values, wanted in ((part.down, other.down), (part.up, other.up)):
            assert values.shape == wanted.shape
            assert np.abs(values - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_it_is_what_peft_s_folder_is(tmp_path: Path, config: ModelConfig, dtype: str) -> None:
    weights = {
        name: values.astype(np.float16).astype(np.float32) if dtype == "F16" else values
        for name, values in adapter_weights(config, rank=4).items()
    }
    expected = read(write_adapter(tmp_path / "peft", weights, rank=4, alpha=6), config)
    path = write_gguf_adapter(tmp_path / "a.gguf", config, weights, alpha=6, dtype=dtype)
    assert_same(read(path, config), expected)


def test_codes_of_8_bits_are_near(tmp_path: Path, config: ModelConfig) -> None:
    weights = adapter_weights(config, rank=32)
    expected = read(write_adapter(tmp_path / "peft", weights, rank=32), config)
    path = write_gguf_adapter(tmp_path / "a.gguf", config, weights, dtype="Q8_0")
    assert_same(read(path, config), expected, tolerance=0.005)


def test_heads_are_put_in_order_only_where_the_converter_put_them_in_another(
    tmp_path: Path, config: ModelConfig
) -> None:
    other = replace(config, architecture="qwen2")
    weights = adapter_weights(config, rank=4)
    expected = read(write_adapter(tmp_path / "peft", weights, rank=4), other)
    path = write_gguf_adapter(tmp_path / "a.gguf", other, weights, permuted=False)
    assert_same(read(path, other), expected)


def test_mistral_s_two_names_are_one(tmp_path: Path, config: ModelConfig) -> None:
    weights = adapter_weights(config, rank=4)
    path = write_gguf_adapter(
        tmp_path / "a.gguf", config, weights, changes={"general.architecture": "mistral3"}
    )
    assert_same(read(path, config), read(write_adapter(tmp_path / "peft", weights, rank=4), config))


def test_each_matrix_may_have_a_rank_of_its_own(tmp_path: Path, config: ModelConfig) -> None:
    weights = adapter_weights(config, rank=4, modules=("q_proj",))
    weights |= adapter_weights(config, rank=8, modules=("down_proj",))
    adapter = read(write_gguf_adapter(tmp_path / "a.gguf", config, weights, alpha=16), config)
    assert adapter.rank == 8
    assert {(part.target, part.scale) for part in adapter.parts} == {("q", 4.0), ("down", 2.0)}


def test_the_digest_names_the_file_s_bytes(tmp_path: Path, config: ModelConfig) -> None:
    weights = adapter_weights(config, rank=4)
    first = write_gguf_adapter(tmp_path / "a.gguf", config, weights)
    same = write_gguf_adapter(tmp_path / "b.gguf", config, weights)
    other = write_gguf_adapter(tmp_path / "c.gguf", config, weights, alpha=17)
    assert adapter_digest(first, LIMITS) == adapter_digest(same, LIMITS) == read(first, config).digest
    assert adapter_digest(first, LIMITS) != adapter_digest(other, LIMITS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.type": "model"}, "general.type is 'model', expected 'adapter'"),
        ({"adapter.type": "control_vector"}, "adapter.type is 'control_vector', expected 'lora'"),
        ({"general.architecture": "qwen2"}, "'qwen2', but the base's is 'llama'"),
        ({"adapter.lora.alpha": 0.0}, "alpha is 0"),
        ({"adapter.lora.alpha": -2.0}, "alpha is -2"),
        ({"adapter.lora.alpha": float("nan")}, "alpha is nan"),
        ({"adapter.lora.alpha": "much"}, "is str, expected one number"),
        ({"adapter.alora.invocation_tokens": [1, 2]}, "invocation_tokens"),
        ({"adapter.lora.dora": True}, "adapter.lora.dora"),
    ],
)
def test_metadata_that_are_refused(
    tmp_path: Path, config: ModelConfig, changes: dict[str, MetadataValue], message: str
) -> None:
    weights = adapter_weights(config, rank=4, modules=("q_proj",))
    with pytest.raises(ModelError, match=message):
        read(write_gguf_adapter(tmp_path / "a.gguf", config, weights, changes=changes), config)


def test_a_model_is_no_adapter(tmp_path: Path, config: ModelConfig) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(encode_gguf({"general.architecture": "llama"}, []))
    with pytest.raises(UnsupportedModelError, match=r"general\.type is 'nothing'"):
        read(path, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{QUERIES}.lora_a": np.zeros((4, 32), np.float32)}, "made for another model"),
        ({f"{QUERIES}.lora_b": np.zeros((96, 4), np.float32)}, "made for another model"),
        ({f"{QUERIES}.lora_a": np.zeros((3, 64), np.float32)}, "rank of 3 in lora_a and 4 in lora_b"),
        ({f"{QUERIES}.lora_a": np.zeros(64, np.float32)}, "two dimensions"),
        ({f"{QUERIES}.lora_a": np.full((4, 64), np.nan, np.float32)}, "not finite"),
        ({f"{QUERIES}.lora_b": np.full((128, 4), 3.4e38, np.float32)}, "not finite, or too large"),
        ({"blk.00.attn_q.weight.lora_a": np.zeros((4, 64), np.float32)}, "twice"),
        ({"blk.7.attn_q.weight.lora_a": np.zeros((4, 64), np.float32)}, "no lora_b"),
        ({"output.weight.lora_a": np.zeros((4, 64), np.float32)}, "output.weight"),
        ({"blk.0.attn_norm.weight": np.zeros(64, np.float32)}, "attn_norm"),
        ({"blk.0.attn_qkv.weight.lora_a": np.zeros((4, 64), np.float32)}, "attn_qkv"),
        (
            {
                "blk.2.attn_q.weight.lora_a": np.zeros((4, 64), np.float32),
                "blk.2.attn_q.weight.lora_b": np.zeros((128, 4), np.float32),
            },
            "2 layers; the adapter was made for another model",
        ),
        (
            {
                f"{QUERIES}.lora_a": np.zeros((65, 64), np.float32),
                f"{QUERIES}.lora_b": np.zeros((128, 65), np.float32),
            },
            "at most 64",
        ),
    ],
)
def test_tensors_that_are_refused(
    tmp_path: Path, config: ModelConfig, changes: dict[str, np.ndarray], message: str
) -> None:
    tensors = {
        f"{QUERIES}.lora_a": np.zeros((4, 64), np.float32),
        f"{QUERIES}.lora_b": np.zeros((128, 4), np.float32),
    }
    metadata: dict[str, MetadataValue] = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }
    path = tmp_path / "a.gguf"
    path.write_bytes(
        encode_gguf(metadata, [stored(name, values, "F32") for name, values in (tensors | changes).items()])
    )
    with pytest.raises(ModelError, match=message):
        read(path, config)


def test_codes_of_4_bits_are_refused(tmp_path: Path, config: ModelConfig) -> None:
    weights = adapter_weights(config, rank=32, modules=("q_proj",))
    path = write_gguf_adapter(tmp_path / "a.gguf", config, weights, dtype="Q4_1")
    with pytest.raises(UnsupportedModelError, match=r"Q4_1; Stoker reads GGUF adapters of F32, F16, BF16"):
        read(path, config)


def test_missing_truncated_and_oversized_files(tmp_path: Path, config: ModelConfig) -> None:
    path = write_gguf_adapter(tmp_path / "a.gguf", config, adapter_weights(config, rank=4))
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(CorruptFileError, match="is missing"):
        read(path, config)
    for end in (3, 24, 200, len(content) - 64):
        path.write_bytes(content[:end])
        with pytest.raises(CorruptFileError, match=r"truncated|not a valid GGUF|too short|has only"):
            read(path, config)
    path.write_bytes(content + b" " * 2**21)
    with pytest.raises(CorruptFileError, match="more than"):
        read(path, config, max_file_bytes=2**20)
