"""Targets among the readers of model files and of what describes them."""

import tempfile
from hashlib import sha256
from math import isfinite, prod
from pathlib import Path
from struct import Struct

from stoker.engine.llamacpp.sizing import kv_block_bytes
from stoker.models import open_model
from stoker.models.catalogue import load_catalogue
from stoker.models.config import Tensor
from stoker.models.gguf import TENSOR_TYPES
from stoker.models.header import ModelHeader
from stoker.models.manifest import MANIFEST_NAME, Manifest, read_manifest
from stoker.models.packs import PackFile
from stoker.models.packs.format import ALIGNMENT, FORMAT_VERSION, MAGIC, PRELUDE
from stoker.models.tensor_layout import expected_shapes

_PACK_SIZES = Struct("<HBB")
"""How an input for `pack` begins: bytes of description, checksums, a byte that says nothing."""


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


def pack(data: bytes) -> None:
    """Map a pack file and read all of it.

    The input is a whole file if it begins like one; else it is what a file is made of, so that not every
    change of it ends at a wrong checksum of the header.
    """
    with tempfile.TemporaryDirectory(prefix="stoker-fuzz-") as folder:
        path = Path(folder) / "a.pack"
        path.write_bytes(data if data.startswith(MAGIC[:4]) else _sealed_pack(data))
        found = PackFile(path)
        for part in found.parts.values():
            if len(found.data(part)) != part.size_bytes:
                raise AssertionError(f"{part.name} goes beyond the end of its file")
        found.load(1)


def _sealed_pack(data: bytes) -> bytes:
    """Lay a file out behind a header whose magic, version, sizes and checksum are right."""
    data = data.ljust(_PACK_SIZES.size, b"\0")
    description_bytes, n_checksums, _ = _PACK_SIZES.unpack_from(data)
    described = description_bytes + 4 * n_checksums
    rest = data[_PACK_SIZES.size :]
    header, body = rest[:described].ljust(described, b"\0"), rest[described:]
    header += bytes(-(PRELUDE.size + described) % ALIGNMENT)
    size_bytes = PRELUDE.size + len(header) + len(body)
    numbers = (MAGIC, FORMAT_VERSION, 1, size_bytes, description_bytes, n_checksums)
    unsigned = PRELUDE.pack(*numbers, b"")[:32]
    return unsigned + sha256(unsigned + header).digest() + header + body
