"""Bottleneck modules, in folders of the library `adapters`: ``adapter_config.json``, ``adapter.safetensors``.

Behind attention, behind the feed-forward network, or both, a small network reads what that part of the layer
gives and adds to it (Houlsby et al. 2019, https://arxiv.org/abs/1902.00751; Pfeiffer et al. 2020,
https://arxiv.org/abs/2005.00247).
"""

import os
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
    Bend,
    BottleneckPart,
    CheckedAdapter,
    Half,
    check_bottlenecks,
    hash_file,
)
from stoker.models.config import ModelConfig
from stoker.models.digest import DIGEST_CHARS
from stoker.models.huggingface.files import read_json
from stoker.models.huggingface.matrices import FLOAT_BYTES
from stoker.models.huggingface.quantize import floats
from stoker.models.huggingface.safetensors import SafetensorsFile, StoredTensor, shown

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter.safetensors"
PICKLE_NAME = "pytorch_adapter.bin"
HEAD_NAME = "head_config.json"
MAX_CONFIG_BYTES = 2**20

_NAME = re.compile(
    r"(?:model\.)?layers\.(?P<layer>[0-9]{1,6})\.(?P<half>attention|output)_adapters\.adapters\.[^.]{1,200}\."
    r"(?P<part>adapter_down\.0\.weight|adapter_down\.0\.bias|adapter_up\.weight|adapter_up\.bias)\Z"
)
_HALVES: Mapping[str, Half] = {"attention": "attention", "output": "feed_forward"}
_PARTS = ("adapter_down.0.weight", "adapter_down.0.bias", "adapter_up.weight", "adapter_up.bias")
_BENDS: Mapping[str, Bend] = {
    "relu": "relu",
    "swish": "silu",
    "silu": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
"""The library's names of activations, and the engine's."""

_OFF = (
    "cross_adapter", "hypercomplex", "inv_adapter", "is_parallel", "ln_after", "ln_before", "phm_layer",
    "stochastic_depth", "use_gating",
)  # fmt: skip
"""Keys that must be off: what they turn on is not computed."""

_NEUTRAL = frozenset(
    {
        "adapter_residual_before_ln", "architecture", "dropout", "factorized_phm_W", "factorized_phm_rule",
        "hypercomplex_nonlinearity", "init_weights", "init_weights_seed", "inv_adapter_reduction_factor",
        "learn_phm", "leave_out", "mh_adapter", "non_linearity", "original_ln_after", "original_ln_before",
        "output_adapter", "phm_bias", "phm_c_init", "phm_dim", "phm_init_range", "phm_rank",
        "reduction_factor", "residual_before_ln", "scaling", "shared_W_phm", "shared_phm_rule",
    }
)  # fmt: skip
"""Keys that are read here, that are of what is off, or that say how the adapter was trained."""


def is_bottleneck_folder(folder: Path) -> bool:
    """Tell whether a folder is one of the library's."""
    return any(os.path.isfile(folder / name) for name in (WEIGHTS_NAME, PICKLE_NAME))  # noqa: PTH113 - never raises


def bottleneck_digest(folder: Path, limits: AdapterLimits) -> str:
    """Name the contents of an adapter's folder in 32 hex digits.

    Raises:
        CorruptFileError: A file is missing, cannot be read or is too large.
        UnsupportedModelError: The weights are a pickle.
    """
    if not (folder / WEIGHTS_NAME).is_file():
        raise UnsupportedModelError(
            f"{folder} holds {PICKLE_NAME}, whose format can run code when it is opened; Stoker reads "
            f"{WEIGHTS_NAME}. Save the adapter with use_safetensors=True."
        )
    digest = sha256(b"stoker bottleneck 1\0")
    for name, most in ((CONFIG_NAME, MAX_CONFIG_BYTES), (WEIGHTS_NAME, limits.max_file_bytes)):
        hash_file(digest, folder / name, most, f"{folder / name} is missing.")
    return digest.hexdigest()[:DIGEST_CHARS]


def read_bottlenecks(folder: Path, config: ModelConfig, limits: AdapterLimits) -> CheckedAdapter:
    """Read an adapter and check that it fits its base.

    Args:
        folder: The library's folder.
        config: The base's shape.
        limits: What it may have.

    Raises:
        CorruptFileError: A file is missing, truncated, malformed or too large, or contradicts the other.
        UnsupportedModelError: It was made for another base, or is of a kind that cannot be computed.
    """
    digest = bottleneck_digest(folder, limits)
    label = str(folder / CONFIG_NAME)
    if (folder / HEAD_NAME).exists():
        raise UnsupportedModelError(
            f"{folder} has a head beside the adapter ({HEAD_NAME}), and Stoker serves the base's own. If it "
            "was not trained, save the adapter with with_head=False."
        )
    given = read_json(folder / CONFIG_NAME, dict[str, Any], MAX_CONFIG_BYTES).get("config")
    if not isinstance(given, dict):
        raise CorruptFileError(f"{label} has no object 'config'.")
    kind = _kind(label, given)
    file = SafetensorsFile(folder / WEIGHTS_NAME)
    try:
        parts = _bottlenecks(str(folder / WEIGHTS_NAME), file.tensors, kind, min(limits.max_rank, MAX_RANK))
    finally:
        file.close()
    check_bottlenecks(str(folder / WEIGHTS_NAME), config, parts)
    return CheckedAdapter(digest, max(len(part.down) for part in parts), (), parts)


def _kind(label: str, given: Mapping[str, Any]) -> tuple[Bend, float, bool]:
    """Return the activation, the scale, and whether modules read the residual stream."""
    on = [key for key in _OFF if given.get(key)]
    odd = sorted(key for key, value in given.items() if key not in {*_OFF, *_NEUTRAL} and value)
    if on or odd:
        raise UnsupportedModelError(
            f"{label} sets {', '.join(map(shown, [*on, *odd][:8]))}, which Stoker does not compute. Adapters "
            "are plain bottlenecks, one after the other with the model's own layers."
        )
    bend = _BENDS.get(str(given.get("non_linearity")).lower())
    if bend is None:
        raise UnsupportedModelError(
            f"{label}: non_linearity is {shown(str(given.get('non_linearity')))}; Stoker computes "
            f"{', '.join(_BENDS)}."
        )
    scale = given.get("scaling", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= MAX_ALPHA:
        raise UnsupportedModelError(
            f"{label}: scaling is {shown(str(scale))}; Stoker computes a positive number up to {MAX_ALPHA:g}."
        )
    places = tuple(
        given.get(key) for key in ("original_ln_before", "residual_before_ln", "original_ln_after")
    )
    if places in ((False, True, True), (False, False, True)):
        return bend, float(scale), False
    if places in ((True, True, True), (True, False, False)):
        return bend, float(scale), True
    raise UnsupportedModelError(
        f"{label}: original_ln_before, residual_before_ln and original_ln_after are {places}; Stoker "
        "computes those of DoubleSeqBnConfig (False, True, True) and SeqBnConfig (True, True, True)."
    )


def _bottlenecks(
    label: str, tensors: Mapping[str, StoredTensor], kind: tuple[Bend, float, bool], most: int
) -> tuple[BottleneckPart, ...]:
    found: dict[tuple[int, Half], dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        match = _NAME.match(name)
        if match is None:
            raise UnsupportedModelError(
                f"{label} has the tensor {shown(name)}; Stoker knows adapter_down and adapter_up of "
                "attention_adapters and output_adapters of a decoder's layers."
            )
        parts = found.setdefault((int(match["layer"]), _HALVES[match["half"]]), {})
        if match["part"] in parts:
            raise CorruptFileError(f"{label} has {shown(name)} twice, under two names.")
        parts[match["part"]] = tensor
    if not found:
        raise CorruptFileError(f"{label} has no tensors, so the adapter changes nothing.")
    return tuple(_bottleneck(label, key, found[key], kind, most) for key in sorted(found))


def _bottleneck(
    label: str,
    key: tuple[int, Half],
    tensors: Mapping[str, StoredTensor],
    kind: tuple[Bend, float, bool],
    most: int,
) -> BottleneckPart:
    layer, half = key
    label = f"{label}: {half} of layer {layer}"
    missing = [part for part in _PARTS if part not in tensors]
    if missing:
        raise CorruptFileError(f"{label} has no {missing[0]}.")
    down, bias, up, up_bias = (_floats(f"{label}, {part}", tensors[part]) for part in _PARTS)
    if down.ndim != 2 or not len(down) or up.shape != down.shape[::-1]:  # noqa: PLR2004
        raise CorruptFileError(
            f"{label} has the shapes {list(down.shape)} down and {list(up.shape)} up, expected one and its "
            "reverse."
        )
    if bias.shape != down.shape[:1] or up_bias.shape != up.shape[:1]:
        raise CorruptFileError(f"{label} has biases of {list(bias.shape)} and {list(up_bias.shape)}.")
    if len(down) > most:
        raise UnsupportedModelError(
            f"{label} has a bottleneck of {len(down)}, but adapters may have one of at most {most} "
            "(max_lora_rank)."
        )
    bend, scale, of_stream = kind
    return BottleneckPart(half, layer, down, bias, up, up_bias, scale, bend, of_stream)


def _floats(label: str, tensor: StoredTensor) -> NDArray[np.float32]:
    if tensor.dtype not in FLOAT_BYTES:
        raise UnsupportedModelError(
            f"{label} is stored as {tensor.dtype}; Stoker reads adapters of {', '.join(FLOAT_BYTES)}."
        )
    return np.array(floats(tensor.data, tensor.dtype)).reshape(tensor.shape)
