"""Adapters in the formats that they are published in."""

import os
from pathlib import Path

from stoker.models.adapters.bottleneck import bottleneck_digest, is_bottleneck_folder, read_bottlenecks
from stoker.models.adapters.checked import AdapterLimits, CheckedAdapter
from stoker.models.adapters.gguf import SUFFIX, gguf_digest, read_gguf
from stoker.models.adapters.peft import peft_digest, read_peft
from stoker.models.config import ModelConfig


def adapter_digest(path: Path, limits: AdapterLimits) -> str:
    """Name the contents of an adapter in 32 hex digits.

    Args:
        path: PEFT's folder, a GGUF file, or a folder of the library `adapters`.
        limits: What it may have.

    Raises:
        CorruptFileError: A file is missing, cannot be read or is too large.
        UnsupportedModelError: The weights are a pickle.
    """
    if _is_gguf(path):
        return gguf_digest(path, limits)
    return (bottleneck_digest if is_bottleneck_folder(path) else peft_digest)(path, limits)


def read_adapter(path: Path, config: ModelConfig, limits: AdapterLimits) -> CheckedAdapter:
    """Read an adapter and check that it fits its base.

    Args:
        path: PEFT's folder, a GGUF file, or a folder of the library `adapters`.
        config: The base's shape.
        limits: What it may have.

    Raises:
        CorruptFileError: A file is missing, truncated, malformed or too large, or contradicts the other.
        UnsupportedModelError: It was made for another base, or is of a kind that cannot be computed.
    """
    if _is_gguf(path):
        return read_gguf(path, config, limits)
    return (read_bottlenecks if is_bottleneck_folder(path) else read_peft)(path, config, limits)


def _is_gguf(path: Path) -> bool:
    return path.suffix == SUFFIX and not os.path.isdir(path)  # noqa: PTH112 - never raises
