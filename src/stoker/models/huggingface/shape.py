"""Shape of a model from the ``config.json`` of its folder."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.config import Experts, LayerConfig, ModelConfig
from stoker.models.huggingface.config_values import Values, check_keys
from stoker.models.huggingface.families import FAMILIES, WRAPPERS, Family, Json
from stoker.models.huggingface.files import CONFIG_NAME, MAX_CONFIG_BYTES, read_json
from stoker.models.huggingface.quantization import read_quantization
from stoker.models.huggingface.rope_parameters import read_rotaries
from stoker.models.huggingface.safetensors import shown
from stoker.models.limits import (
    MAX_CONTEXT_LENGTH,
    MAX_EXPERTS,
    MAX_FFN_WIDTH,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_VOCAB_SIZE,
    MAX_WIDTH,
    check_head_size,
    check_sizes,
)
from stoker.models.rope import bf16, fp32

_SLIDING, _FULL = "sliding_attention", "full_attention"


@dataclass(frozen=True, slots=True)
class Description:
    """What a ``config.json`` says.

    Attributes:
        family: Which family it is of.
        values: Its values; those of the text part of a model that sees.
        quantization: What it says of quantized weights, or None.
    """

    family: Family
    values: Values
    quantization: Mapping[str, Json] | None


def describe(label: str, config: Mapping[str, Json]) -> Description:
    """Find the family, and refuse what is not known.

    Raises:
        CorruptFileError: Parts are missing or malformed.
        UnsupportedModelError: A family or a feature that Stoker does not compute.
    """
    outer = config.get("model_type")
    inner = dict(config)
    if isinstance(outer, str) and outer in WRAPPERS:
        text = config.get("text_config")
        if not isinstance(text, dict):
            raise CorruptFileError(f"{label}: text_config is missing, which a {outer} model has.")
        inner = {"model_type": WRAPPERS[outer], **text}
        if "tie_word_embeddings" in config:
            inner["tie_word_embeddings"] = config["tie_word_embeddings"]
    model_type = inner.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise UnsupportedModelError(
            f"{label} has the model_type {shown(str(model_type))}; Stoker runs {', '.join(FAMILIES)}."
        )
    classes = config.get("architectures")
    if classes and not (isinstance(classes, list) and set(map(str, classes)) & set(family.classes)):
        raise UnsupportedModelError(
            f"{label} has the architectures {shown(str(classes))}; Stoker runs {', '.join(family.classes)} "
            f"of the model_type {family.model_type}."
        )
    values = Values(label, inner, family.defaults)
    check_keys(values, family)
    quantization = config.get("quantization_config", inner.get("quantization_config"))
    if not isinstance(quantization, dict | None):
        raise CorruptFileError(f"{label}: quantization_config is no object.")
    return Description(family, values, quantization)


def check_described(folder: Path) -> None:
    """Refuse a folder whose ``config.json`` is of a model that cannot be run, weights unseen.

    Raises:
        CorruptFileError: It is missing or makes no sense.
        UnsupportedModelError: It asks for what Stoker does not compute.
    """
    path = folder / CONFIG_NAME
    description = describe(str(path), read_json(path, dict[str, Any], MAX_CONFIG_BYTES))
    read_quantization(str(path), description.quantization)
    read_shape(description, "F32")


def read_shape(description: Description, embedding_type: str) -> ModelConfig:
    """Read the shape.

    Args:
        description: What the file says.
        embedding_type: How the embedding matrix is stored; Gemma's scale is rounded likewise.

    Raises:
        CorruptFileError: Values are missing or contradict each other.
        UnsupportedModelError: Sizes that Stoker does not compute.
    """
    family, values = description.family, description.values
    width = values.integer("hidden_size", MAX_WIDTH)
    n_heads = values.integer("num_attention_heads", MAX_HEADS)
    n_kv_heads = values.optional_integer("num_key_value_heads", MAX_HEADS) or n_heads
    if n_heads % n_kv_heads:
        raise CorruptFileError(
            f"{values.label}: {n_heads} query heads cannot be shared evenly among {n_kv_heads} key and value "
            "heads."
        )
    head_size = _head_size(values, width, n_heads)
    experts, ffn_width = _feed_forward(family, values)
    context_length = values.integer("max_position_embeddings", MAX_CONTEXT_LENGTH)
    rotaries = read_rotaries(values, family, head_size)
    bias = values.flag("attention_bias")
    config = ModelConfig(
        architecture=family.architecture,
        layers=_layers(family, values, context_length),
        width=width,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_size=head_size,
        ffn_width=ffn_width,
        vocab_size=values.integer("vocab_size", MAX_VOCAB_SIZE),
        context_length=context_length,
        rotaries=rotaries,
        rope_pairs="halves",
        norm_epsilon=values.number("rms_norm_eps"),
        tied_embeddings=values.flag("tie_word_embeddings"),
        activation=family.activation,
        pre_norms=family.norms != "post",
        post_norms=family.norms != "pre",
        qk_norm=family.qk_norm,
        qkv_bias=bias if family.qkv_bias is None else family.qkv_bias,
        attention_output_bias=bias if family.output_bias is None else family.output_bias,
        sinks=family.feed_forward == "gpt_oss",
        score_scale=_score_scale(values),
        score_softcap=values.optional_number("attn_logit_softcapping"),
        logit_softcap=values.optional_number("final_logit_softcapping"),
        embedding_scale=_embedding_scale(family, values, width, embedding_type),
        residual_scale=values.optional_number("residual_multiplier") or 1.0,
        logit_scale=1.0 / (values.optional_number("logits_scaling") or 1.0),
        experts=experts,
    )
    check_sizes(values.label, config)
    return config


def _head_size(values: Values, width: int, n_heads: int) -> int:
    head_size = values.optional_integer("head_dim", MAX_WIDTH)
    if head_size is None:
        if width % n_heads:
            raise CorruptFileError(
                f"{values.label}: the width {width} is not a multiple of {n_heads} heads, and there is no "
                "head_dim."
            )
        head_size = width // n_heads
    check_head_size(values.label, head_size)
    return head_size


def _feed_forward(family: Family, values: Values) -> tuple[Experts | None, int]:
    """Return the experts, if any, and the inner width."""
    match family.feed_forward:
        case "dense" | "fused":
            return None, values.integer("intermediate_size", MAX_FFN_WIDTH)
        case "qwen_moe":
            older = values.get("num_local_experts") is None
            n_experts = values.integer("num_experts" if older else "num_local_experts", MAX_EXPERTS)
            normalized, biases = values.flag("norm_topk_prob"), False
            ffn_width = values.integer("moe_intermediate_size", MAX_FFN_WIDTH)
        case "mixtral" | "gpt_oss":
            n_experts = values.integer("num_local_experts", MAX_EXPERTS)
            normalized, biases = True, family.feed_forward == "gpt_oss"
            ffn_width = values.integer("intermediate_size", MAX_FFN_WIDTH)
    n_used = values.integer("num_experts_per_tok", n_experts)
    return Experts(n_experts=n_experts, n_used=n_used, normalized=normalized, biases=biases), ffn_width


def _layers(family: Family, values: Values, context_length: int) -> tuple[LayerConfig, ...]:
    n_layers = values.integer("num_hidden_layers", MAX_LAYERS)
    rotates = _rotating_layers(values, n_layers)
    slides = _sliding_layers(family, values, n_layers, rotates)
    window = values.optional_integer("sliding_window", MAX_CONTEXT_LENGTH) if any(slides) else None
    if any(slides) and window is None:
        raise values.wrong("sliding_window", "the size of the window that some layers have")
    if window is not None and window >= context_length:
        window = None  # a token sees all of any context
    return tuple(
        LayerConfig(
            window=window if slide else None,
            rotary=None if not rotate else 1 if slide and family.local_theta is not None else 0,
        )
        for slide, rotate in zip(slides, rotates, strict=True)
    )


def _rotating_layers(values: Values, n_layers: int) -> list[bool]:
    """Tell which layers have positions (SmolLM3 leaves them out in some)."""
    listed = values.get("no_rope_layers")
    if listed is not None:
        if (
            not isinstance(listed, list)
            or len(listed) < n_layers
            or any(each not in (0, 1) for each in listed)
        ):
            raise values.wrong("no_rope_layers", f"a list of at least {n_layers} numbers, each 0 or 1")
        return [bool(each) for each in listed[:n_layers]]
    if values.get("no_rope_layer_interval") is None:
        return [True] * n_layers
    interval = values.integer("no_rope_layer_interval", 2**20)
    return [(layer + 1) % interval != 0 for layer in range(n_layers)]


def _sliding_layers(family: Family, values: Values, n_layers: int, rotates: list[bool]) -> list[bool]:
    used = values.get("sliding_window") is not None
    if "use_sliding_window" in family.defaults:
        used = used and values.flag("use_sliding_window")
    listed = values.get("layer_types")
    if listed is not None:
        if not isinstance(listed, list) or len(listed) != n_layers:
            raise values.wrong("layer_types", f"a list of {n_layers} names")
        unknown = [each for each in listed if each not in (_SLIDING, _FULL)]
        if unknown:
            raise UnsupportedModelError(
                f"{values.label} has layers of the type {shown(str(unknown[0]))}; Stoker runs {_FULL} and "
                f"{_SLIDING}."
            )
        return [each == _SLIDING for each in listed]
    match family.windows:
        case "none":
            return [False] * n_layers
        case "all":
            return [used] * n_layers
        case "late":
            first = values.integer("max_window_layers", 2**20, smallest=0)
            return [used and layer >= first for layer in range(n_layers)]
        case "without_rope":
            return [used and not rotate for rotate in rotates]
        case "alternate":
            period = values.optional_integer("sliding_window_pattern", 2**20) or family.window_period
            return [used and (layer + 1) % period != 0 for layer in range(n_layers)]


def _score_scale(values: Values) -> float | None:
    if values.get("query_pre_attn_scalar") is not None:
        return 1.0 / sqrt(values.number("query_pre_attn_scalar"))
    return values.optional_number("attention_multiplier")


def _embedding_scale(family: Family, values: Values, width: int, embedding_type: str) -> float:
    if family.gemma_norms:
        return _rounded(sqrt(width), embedding_type)
    return values.optional_number("embedding_multiplier") or 1.0


def _rounded(value: float, dtype: str) -> float:
    """Round as the model's own code does, which keeps the factor in the type of the embeddings."""
    match dtype:
        case "BF16":
            return bf16(value)
        case "F16":
            (half,) = struct.unpack("<e", struct.pack("<e", value))
            return float(half)
        case _:
            return fp32(value)
