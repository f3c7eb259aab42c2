"""Random adapters in all formats, and what low-rank ones make of a model's weights."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stoker.models.adapters.checked import TARGETS, target_shape
from stoker.models.config import ModelConfig, Tensor
from stoker.testing.gguf_blocks import decode_blocks
from stoker.testing.gguf_files import MetadataValue, encode_gguf, stored
from stoker.testing.model_folders import encode_safetensors, raw

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = tuple(TARGETS)

_BASE_NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


def adapter_weights(
    config: ModelConfig, *, rank: int, modules: Sequence[str] = ALL, seed: int = 0, strength: float = 1.0
) -> dict[str, NDArray[np.float32]]:
    """Return random ``lora_A`` and ``lora_B`` by PEFT's names, all numbers of bf16."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, spread: float) -> NDArray[np.float32]:
        values = (random.standard_normal((rows, columns)) * spread).astype(np.float32)
        return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    weights = {}
    for layer in range(config.n_layers):
        for module in modules:
            outputs, inputs = target_shape(config, TARGETS[module])
            part = "self_attn" if module in ATTENTION else "mlp"
            name = f"base_model.model.model.layers.{layer}.{part}.{module}"
            weights[f"{name}.lora_A.weight"] = matrix(rank, inputs, inputs**-0.5)
            weights[f"{name}.lora_B.weight"] = matrix(outputs, rank, strength * rank**-0.5)
    return weights


def write_adapter(
    folder: Path,
    weights: Mapping[str, NDArray[np.float32]],
    *,
    rank: int,
    alpha: float = 16,
    dtype: str = "F32",
    **changes: object,
) -> Path:
    """Write an adapter's folder, keys of the config changed as asked, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = sorted({name.split(".lora_")[0].rsplit(".", 1)[1] for name in weights})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "tiny",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": modules,
        "bias": "none",
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
        "init_lora_weights": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    tensors = {name: raw(values, dtype) for name, values in weights.items()}
    (folder / "adapter_model.safetensors").write_bytes(encode_safetensors(tensors))
    return folder


def write_gguf_adapter(
    path: Path,
    config: ModelConfig,
    weights: Mapping[str, NDArray[np.float32]],
    *,
    alpha: float = 16,
    dtype: str = "F32",
    permuted: bool = True,
    changes: Mapping[str, MetadataValue] | None = None,
) -> Path:
    """Write the same adapter as llama.cpp's file, and return its path.

    Args:
        path: The file.
        config: The base's shape.
        weights: As `adapter_weights` returns them.
        alpha: The factor times the rank.
        dtype: Type of the tensors.
        permuted: The architecture has heads of queries and keys with rotary pairs as neighbours.
        changes: Keys of the metadata that shall be others.
    """
    metadata: dict[str, MetadataValue] = {
        "general.architecture": config.architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(alpha),
    }
    metadata |= changes or {}
    tensors = []
    for name, values in weights.items():
        module, _, side = name.removesuffix(".weight").rpartition(".lora_")
        layer, target = module.split(".layers.")[1].split(".")[0], module.rsplit(".", 1)[1]
        rows = values
        if permuted and side == "B" and target in ("q_proj", "k_proj"):
            heads = values.reshape(-1, 2, config.head_size // 2, values.shape[1])
            rows = np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(values.shape)
        tensors.append(stored(f"blk.{layer}.{_BASE_NAMES[target]}.weight.lora_{side.lower()}", rows, dtype))
    path.write_bytes(encode_gguf(metadata, tensors))
    return path


def bottleneck_weights(
    config: ModelConfig,
    *,
    size: int,
    halves: Sequence[str] = ("attention", "output"),
    seed: int = 0,
    name: str = "mine",
) -> dict[str, NDArray[np.float32]]:
    """Return random bottlenecks by the names that `adapters` gives them, all numbers of bf16."""
    random = np.random.default_rng(seed)

    def numbers(spread: float, *shape: int) -> NDArray[np.float32]:
        values = (random.standard_normal(shape) * spread).astype(np.float32)
        return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)

    weights = {}
    for layer in range(config.n_layers):
        for half in halves:
            before = f"model.layers.{layer}.{half}_adapters.adapters.{name}"
            weights[f"{before}.adapter_down.0.weight"] = numbers(config.width**-0.5, size, config.width)
            weights[f"{before}.adapter_down.0.bias"] = numbers(0.2, size)
            weights[f"{before}.adapter_up.weight"] = numbers(size**-0.5, config.width, size)
            weights[f"{before}.adapter_up.bias"] = numbers(0.2, config.width)
    return weights


def write_bottlenecks(
    folder: Path, weights: Mapping[str, NDArray[np.float32]], *, dtype: str = "F32", **changes: object
) -> Path:
    """Write a folder as `adapters` does, keys of the config changed as asked, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "mh_adapter": True,
        "output_adapter": True,
        "reduction_factor": 16,
        "non_linearity": "swish",
        "original_ln_before": False,
        "original_ln_after": True,
        "residual_before_ln": True,
        "adapter_residual_before_ln": False,
        "ln_before": False,
        "ln_after": False,
        "scaling": 1.0,
        "leave_out": [],
        "inv_adapter": None,
        "is_parallel": False,
        "use_gating": False,
        "phm_layer": False,
    }
    whole = {"config": config | changes, "model_type": "llama", "name": "mine", "version": "adapters.1.3.0"}
    (folder / "adapter_config.json").write_text(json.dumps(whole))
    tensors = {name: raw(values, dtype) for name, values in weights.items()}
    (folder / "adapter.safetensors").write_bytes(encode_safetensors(tensors))
    return folder


def merged(
    tensors: Mapping[str, Tensor],
    weights: Mapping[str, NDArray[np.float32]],
    *,
    alpha: float = 16,
    rslora: bool = False,
) -> dict[str, Tensor | NDArray[np.float64]]:
    """Return a base's tensors with ``scale * B @ A`` added in float64; the base's rows must be as PEFT's."""
    changed: dict[str, Tensor | NDArray[np.float64]] = dict(tensors)
    for name, down in weights.items():
        module, _, side = name.partition(".lora_")
        if side != "A.weight":
            continue
        layer, target = module.split(".layers.")[1].split(".")[0], module.rsplit(".", 1)[1]
        up, rank = weights[f"{module}.lora_B.weight"].astype(np.float64), len(down)
        scale = alpha / (math.sqrt(rank) if rslora else rank)
        base = f"blk.{layer}.{_BASE_NAMES[target]}.weight"
        stored = tensors[base]
        rows = decode_blocks(bytes(stored.data), stored.dtype, stored.shape).astype(np.float64)
        changed[base] = rows + scale * up @ down.astype(np.float64)
    return changed
