"""llama.cpp's adapters: GGUF files with ``lora_a`` and ``lora_b`` of a base's matrices."""

import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.adapters.checked import (
    MAX_ALPHA,
    MAX_RANK,
    AdapterLimits,
    AdapterPart,
    CheckedAdapter,
    check_once,
    check_sides,
    hash_file,
    parts_of,
)
from stoker.models.architectures import FAMILIES
from stoker.models.config import ModelConfig
from stoker.models.digest import DIGEST_CHARS
from stoker.models.gguf import GgufFile, TensorInfo
from stoker.models.gguf.metadata import Metadata, shown
from stoker.models.huggingface.quantize import floats

SUFFIX = ".gguf"

TARGETS = {
    "attn_q": "q",
    "attn_k": "k",
    "attn_v": "v",
    "attn_output": "o",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}
"""GGUF's names of the matrices that an adapter may change, and the engine's."""

_NAME = re.compile(
    r"(?P<matrix>blk\.(?P<layer>[0-9]{1,6})\.(?P<target>[a-z_]{1,32}))\.weight\.lora_(?P<side>[ab])\Z"
)
_KEYS = frozenset(
    {"adapter.type", "adapter.lora.alpha", "adapter.lora.task_name", "adapter.lora.prompt_prefix"}
)
"""Keys of adapters that are read here, or that say what one is for."""

_SAME = {"mistral3": "llama"}
"""Architectures whose matrices are another's."""

_Q8_0_ELEMENTS = 32
_Q8_0_BYTES = 34


def gguf_digest(path: Path, limits: AdapterLimits) -> str:
    """Name the contents of an adapter's file in 32 hex digits.

    Raises:
        CorruptFileError: It is missing, cannot be read or is too large.
    """
    digest = sha256(b"stoker gguf lora 1\0")
    hash_file(digest, path, limits.max_file_bytes, f"{path} is missing.")
    return digest.hexdigest()[:DIGEST_CHARS]


def read_gguf(path: Path, config: ModelConfig, limits: AdapterLimits) -> CheckedAdapter:
    """Read an adapter and check that it fits its base.

    Args:
        path: The file.
        config: The base's shape.
        limits: What it may have.

    Raises:
        CorruptFileError: It is missing, truncated, malformed or too large.
        UnsupportedModelError: It was made for another base, or is of a kind that cannot be computed.
    """
    digest = gguf_digest(path, limits)
    file = GgufFile(path)
    try:
        alpha = _check_kind(str(path), file.metadata, config)
        known = _matrices_of(config)
        parts = tuple(
            part
            for (layer, name), sides in _pairs(file, known).items()
            for part in _fitting(
                str(path), _part(file, (layer, name), sides, alpha, limits), known[name], config
            )
        )
        check_once(str(path), parts)
    finally:
        file.close()
    return CheckedAdapter(digest, max(len(part.down) for part in parts), parts)


def _check_kind(label: str, metadata: Metadata, config: ModelConfig) -> float:
    """Return alpha, once the file is known to be an adapter for such a base."""
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        found = metadata.text(key, "nothing")
        if found != wanted:
            raise UnsupportedModelError(
                f"{label}: {key} is {shown(found)}, expected '{wanted}'; Stoker takes llama.cpp's LoRA "
                "adapters."
            )
    architecture = metadata.text("general.architecture")
    if _SAME.get(architecture, architecture) != _SAME.get(config.architecture, config.architecture):
        raise UnsupportedModelError(
            f"{label} is for the architecture {shown(architecture)}, but the base's is "
            f"{config.architecture!r}; the adapter was made for another model."
        )
    odd = sorted(key for key in metadata.names() if key.startswith("adapter.") and key not in _KEYS)
    if odd:
        raise UnsupportedModelError(
            f"{label} has {', '.join(map(shown, odd[:8]))}, which Stoker does not compute. Adapters are "
            "plain LoRA, for every token."
        )
    alpha = metadata.number("adapter.lora.alpha")
    if not 0 < alpha <= MAX_ALPHA:
        raise CorruptFileError(
            f"{label}: adapter.lora.alpha is {alpha:g}, expected a positive number up to {MAX_ALPHA:g}."
        )
    return alpha


def _matrices_of(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """GGUF's names of what an adapter may change in such a base, and the engine's of its matrices."""
    known: dict[str, tuple[str, ...]] = {name: (target,) for name, target in TARGETS.items()}
    for whole, parts in FAMILIES[config.architecture].fused.items():
        targets = tuple(TARGETS[part.removesuffix(".weight")] for part in parts)
        known = {name: of_it for name, of_it in known.items() if not set(of_it) & set(targets)}
        known[whole.removesuffix(".weight")] = targets
    return known


def _pairs(
    file: GgufFile, known: Mapping[str, tuple[str, ...]]
) -> dict[tuple[int, str], dict[str, TensorInfo]]:
    """The two tensors of each matrix, by its layer and name, in order."""
    pairs: dict[tuple[int, str], dict[str, TensorInfo]] = {}
    for name, tensor in file.tensors.items():
        found = _NAME.match(name)
        if found is None or found["target"] not in known:
            raise UnsupportedModelError(
                f"{file.path} has the tensor {shown(name)}; Stoker knows lora_a and lora_b of "
                f"{', '.join(known)} of such a decoder's layers."
            )
        side = pairs.setdefault((int(found["layer"]), found["target"]), {})
        if found["side"] in side:
            raise CorruptFileError(f"{file.path} has {shown(name)} twice, under two names.")
        side[found["side"]] = tensor
    if not pairs:
        raise CorruptFileError(f"{file.path} has no tensors, so the adapter changes nothing.")
    return {key: pairs[key] for key in sorted(pairs)}


def _part(
    file: GgufFile,
    matrix: tuple[int, str],
    sides: Mapping[str, TensorInfo],
    alpha: float,
    limits: AdapterLimits,
) -> AdapterPart:
    layer, target = matrix
    label = f"{file.path}: blk.{layer}.{target}"
    check_sides(label, sides, ("a", "b"))
    rank, other = sides["a"].shape[0], sides["b"].shape[1]
    if rank != other:
        raise CorruptFileError(f"{label} has a rank of {rank} in lora_a and {other} in lora_b.")
    most = min(limits.max_rank, MAX_RANK)
    if rank > most:
        raise UnsupportedModelError(
            f"{label} has a rank of {rank}, but adapters may have a rank of at most {most} (max_lora_rank)."
        )
    down, up = (_floats(file, label, sides[side]) for side in "ab")
    return AdapterPart(target, layer, down, up, alpha / rank)


def _fitting(
    path: str, whole: AdapterPart, targets: tuple[str, ...], config: ModelConfig
) -> tuple[AdapterPart, ...]:
    """Return what is added to each matrix, as the engine holds it, once it fits the base."""
    parts = parts_of(f"{path}: blk.{whole.layer}.{whole.target}", config, targets, whole)
    if FAMILIES[config.architecture].rope_pairs != "adjacent":
        return parts
    return tuple(
        replace(part, up=_halves(part.up, config.head_size)) if part.target in ("q", "k") else part
        for part in parts
    )


def _floats(file: GgufFile, label: str, tensor: TensorInfo) -> NDArray[np.float32]:
    data = file.view(tensor.start, tensor.size_bytes)
    match tensor.type.name:
        case "F32" | "F16" | "BF16" as kind:
            return np.array(floats(data, kind)).reshape(tensor.shape)
        case "Q8_0":
            blocks = np.frombuffer(data, np.uint8).reshape(-1, _Q8_0_BYTES)
            scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
            values: NDArray[np.float32] = blocks[:, 2:].view(np.int8).astype(np.float32) * scales
            return values.reshape(tensor.shape)
        case other:
            raise UnsupportedModelError(
                f"{label} is stored as {other}; Stoker reads GGUF adapters of F32, F16, BF16 and Q8_0."
            )


def _halves(rows: NDArray[np.float32], head_size: int) -> NDArray[np.float32]:
    """Put the rotary pairs of heads, neighbours as the converter leaves them, in halves."""
    heads = rows.reshape(-1, head_size // 2, 2, rows.shape[1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)
