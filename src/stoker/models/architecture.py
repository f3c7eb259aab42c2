"""Shape of a model from a GGUF file's metadata, checked against its tensors.

What Stoker cannot compute exactly as the model means it is refused by name, never approximated.
"""

from collections.abc import Mapping
from math import isfinite

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.config import LayerConfig, ModelConfig, Rotary
from stoker.models.gguf import Metadata, TensorInfo
from stoker.models.rope import rope_frequencies
from stoker.models.tensor_layout import expected_shapes

ARCHITECTURES = ("llama",)
"""The architectures that Stoker computes, in GGUF's spelling."""

GROUP = 32
"""Weights are grouped by this many elements along their inner dimension."""

_LIMITS = {
    "block_count": 1024,
    "embedding_length": 2**16,
    "feed_forward_length": 2**20,
    "context_length": 2**27,
    "attention.head_count": 1024,
    "attention.head_count_kv": 1024,
}
_MAX_HEAD_SIZE = 256
_MAX_VOCAB_SIZE = 2**22

_DEFAULT_ROPE_BASE = 10_000.0

_NEUTRAL = {
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.sliding_window": 0,
    "attention.clamp_kqv": 0,
    "attention.max_alibi_bias": 0,
    "attention.scale": 0,
    "attention.causal": True,
    "attn_logit_softcapping": 0,
    "final_logit_softcapping": 0,
    "embedding_scale": 1,
    "residual_scale": 1,
    "logit_scale": 1,
    "rope.scaling.type": "none",
    "rope.scale_linear": 1,
    "use_parallel_residual": False,
}
"""Keys that change the computation, with the value that means "not used"."""


def read_config(label: str, metadata: Metadata, tensors: Mapping[str, TensorInfo]) -> ModelConfig:
    """Read the model's shape and check every tensor that the forward pass needs.

    Args:
        label: The file's name, for messages.
        metadata: The file's metadata.
        tensors: The file's tensors by name.

    Raises:
        CorruptFileError: Metadata or tensors are missing or contradict each other.
        UnsupportedModelError: The model needs what Stoker does not compute.
    """
    architecture = metadata.text("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{label} has the architecture {architecture[:80]!r}; Stoker runs {', '.join(ARCHITECTURES)}."
        )
    _refuse_unknown_features(label, architecture, metadata)
    config = _read_shape(label, architecture, metadata, tensors)
    _check_inner_sizes(label, config)
    _check_tensors(label, config, tensors)
    return config


def _refuse_unknown_features(label: str, architecture: str, metadata: Metadata) -> None:
    for suffix, neutral in _NEUTRAL.items():
        key = f"{architecture}.{suffix}"
        if key in metadata and metadata.get(key) != neutral:
            raise UnsupportedModelError(
                f"{label} sets {key} to {metadata.get(key)!r:.80}, which Stoker does not compute "
                f"(it runs models where this is absent or {neutral!r})."
            )


def _read_shape(
    label: str, architecture: str, metadata: Metadata, tensors: Mapping[str, TensorInfo]
) -> ModelConfig:
    def size(suffix: str, default: int | None = None) -> int:
        key = f"{architecture}.{suffix}"
        value = metadata.integer(key, default)
        if not 1 <= value <= _LIMITS[suffix]:
            raise CorruptFileError(f"{label}: {key} is {value}, expected 1 to {_LIMITS[suffix]}.")
        return value

    width, n_heads = size("embedding_length"), size("attention.head_count")
    n_kv_heads = size("attention.head_count_kv", n_heads)
    if n_heads % n_kv_heads:
        raise CorruptFileError(
            f"{label}: {n_heads} query heads cannot be shared evenly among {n_kv_heads} key and value heads."
        )
    head_size = _read_head_size(label, architecture, metadata, width, n_heads)
    base = _positive(label, metadata, f"{architecture}.rope.freq_base", _DEFAULT_ROPE_BASE)
    return ModelConfig(
        architecture=architecture,
        layers=(LayerConfig(),) * size("block_count"),
        width=width,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_size=head_size,
        ffn_width=size("feed_forward_length"),
        vocab_size=_read_vocab_size(label, architecture, metadata, tensors),
        context_length=size("context_length"),
        rotaries=(Rotary(frequencies=rope_frequencies(base, head_size)),),
        rope_pairs="adjacent",
        norm_epsilon=_positive(label, metadata, f"{architecture}.attention.layer_norm_rms_epsilon", None),
        tied_embeddings="output.weight" not in tensors,
    )


def _read_head_size(label: str, architecture: str, metadata: Metadata, width: int, n_heads: int) -> int:
    key_length = f"{architecture}.attention.key_length"
    if key_length not in metadata and width % n_heads:
        raise CorruptFileError(
            f"{label}: the width {width} is not a multiple of {n_heads} heads, and there is no {key_length}."
        )
    head_size = metadata.integer(key_length, width // n_heads)
    if head_size % GROUP or not 1 <= head_size <= _MAX_HEAD_SIZE:
        raise UnsupportedModelError(
            f"{label} has heads of {head_size} elements; "
            f"Stoker runs multiples of {GROUP} up to {_MAX_HEAD_SIZE}."
        )
    for suffix in ("attention.value_length", "rope.dimension_count"):
        found = metadata.integer(f"{architecture}.{suffix}", head_size)
        if found != head_size:
            raise UnsupportedModelError(
                f"{label}: {architecture}.{suffix} is {found}, but heads have {head_size} elements; "
                "Stoker runs models where these are the same."
            )
    return head_size


def _read_vocab_size(
    label: str, architecture: str, metadata: Metadata, tensors: Mapping[str, TensorInfo]
) -> int:
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise CorruptFileError(f"{label} lacks the tensor token_embd.weight.")
    rows = embedding.shape[0]
    if rows > _MAX_VOCAB_SIZE:
        raise CorruptFileError(
            f"{label}: token_embd.weight has {rows} rows, expected at most {_MAX_VOCAB_SIZE}."
        )
    declared = metadata.integer(f"{architecture}.vocab_size", rows)
    listed = metadata.length("tokenizer.ggml.tokens") if "tokenizer.ggml.tokens" in metadata else rows
    for what, found in ((f"{architecture}.vocab_size", declared), ("the tokenizer's token count", listed)):
        if found != rows:
            raise CorruptFileError(f"{label}: {what} is {found}, but token_embd.weight has {rows} rows.")
    return rows


def _positive(label: str, metadata: Metadata, key: str, default: float | None) -> float:
    value = metadata.number(key, default)
    if not isfinite(value) or value <= 0:
        raise CorruptFileError(f"{label}: {key} is {value}, expected a positive finite number.")
    return value


def _check_inner_sizes(label: str, config: ModelConfig) -> None:
    for what, size in (("width", config.width), ("feed-forward width", config.ffn_width)):
        if size % GROUP:
            raise UnsupportedModelError(f"{label} has a {what} of {size}; Stoker runs multiples of {GROUP}.")


def _check_tensors(label: str, config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> None:
    shapes = expected_shapes(config)
    for name, info in tensors.items():
        if name not in shapes:
            raise UnsupportedModelError(
                f"{label} has the tensor {name[:80]!r}, which the {config.architecture} forward pass does "
                "not use; computing without it would give other answers than the model's."
            )
        if info.shape != shapes[name]:
            raise CorruptFileError(f"{label}: {name} has the shape {info.shape}, expected {shapes[name]}.")
        if name.endswith("_norm.weight") and info.type.block_elements > 1:
            raise UnsupportedModelError(
                f"{label}: {name} is stored as {info.type.name}; Stoker reads norms as F32, F16 or BF16."
            )
    missing = [name for name in shapes if name not in tensors]
    if missing:
        raise CorruptFileError(
            f"{label} lacks {len(missing)} of its {len(shapes)} tensors, the first of them {missing[0]}."
        )
