"""PEFT's folders: ``adapter_config.json`` and ``adapter_model.safetensors``."""

import math
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

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
    modules_of,
    parts_of,
)
from stoker.models.config import ModelConfig
from stoker.models.digest import DIGEST_CHARS
from stoker.models.huggingface.files import read_json
from stoker.models.huggingface.safetensors import SafetensorsFile, StoredTensor, shown

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 2**20
MAX_PATTERNS = 10_000

_NAME = re.compile(
    r"(?:base_model\.model\.)?(?P<module>(?:model\.)?layers\.(?P<layer>[0-9]{1,6})\.(?:self_attn|mlp)\."
    r"(?P<target>[a-z_]{1,32}))\.lora_(?P<side>[AB])(?:\.default)?\.weight\Z"
)
_PLAIN_PATTERN = re.compile(r"\^?[A-Za-z0-9_.]{1,200}\Z")

_NEUTRAL = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "eva_config",
        "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
        "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "peft_type",
        "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
        "target_modules", "task_type", "use_rslora",
    }
)  # fmt: skip
"""Keys that are read here, or that say how the adapter was trained; which modules it has, its tensors say."""

_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin a training that leave the base as it is."""


def peft_digest(folder: Path, limits: AdapterLimits) -> str:
    """Name the contents of an adapter's folder in 32 hex digits.

    Raises:
        CorruptFileError: A file is missing, cannot be read or is too large.
    """
    digest = sha256(b"stoker lora 1\0")
    for name, most in ((CONFIG_NAME, MAX_CONFIG_BYTES), (WEIGHTS_NAME, limits.max_file_bytes)):
        path = folder / name
        hash_file(
            digest,
            path,
            most,
            f"{path} is missing: an adapter is a folder with {CONFIG_NAME} and {WEIGHTS_NAME}, or a GGUF "
            "file.",
        )
    return digest.hexdigest()[:DIGEST_CHARS]


def read_peft(folder: Path, config: ModelConfig, limits: AdapterLimits) -> CheckedAdapter:
    """Read an adapter and check that it fits its base.

    Args:
        folder: PEFT's folder.
        config: The base's shape.
        limits: What it may have.

    Raises:
        CorruptFileError: A file is missing, truncated, malformed or too large, or contradicts the other.
        UnsupportedModelError: It was made for another base, or is of a kind that cannot be computed.
    """
    digest = peft_digest(folder, limits)
    label = str(folder / CONFIG_NAME)
    given = read_json(folder / CONFIG_NAME, dict[str, Any], MAX_CONFIG_BYTES)
    _check_kind(label, given)
    scales = _Scales(label, given, limits)
    file = SafetensorsFile(folder / WEIGHTS_NAME)
    try:
        parts = _parts(str(folder / WEIGHTS_NAME), file.tensors, config, scales)
    finally:
        file.close()
    _check_targets(label, given, parts, config)
    return CheckedAdapter(digest, max(len(part.down) for part in parts), parts)


def _check_kind(label: str, given: Mapping[str, Any]) -> None:
    if given.get("peft_type") != "LORA":
        raise UnsupportedModelError(
            f"{label}: peft_type is {shown(str(given.get('peft_type')))}; Stoker runs LORA adapters."
        )
    if given.get("bias", "none") != "none":
        raise UnsupportedModelError(
            f"{label}: bias is {shown(str(given['bias']))}; Stoker runs adapters whose bias is 'none'."
        )
    start = given.get("init_lora_weights")
    if not isinstance(start, bool | str | None) or start not in _PLAIN_STARTS:
        raise UnsupportedModelError(
            f"{label}: init_lora_weights is {shown(str(start))}, which changes the base too. Convert the "
            "adapter to one for the unchanged base (PEFT: save_pretrained with "
            "path_initial_model_for_weight_conversion)."
        )
    odd = sorted(key for key, value in given.items() if key not in _NEUTRAL and value)
    if odd:
        raise UnsupportedModelError(
            f"{label} sets {', '.join(map(shown, odd[:8]))}, which Stoker does not compute. Adapters are "
            "plain LoRA: no DoRA, no biases, no modules saved whole."
        )


class _Scales:
    """Rank and factor of each module, as the config says."""

    def __init__(self, label: str, given: Mapping[str, Any], limits: AdapterLimits) -> None:
        self._label = label
        self._most = min(limits.max_rank, MAX_RANK)
        self._rank = self._checked_rank("r", given.get("r"))
        self._alpha = self._checked_alpha("lora_alpha", given.get("lora_alpha", 8))
        self._ranks = self._patterns("rank_pattern", given, self._checked_rank)
        self._alphas = self._patterns("alpha_pattern", given, self._checked_alpha)
        rooted = given.get("use_rslora") or False
        if not isinstance(rooted, bool):
            raise CorruptFileError(f"{label}: use_rslora should be true or false.")
        self._rooted = rooted

    def of(self, module: str) -> tuple[int, float]:
        """Return the rank and the scale of a module by its whole name."""
        rank = _matching(self._ranks, module, self._rank)
        alpha = _matching(self._alphas, module, self._alpha)
        return rank, alpha / (math.sqrt(rank) if self._rooted else rank)

    def _checked_rank(self, key: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CorruptFileError(
                f"{self._label}: {key} is {shown(str(value))}, expected a positive number."
            )
        if value > self._most:
            raise UnsupportedModelError(
                f"{self._label}: {key} is {value}, but adapters may have a rank of at most {self._most} "
                "(max_lora_rank)."
            )
        return value

    def _checked_alpha(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_ALPHA:
            raise CorruptFileError(
                f"{self._label}: {key} is {shown(str(value))}, expected a positive number up to "
                f"{MAX_ALPHA:g}."
            )
        return float(value)

    def _patterns(self, key: str, given: Mapping[str, Any], check: Any) -> dict[str, Any]:
        patterns = given.get(key) or {}
        if not isinstance(patterns, dict) or len(patterns) > MAX_PATTERNS:
            raise CorruptFileError(f"{self._label}: {key} should be an object of module names.")
        for name in patterns:
            if _PLAIN_PATTERN.match(name) is None:
                raise UnsupportedModelError(
                    f"{self._label}: {key} has the pattern {shown(name)}; Stoker takes names of modules, not "
                    "regular expressions."
                )
        return {name: check(key, value) for name, value in patterns.items()}


def _matching(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """Return the value of the first pattern that is the module's name or its end, as PEFT does."""
    for pattern, value in patterns.items():
        name = pattern.removeprefix("^")
        if module == name or (name == pattern and module.endswith(f".{name}")):
            return value
    return default


def _parts(
    label: str, tensors: Mapping[str, StoredTensor], config: ModelConfig, scales: _Scales
) -> tuple[AdapterPart, ...]:
    sides: dict[tuple[int, str], dict[str, StoredTensor]] = {}
    modules: dict[tuple[int, str], str] = {}
    known = modules_of(config)
    for name, tensor in tensors.items():
        found = _NAME.match(name)
        if found is None or found["target"] not in known:
            raise UnsupportedModelError(
                f"{label} has the tensor {shown(name)}; Stoker knows lora_A and lora_B of "
                f"{', '.join(known)} of such a decoder's layers."
            )
        key = int(found["layer"]), found["target"]
        if found["side"] in sides.setdefault(key, {}):
            raise CorruptFileError(f"{label} has {shown(name)} twice, under two names.")
        sides[key][found["side"]] = tensor
        modules[key] = found["module"]
    if not sides:
        raise CorruptFileError(f"{label} has no tensors, so the adapter changes nothing.")
    parts = tuple(
        part
        for key in sorted(sides)
        for part in _parts_of(f"{label}: {modules[key]}", key, sides[key], config, scales.of(modules[key]))
    )
    check_once(label, parts)
    return parts


def _parts_of(
    label: str,
    key: tuple[int, str],
    sides: Mapping[str, StoredTensor],
    config: ModelConfig,
    said: tuple[int, float],
) -> tuple[AdapterPart, ...]:
    layer, target = key
    rank, scale = said
    check_sides(label, sides, ("A", "B"))
    ranks = sides["A"].shape[0], sides["B"].shape[1]
    if ranks != (rank, rank):
        raise CorruptFileError(
            f"{label} has a rank of {ranks[0]} in lora_A and {ranks[1]} in lora_B, but "
            f"{CONFIG_NAME} says {rank}."
        )
    whole = AdapterPart(target, layer, _floats(label, sides["A"]), _floats(label, sides["B"]), scale)
    return parts_of(label, config, modules_of(config)[target], whole)


def _floats(label: str, tensor: StoredTensor) -> NDArray[np.float32]:
    if tensor.dtype == "BF16":
        halves = np.frombuffer(tensor.data, "<u2").astype(np.uint32)
        values = (halves << 16).view(np.float32)
    elif tensor.dtype in ("F32", "F16"):
        values = np.frombuffer(tensor.data, "<f4" if tensor.dtype == "F32" else "<f2").astype(np.float32)
    else:
        raise UnsupportedModelError(
            f"{label} is stored as {tensor.dtype}; Stoker reads adapters of F32, F16 and BF16."
        )
    return values.reshape(tensor.shape)


def _check_targets(
    label: str, given: Mapping[str, Any], parts: tuple[AdapterPart, ...], config: ModelConfig
) -> None:
    """Every module that the config lists is one that the weights have."""
    listed = given.get("target_modules")
    if not isinstance(listed, list):  # a pattern: the tensors say what it meant
        return
    known = modules_of(config)
    changed = {part.target for part in parts}
    for module in listed:
        name = str(module).rsplit(".", 1)[-1]
        if name not in known:
            raise UnsupportedModelError(
                f"{label}: target_modules has {shown(str(module))}; Stoker knows {', '.join(known)}."
            )
        if not changed.issuperset(known[name]):
            raise CorruptFileError(
                f"{label}: target_modules has {name}, but {WEIGHTS_NAME} has no tensor of it."
            )
