"""Adapters of bases with fused matrices: what is added to each, and what does not fit refused by name."""

from pathlib import Path

import numpy as np
import pytest

from stoker.core.errors import CorruptFileError, ModelError, UnsupportedModelError
from stoker.models import open_model
from stoker.models.adapters import AdapterLimits
from stoker.models.adapters.checked import target_shape
from stoker.models.adapters.reading import read_adapter
from stoker.models.config import ModelConfig
from stoker.models.huggingface.safetensors import SafetensorsFile
from stoker.testing.adapters import write_adapter
from stoker.testing.gguf_files import encode_gguf, stored

GOLDEN = Path(__file__).parents[2] / "golden"
LIMITS = AdapterLimits()
LAYER = "base_model.model.model.layers.0"
QKV, GATE_UP = f"{LAYER}.self_attn.qkv_proj", f"{LAYER}.mlp.gate_up_proj"


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    with open_model(GOLDEN / "architectures" / "phi-3") as model:
        return model.config


def pair(module: str, config: ModelConfig, outputs: int) -> dict[str, np.ndarray]:
    rows = np.arange(outputs * 4, dtype=np.float32).reshape(outputs, 4) / 64
    return {
        f"{module}.lora_A.weight": np.ones((4, config.width), np.float32),
        f"{module}.lora_B.weight": rows,
    }


@pytest.mark.parametrize("path", ["fused", "fused.gguf"])
def test_rows_go_to_their_matrices_in_order(config: ModelConfig, path: str) -> None:
    adapter = read_adapter(GOLDEN / "adapters" / path, config, LIMITS)
    parts = {part.target: part for part in adapter.parts if part.layer == 1}
    assert set(parts) == {"q", "k", "v", "o", "gate", "up", "down"}
    file = SafetensorsFile(GOLDEN / "adapters" / "fused" / "adapter_model.safetensors")
    for module, targets in (("self_attn.qkv_proj", "q k v"), ("mlp.gate_up_proj", "gate up")):
        down, up = (
            np.frombuffer(file.tensors[name].data, "<f4").reshape(file.tensors[name].shape)
            for side in "AB"
            for name in [f"base_model.model.model.layers.1.{module}.lora_{side}.weight"]
        )
        assert np.array_equal(np.concatenate([parts[target].up for target in targets.split()]), up)
        for target in targets.split():
            assert np.array_equal(parts[target].down, down)
            assert parts[target].up.shape[0] == target_shape(config, target)[0]
    file.close()


def test_either_half_alone(tmp_path: Path, config: ModelConfig) -> None:
    folder = write_adapter(tmp_path, pair(GATE_UP, config, 2 * config.ffn_width), rank=4)
    assert [part.target for part in read_adapter(folder, config, LIMITS).parts] == ["gate", "up"]


@pytest.mark.parametrize("module", [QKV, GATE_UP])
def test_rows_of_another_base(tmp_path: Path, config: ModelConfig, module: str) -> None:
    folder = write_adapter(tmp_path, pair(module, config, config.ffn_width), rank=4)
    with pytest.raises(UnsupportedModelError, match="together; the adapter was made for another model"):
        read_adapter(folder, config, LIMITS)


def test_a_matrix_is_changed_once(tmp_path: Path, config: ModelConfig) -> None:
    outputs = sum(target_shape(config, target)[0] for target in "qkv")
    single = pair(f"{LAYER}.self_attn.k_proj", config, target_shape(config, "k")[0])
    folder = write_adapter(tmp_path, pair(QKV, config, outputs) | single, rank=4)
    with pytest.raises(CorruptFileError, match="changes k of layer 0 twice"):
        read_adapter(folder, config, LIMITS)


@pytest.mark.parametrize("name", ["attn_q", "ffn_gate"])
def test_gguf_names_of_matrices_that_such_files_have_not(
    tmp_path: Path, config: ModelConfig, name: str
) -> None:
    metadata: dict[str, str | float] = {
        "general.architecture": "phi3",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }
    path = tmp_path / "a.gguf"
    path.write_bytes(
        encode_gguf(
            dict(metadata), [stored(f"blk.0.{name}.weight.lora_a", np.zeros((4, 64), np.float32), "F32")]
        )
    )
    with pytest.raises(ModelError, match="Stoker knows lora_a and lora_b of attn_output, ffn_down, attn_qkv"):
        read_adapter(path, config, LIMITS)
