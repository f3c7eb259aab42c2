"""Writes a folder's model as a GGUF file in the way of the field's converters.

Names of tensors and keys come from the `gguf` package; what is stacked, cut apart, permuted or shifted
follows llama.cpp's ``convert_hf_to_gguf.py``, as of 2026. llama.cpp itself (xllamacpp 2026.10), given the
same weights as F16, comes within 0.06 of the golden log-probabilities, but for two models that it means
otherwise than `transformers`: it passes over Phi-3's window, and rounds where gpt-oss's YaRN ramp begins
and ends. With both changed in `transformers` it agrees there too (gpt-oss, whose experts stay MXFP4 and
take activations of 8 bits, within 0.3).
"""

import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

tokenizer = import_module("tokenizer")  # beside this script
weights = import_module("weights")
gguf: Any = import_module("gguf")

Tensors = dict[str, Any]

ARCHITECTURES = {
    "mistral": "llama",
    "mixtral": "llama",
    "gemma3_text": "gemma3",
    "qwen3_moe": "qwen3moe",
    "gpt_oss": "gpt-oss",
}
"""GGUF's name of a model type where it is another one."""

PERMUTED = ("llama", "mistral", "mixtral", "granite", "smollm3")
"""Model types whose query and key rows are put in the order of neighbouring pairs."""


def write(path: Path, config: dict[str, Any], tensors: Tensors, dtype: str) -> None:
    """Write the file.

    Args:
        path: Where to.
        config: What its ``config.json`` says.
        tensors: Its tensors by their names in ``model.safetensors``, floats; experts of gpt-oss as stored.
        dtype: Type of the matrices.
    """
    model_type = config["model_type"]
    architecture = ARCHITECTURES.get(model_type, model_type)
    writer = gguf.GGUFWriter(path, architecture)
    _add_metadata(writer, config, dtype)
    tokenizer.add_to_gguf(writer, config["vocab_size"])
    number = next(number for number, text in gguf.MODEL_ARCH_NAMES.items() if text == architecture)
    names = gguf.get_tensor_name_map(number, config["num_hidden_layers"])
    for their_name, values in _converted(config, tensors):
        if isinstance(values, tuple):
            our_name = names.get_name(their_name, (".weight",))
            writer.add_tensor(our_name, _mxfp4_blocks(*values), raw_dtype=gguf.GGMLQuantizationType.MXFP4)
            continue
        our_name = names.get_name(their_name, (".weight", ".bias"))
        if our_name is None and their_name.startswith("rope_"):
            our_name = their_name
        single = values.ndim == 1 or our_name.endswith((".bias", "ffn_gate_inp.weight"))
        kind = "F32" if single else dtype
        raw = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(our_name, encoded(values, kind), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def head_size(config: dict[str, Any]) -> int:
    """Elements of a head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _add_metadata(writer: Any, config: dict[str, Any], dtype: str) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    # llama.cpp expects other tokens of a model whose name has "phi-3" in it.
    writer.add_name("Tiny")
    file_type = {"F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0", "Q4_0": "MOSTLY_Q4_0"}
    writer.add_file_type(gguf.LlamaFileType[file_type[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    model_type = config["model_type"]
    if model_type != "gemma2":
        _add_rotary(writer, config)
    if "head_dim" in config and model_type != "phi3":
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if model_type in PERMUTED:
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(head_size(config))
    if model_type in ("gemma2", "gemma3_text", "phi3", "gpt_oss"):
        writer.add_sliding_window(config["sliding_window"])
    if model_type == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if model_type == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    _add_experts(writer, config)


def _add_experts(writer: Any, config: dict[str, Any]) -> None:
    n_experts = config.get("num_local_experts", config.get("num_experts"))
    if n_experts is None:
        return
    writer.add_expert_count(n_experts)
    writer.add_expert_used_count(config["num_experts_per_tok"])
    if config["model_type"] == "qwen3_moe":
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if config["model_type"] == "gpt_oss":
        writer.add_expert_feed_forward_length(config["intermediate_size"])


def _add_rotary(writer: Any, config: dict[str, Any]) -> None:
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    writer.add_rope_freq_base(float(config.get("rope_theta") or rotary["rope_theta"]))
    if "rope_local_base_freq" in config:
        writer.add_rope_freq_base_swa(float(config["rope_local_base_freq"]))
    match rotary.get("rope_type", rotary.get("type")):
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(rotary["factor"])
        case "yarn":
            writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
            writer.add_rope_scaling_factor(rotary["factor"])
            writer.add_rope_scaling_orig_ctx_len(rotary["original_max_position_embeddings"])
            writer.add_rope_scaling_yarn_beta_fast(rotary["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(rotary["beta_slow"])
    if config["model_type"] == "phi3":
        context, original = config["max_position_embeddings"], config["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_dimension_count(int(config.get("partial_rotary_factor", 1.0) * head_size(config)))
        if rotary:
            magnitude = math.sqrt(1 + math.log(context / original) / math.log(original))
            writer.add_rope_scaling_attn_factors(magnitude)


def _converted(config: dict[str, Any], tensors: Tensors) -> Iterator[tuple[str, Any]]:
    """Yield each tensor of the GGUF file under a name that `gguf` maps, or the file's own."""
    yield from _factors(config)
    model_type = config["model_type"]
    for name, values in tensors.items():
        if ".experts." in name:
            continue
        if name.endswith("norm.weight") and model_type.startswith("gemma"):
            yield name, values + np.float32(1)
        elif name.endswith(("q_proj.weight", "k_proj.weight")) and model_type in PERMUTED:
            yield name, neighbours(values, head_size(config))
        else:
            yield (f"{name}.weight" if name.endswith("sinks") else name), values
    for layer in range(config["num_hidden_layers"]):
        yield from _stacked(config, tensors, layer)


def _factors(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Divisors of the rotary frequencies that are stored as tensors."""
    rotary = config.get("rope_scaling") or {}
    if rotary.get("rope_type") == "llama3":
        n_pairs = head_size(config) // 2
        wavelengths = 2 * math.pi * config["rope_theta"] ** (np.arange(n_pairs) / n_pairs)
        low, high = rotary["low_freq_factor"], rotary["high_freq_factor"]
        turns = rotary["original_max_position_embeddings"] / wavelengths
        share = np.clip((turns - low) / (high - low), 0, 1)
        yield "rope_freqs.weight", (1 / ((1 - share) / rotary["factor"] + share)).astype(np.float32)
    for kind in ("long", "short"):
        if f"{kind}_factor" in rotary:
            yield f"rope_factors_{kind}.weight", np.array(rotary[f"{kind}_factor"], np.float32)


def neighbours(matrix: Any, size: int) -> Any:
    """Put rows i and i + half of each head beside each other."""
    heads = matrix.reshape(-1, 2, size // 2, matrix.shape[1])
    return heads.swapaxes(1, 2).reshape(matrix.shape)


def _stacked(config: dict[str, Any], tensors: Tensors, layer: int) -> Iterator[tuple[str, Any]]:
    """Yield one matrix for all of a layer's experts."""
    before = f"model.layers.{layer}."
    match config["model_type"]:
        case "mixtral":
            for part in ("w1", "w2", "w3"):
                names = (
                    f"{before}block_sparse_moe.experts.{n}.{part}.weight"
                    for n in range(config["num_local_experts"])
                )
                merged = f"layers.{layer}.feed_forward.experts.{part}.weight"
                yield merged, np.stack([tensors[name] for name in names])
        case "qwen3_moe":
            for part in ("gate_proj", "up_proj", "down_proj"):
                names = (f"{before}mlp.experts.{n}.{part}.weight" for n in range(config["num_experts"]))
                merged = f"{before}mlp.experts.{part}.weight"
                yield merged, np.stack([tensors[name] for name in names])
        case "gpt_oss":
            experts = f"{before}mlp.experts."
            both = [tensors[f"{experts}gate_up_proj_{part}"] for part in ("blocks", "scales", "bias")]
            for part, first in (("gate_proj", 0), ("up_proj", 1)):
                blocks, exponents, bias = (tensor[:, first::2] for tensor in both)
                yield f"{experts}{part}.weight", (blocks, exponents)
                yield f"{experts}{part}.bias", bias
            down = [tensors[f"{experts}down_proj_{part}"] for part in ("blocks", "scales")]
            yield f"{experts}down_proj.weight", tuple(down)
            yield f"{experts}down_proj.bias", tensors[f"{experts}down_proj_bias"]


def _mxfp4_blocks(blocks: Any, exponents: Any) -> Any:
    """GGUF's blocks from codes in pairs of neighbours, ``[experts, rows, n, 16]``.

    A block is the exponent and 16 bytes of the codes i (low half) and i + 16.
    """
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], weights.BLOCK)
    halves = codes[..., :16] | (codes[..., 16:] << 4)
    joined = np.concatenate([exponents[..., None], halves], axis=-1)
    return joined.reshape(*joined.shape[:-2], -1)


def encoded(values: Any, dtype: str) -> Any:
    """Encode without any loss, or fail."""
    match dtype:
        case "F32":
            return values.astype(np.float32)
        case "F16":
            encoded = values.astype(np.float16)
            exact = encoded.astype(np.float32)
        case "BF16":
            encoded = (values.view(np.uint32) >> 16).astype(np.uint16)
            exact = (encoded.astype(np.uint32) << 16).view(np.float32)
        case _:
            encoded = _codes(values, dtype)
            exact = gguf.quants.dequantize(encoded, gguf.GGMLQuantizationType[dtype])
    if not np.array_equal(exact, values):
        raise ValueError(f"{dtype} does not hold these values")
    return encoded.view(np.uint8) if dtype == "BF16" else encoded


def _codes(values: Any, dtype: str) -> Any:
    blocks = values.reshape(-1, weights.BLOCK)
    scale = weights.scales(blocks, dtype)
    codes = np.rint(blocks / scale).astype(np.int8)
    if dtype == "Q8_0":
        raw = codes.view(np.uint8)
    else:
        unsigned = (codes + 8).astype(np.uint8)
        raw = unsigned[:, :16] | (unsigned[:, 16:] << 4)
    joined = np.hstack([scale.astype(np.float16).view(np.uint8), raw])
    return joined.reshape(*values.shape[:-1], -1)
