"""Adapters in the formats that they are published in."""

from pathlib import Path

from stoker.models.adapters.checked import AdapterLimits, LoraAdapter
from stoker.models.adapters.gguf import SUFFIX, gguf_digest, read_gguf
from stoker.models.adapters.peft import peft_digest, read_peft
from stoker.models.config import ModelConfig


def adapter_digest(path: Path, limits: AdapterLimits) -> str:
    """Name the contents of an adapter in 32 hex digits.

    Args:
        path: PEFT's folder, or a GGUF file.
        limits: What it may have.

    Raises:
        CorruptFileError: A file is missing, cannot be read or is too large.
    """
    return gguf_digest(path, limits) if _is_gguf(path) else peft_digest(path, limits)


def read_adapter(path: Path, config: ModelConfig, limits: AdapterLimits) -> LoraAdapter:
    """Read an adapter and check that it fits its base.

    Args:
        path: PEFT's folder, or a GGUF file.
        config: The base's shape.
        limits: What it may have.

    Raises:
        CorruptFileError: A file is missing, truncated, malformed or too large, or contradicts the other.
        UnsupportedModelError: It was made for another base, or is of a kind that cannot be computed.
    """
    return read_gguf(path, config, limits) if _is_gguf(path) else read_peft(path, config, limits)


def _is_gguf(path: Path) -> bool:
    return path.suffix == SUFFIX and not path.is_dir()
