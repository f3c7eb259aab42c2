"""Targets among the readers of model files and of what describes them."""

import tempfile
from math import isfinite, prod
from pathlib import Path

from stoker.models import open_model
from stoker.models.catalogue import load_catalogue
from stoker.models.config import Tensor
from stoker.models.gguf import TENSOR_TYPES
from stoker.models.manifest import MANIFEST_NAME, Manifest, read_manifest
from stoker.models.tensor_layout import expected_shapes


def gguf(data: bytes) -> None:
    """Open a model file and read everything that a server would."""
    with tempfile.TemporaryDirectory(prefix="stoker-fuzz-") as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(data)
        with open_model(path) as model:
            n_tokens = len(model.tokenizer.tokens)
            if n_tokens > model.config.vocab_size:
                raise AssertionError(f"{n_tokens} tokens, but {model.config.vocab_size} rows")
            shapes = expected_shapes(model.config)
            if {name: tensor.shape for name, tensor in model.tensors.items()} != shapes:
                raise AssertionError("other tensors than the forward pass needs")
            for tensor in model.tensors.values():
                if len(tensor.data) != _size_bytes(tensor):
                    raise AssertionError(f"{tensor.name} has {len(tensor.data)} bytes")
            for rotary in model.config.rotaries:
                if not all(map(isfinite, (*rotary.frequencies, rotary.magnitude))):
                    raise AssertionError(f"{rotary} turns by what is not a number")
            if not model.digest:
                raise AssertionError("no digest")


def _size_bytes(tensor: Tensor) -> int:
    (kind,) = (kind for kind in TENSOR_TYPES.values() if kind.name == tensor.dtype)
    return prod(tensor.shape) // kind.block_elements * kind.block_bytes


def manifest(data: bytes) -> None:
    """Read the note beside a stored model; a bad one is none."""
    with tempfile.TemporaryDirectory(prefix="stoker-fuzz-") as folder:
        (Path(folder) / MANIFEST_NAME).write_bytes(data)
        found = read_manifest(Path(folder))
        if found is not None and any("/" in name for name in _names(found)):
            raise AssertionError("a manifest leads out of its folder")


def _names(found: Manifest) -> list[str]:
    return [*(each.name for each in found.files), *([found.file] if found.file else [])]


def catalogue(data: bytes) -> None:
    """Read a user's catalogue."""
    with tempfile.TemporaryDirectory(prefix="stoker-fuzz-") as folder:
        path = Path(folder) / "catalogue.toml"
        path.write_bytes(data)
        for entry in load_catalogue([path]).values():
            if not entry.sources:
                raise AssertionError(f"{entry.name} has no source")
