"""Targets among the readers of model files and of what describes them."""

import tempfile
from pathlib import Path

from stoker.engine.llamacpp.sizing import kv_block_bytes
from stoker.models import open_model
from stoker.models.catalogue import load_catalogue
from stoker.models.header import ModelHeader
from stoker.models.manifest import MANIFEST_NAME, Manifest, read_manifest


def gguf(data: bytes) -> None:
    """Open a model file and read everything that a server would."""
    with tempfile.TemporaryDirectory(prefix="stoker-fuzz-") as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(data)
        with open_model(path) as model:
            n_tokens = len(model.tokenizer.tokens)
            if n_tokens > model.config.vocab_size:
                raise AssertionError(f"{n_tokens} tokens, but {model.config.vocab_size} rows")
            for tensor in model.tensors.values():
                if len(tensor.data) > len(data):
                    raise AssertionError(f"{tensor.name} is larger than its file")
            if not model.digest:
                raise AssertionError("no digest")


def header(data: bytes) -> None:
    """Read of a model file what the gateway needs for an engine that reads the rest itself."""
    with tempfile.TemporaryDirectory(prefix="stoker-fuzz-") as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(data)
        model = ModelHeader(path)
        if len(model.tokenizer.tokens) != model.vocab_size:
            raise AssertionError(f"{len(model.tokenizer.tokens)} tokens of {model.vocab_size}")
        if kv_block_bytes(model.architecture, model.metadata) < 1:
            raise AssertionError("KV blocks take no memory")
        if not model.digest:
            raise AssertionError("no digest")


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
