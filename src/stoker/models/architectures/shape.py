"""Shape and arithmetic of a model from a GGUF file's metadata.

What Stoker cannot compute exactly as the model means it is refused by name, never approximated.
"""

from math import sqrt

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models import limits
from stoker.models.architectures.families import FAMILIES, Family, Windows
from stoker.models.architectures.keys import ArchitectureKeys
from stoker.models.architectures.rotary import read_rotaries
from stoker.models.config import Experts, LayerConfig, ModelConfig
from stoker.models.gguf import GgufFile
from stoker.models.rope import bf16

_SOFTMAX, _SOFTMAX_OF_USED = 1, 3
"""GGUF's numbers of ways to make shares of router scores: over all experts, over the used ones."""

_MAX_WINDOW = 2**31
_MAX_KIND = 2**31


def read_config(file: GgufFile) -> ModelConfig:
    """Read the model's shape.

    Raises:
        CorruptFileError: Metadata are missing or contradict each other or the embedding matrix.
        UnsupportedModelError: The model needs what Stoker does not compute.
    """
    label, metadata = str(file.path), file.metadata
    architecture = metadata.text("general.architecture")
    family = FAMILIES.get(architecture)
    if family is None:
        raise UnsupportedModelError(
            f"{label} has the architecture {architecture[:80]!r}; Stoker runs {', '.join(FAMILIES)}."
        )
    keys = ArchitectureKeys(label, metadata, architecture)
    config = _read_shape(keys, family, file)
    keys.refuse_others(family.must_be)
    limits.check_sizes(label, config)
    return config


def _read_shape(keys: ArchitectureKeys, family: Family, file: GgufFile) -> ModelConfig:
    n_layers = keys.integer("block_count", limits.MAX_LAYERS)
    width = keys.integer("embedding_length", limits.MAX_WIDTH)
    context_length = keys.integer("context_length", limits.MAX_CONTEXT_LENGTH)
    n_heads = keys.integer("attention.head_count", limits.MAX_HEADS)
    n_kv_heads = keys.integer("attention.head_count_kv", limits.MAX_HEADS, n_heads)
    if n_heads % n_kv_heads:
        raise CorruptFileError(
            f"{keys.label}: {n_heads} query heads cannot be shared evenly among {n_kv_heads} key and "
            "value heads."
        )
    head_size, n_turned = _read_head_size(keys, width, n_heads)
    rotaries = read_rotaries(keys, family, file, n_turned, context_length)
    layers = _read_layers(keys, family, n_layers, context_length, one_rotary=rotaries[0] == rotaries[1])
    experts = _read_experts(keys, family)
    return ModelConfig(
        architecture=keys.architecture,
        layers=layers,
        width=width,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_size=head_size,
        ffn_width=_read_ffn_width(keys, family, experts),
        vocab_size=_read_vocab_size(keys, file),
        context_length=context_length,
        rotaries=rotaries if any(layer.rotary == 1 for layer in layers) else rotaries[:1],
        rope_pairs=family.rope_pairs,
        norm_epsilon=keys.number("attention.layer_norm_rms_epsilon"),
        tied_embeddings="output.weight" not in file.tensors,
        activation=family.activation,
        pre_norms=family.pre_norms,
        post_norms=family.post_norms,
        qk_norm=family.qk_norm,
        qkv_bias=family.qkv_bias,
        attention_output_bias=family.attention_output_bias,
        sinks=family.sinks,
        score_scale=_read_score_scale(keys, family, n_layers, width / n_heads),
        score_softcap=_read_softcap(keys, family, "attn_logit_softcapping"),
        logit_softcap=_read_softcap(keys, family, "final_logit_softcapping"),
        embedding_scale=bf16(sqrt(width))
        if family.scaled_embeddings
        else _read_scale(keys, family, "embedding"),
        residual_scale=_read_scale(keys, family, "residual"),
        logit_scale=1 / _read_scale(keys, family, "logit"),
        experts=experts,
    )


def _read_head_size(keys: ArchitectureKeys, width: int, n_heads: int) -> tuple[int, int]:
    """Return the size of a head, and how many of its elements turn."""
    if "attention.key_length" not in keys and width % n_heads:
        raise CorruptFileError(
            f"{keys.label}: the width {width} is not a multiple of {n_heads} heads, and there is no "
            f"{keys.name('attention.key_length')}."
        )
    head_size = keys.integer("attention.key_length", limits.MAX_WIDTH, width // n_heads, least=0)
    limits.check_head_size(keys.label, head_size)
    for suffix in ("attention.value_length", "attention.key_length_swa", "attention.value_length_swa"):
        _expect(keys, suffix, head_size, f"heads have {head_size} elements")
    n_turned = keys.integer("rope.dimension_count", limits.MAX_WIDTH, head_size, least=0)
    _expect(keys, "rope.dimension_count_swa", n_turned, f"{n_turned} elements of a head turn")
    if n_turned % 2 or not 0 < n_turned <= head_size:
        raise CorruptFileError(
            f"{keys.label}: {keys.name('rope.dimension_count')} is {n_turned}, "
            f"expected an even number from 2 to the head's size {head_size}."
        )
    return head_size, n_turned


def _expect(keys: ArchitectureKeys, suffix: str, value: int, why: str) -> None:
    found = keys.integer(suffix, limits.MAX_WIDTH, value, least=0)
    if found != value:
        raise UnsupportedModelError(
            f"{keys.label}: {keys.name(suffix)} is {found}, but {why}; "
            "Stoker runs models where these are the same."
        )


def _read_layers(
    keys: ArchitectureKeys, family: Family, n_layers: int, context_length: int, *, one_rotary: bool
) -> tuple[LayerConfig, ...]:
    """Say of each layer what it sees and how it tells positions."""
    windowed: tuple[bool, ...] = (False,) * n_layers
    window = 0
    if family.windows is not None:
        window = keys.integer("attention.sliding_window", _MAX_WINDOW, family.windows.size, least=0)
        windowed = _read_windowed(keys, family.windows, n_layers) if window else windowed
    seen = window if window < context_length else None
    step = family.no_rope_every
    return tuple(
        LayerConfig(
            window=seen if local else None,
            rotary=None if step and (index + 1) % step == 0 else int(local and not one_rotary),
        )
        for index, local in enumerate(windowed)
    )


def _read_windowed(keys: ArchitectureKeys, windows: Windows, n_layers: int) -> tuple[bool, ...]:
    """Say of each layer whether it has a window; a file may list them or say how often one has none."""
    suffix = "attention.sliding_window_pattern"
    stated = keys.flags(suffix)
    if stated is not None:
        if len(stated) != n_layers:
            raise CorruptFileError(
                f"{keys.label}: {keys.name(suffix)} lists {len(stated)} layers, expected {n_layers}."
            )
        return stated
    every = keys.integer(suffix, limits.MAX_LAYERS, windows.full_every or 0, least=0)
    return tuple(every == 0 or (index + 1) % every != 0 for index in range(n_layers))


def _read_experts(keys: ArchitectureKeys, family: Family) -> Experts | None:
    if family.experts == "never":
        return None
    least, default = (1, None) if family.experts == "always" else (0, 0)
    n_experts = keys.integer("expert_count", limits.MAX_EXPERTS, default, least=least)
    if n_experts == 0:
        return None
    gating = keys.integer("expert_gating_func", _MAX_KIND, _SOFTMAX, least=0)
    if gating not in (_SOFTMAX, _SOFTMAX_OF_USED):
        raise UnsupportedModelError(
            f"{keys.label} sets {keys.name('expert_gating_func')} to {gating}; Stoker computes "
            f"{_SOFTMAX} and {_SOFTMAX_OF_USED} (a softmax over all experts or the used ones)."
        )
    # A softmax over all, scaled to a sum of 1 over the used ones, is the softmax over these.
    normalized = keys.flag("expert_weights_norm", default=True) or gating == _SOFTMAX_OF_USED
    return Experts(
        n_experts=n_experts,
        n_used=keys.integer("expert_used_count", n_experts),
        normalized=normalized,
        biases=family.expert_biases,
    )


def _read_ffn_width(keys: ArchitectureKeys, family: Family, experts: Experts | None) -> int:
    """Return the inner width; where all is experts, theirs has a key of its own."""
    most = limits.MAX_FFN_WIDTH
    if experts is None or family.experts == "counted":
        return keys.integer("feed_forward_length", most)
    keys.integer("feed_forward_length", most, 0, least=0)
    return keys.integer("expert_feed_forward_length", most)


def _read_vocab_size(keys: ArchitectureKeys, file: GgufFile) -> int:
    label, metadata = keys.label, keys.metadata
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise CorruptFileError(f"{label} lacks the tensor token_embd.weight.")
    rows = embedding.shape[0]
    if rows > limits.MAX_VOCAB_SIZE:
        raise CorruptFileError(
            f"{label}: token_embd.weight has {rows} rows, expected at most {limits.MAX_VOCAB_SIZE}."
        )
    declared = keys.integer("vocab_size", 2**63, rows, least=0)
    listed = metadata.length("tokenizer.ggml.tokens") if "tokenizer.ggml.tokens" in metadata else rows
    for what, found in ((keys.name("vocab_size"), declared), ("the tokenizer's token count", listed)):
        if found != rows:
            raise CorruptFileError(f"{label}: {what} is {found}, but token_embd.weight has {rows} rows.")
    return rows


def _read_score_scale(
    keys: ArchitectureKeys, family: Family, n_layers: int, head_width: float
) -> float | None:
    if family.scales and "attention.scale" in keys:
        return keys.number("attention.scale")
    return head_width**-0.5 if n_layers in family.wide_heads else None


def _read_scale(keys: ArchitectureKeys, family: Family, what: str) -> float:
    return keys.number(f"{what}_scale", 1.0) if family.scales else 1.0


def _read_softcap(keys: ArchitectureKeys, family: Family, suffix: str) -> float | None:
    if suffix not in family.softcaps:
        return None
    return keys.number(suffix, family.softcaps[suffix], least=0.0) or None
