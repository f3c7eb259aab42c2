"""Targets among the readers of Hugging Face folders."""

import tempfile
from contextlib import suppress
from math import prod
from pathlib import Path

import msgspec
import numpy as np

from stoker.core.errors import StokerError
from stoker.models.adapters import AdapterLimits
from stoker.models.adapters.checked import target_shape
from stoker.models.adapters.reading import read_adapter
from stoker.models.config import LayerConfig, ModelConfig, Rotary
from stoker.models.huggingface.files import Quantize
from stoker.models.huggingface.folder import OpenedFolder
from stoker.models.huggingface.safetensors import ELEMENT_BYTES, SafetensorsFile
from stoker.models.huggingface.shards import INDEX_NAME, Shards
from stoker.testing.model_folders import RawTensor, encode_safetensors

_MAX_DATA_BYTES = 2**20
_LENGTH_BYTES = 8
_MAX_RANK = 16
_STORED_BITS = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q4_1": 5, "MXFP4": 4.25}


class _Entry(msgspec.Struct):
    data_offsets: tuple[int, int] = (0, 0)


def safetensors(data: bytes) -> None:
    """Open a safetensors file and read every tensor; also with the length of the header set right."""
    end = data.rfind(b"}") + 1
    if end > _LENGTH_BYTES:
        with suppress(StokerError):
            _read_file((end - _LENGTH_BYTES).to_bytes(_LENGTH_BYTES, "little") + data[_LENGTH_BYTES:])
    _read_file(data)


def _read_file(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="stoker-fuzz-") as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        file = SafetensorsFile(path)
        total = 0
        for stored in file.tensors.values():
            if len(stored.data) != prod(stored.shape) * ELEMENT_BYTES[stored.dtype]:
                raise AssertionError(f"{stored.name[:80]} has {len(stored.data)} bytes")
            total += len(bytes(stored.data))
        if total + file.data_start != len(data):
            raise AssertionError("tensors do not fill the file")
        file.close()


def shards(data: bytes) -> None:
    """Read an index of two files, each of which holds a tensor."""
    with tempfile.TemporaryDirectory(prefix="stoker-fuzz-") as name:
        outer, inner = Path(name), Path(name) / "folder"
        inner.mkdir()
        (inner / INDEX_NAME).write_bytes(data)
        for path, tensor in ((outer / "a", "a"), (inner / "a", "a"), (inner / "b", "b")):
            path.with_suffix(".safetensors").write_bytes(
                encode_safetensors({tensor: RawTensor("U8", (1,), b"1")})
            )
        opened = Shards(inner)
        if set(opened.tensors) != {path.path.stem for path in opened.files}:
            raise AssertionError(f"{sorted(opened.tensors)}")
        if any(path.path.parent != inner for path in opened.files):
            raise AssertionError("an index leads out of its folder")
        opened.close()


def folder(data: bytes) -> None:
    """Open a folder and read everything that a server would.

    The input is in parts with form feeds between: ``config.json``, a safetensors header, ``tokenizer.json``
    and ``tokenizer_config.json``. The weights are as long as the header says, within bounds, and all ones.
    """
    config, header, tokenizer, tokenizer_config = ([*data.split(b"\f", 3), b"", b"", b""])[:4]
    with tempfile.TemporaryDirectory(prefix="stoker-fuzz-") as name:
        path = Path(name)
        (path / "config.json").write_bytes(config)
        (path / "model.safetensors").write_bytes(_weights(header))
        if tokenizer:
            (path / "tokenizer.json").write_bytes(tokenizer)
        if tokenizer_config:
            (path / "tokenizer_config.json").write_bytes(tokenizer_config)
        _read_all(path, "none")
        _read_all(path, "q4")


_BASE = ModelConfig(
    architecture="llama",
    layers=(LayerConfig(), LayerConfig()),
    width=32,
    n_heads=1,
    n_kv_heads=1,
    head_size=32,
    ffn_width=64,
    vocab_size=64,
    context_length=64,
    rotaries=(Rotary(frequencies=(1.0,) * 16),),
    rope_pairs="halves",
    norm_epsilon=1e-5,
    tied_embeddings=True,
)


def adapter(data: bytes) -> None:
    """Read an adapter.

    That is a GGUF file, or ``adapter_config.json``, a form feed, and a safetensors header, as in `folder`: of
    PEFT's, or if the config has a ``config`` in it, of bottlenecks.
    """
    config, _, header = data.partition(b"\f")
    with tempfile.TemporaryDirectory(prefix="stoker-fuzz-") as name:
        path = Path(name)
        if data.startswith(b"GGUF"):
            path /= "adapter.gguf"
            path.write_bytes(data)
        else:
            (path / "adapter_config.json").write_bytes(config)
            weights = "adapter.safetensors" if b'"config"' in config else "adapter_model.safetensors"
            (path / weights).write_bytes(_weights(header))
        read = read_adapter(
            path, _BASE, AdapterLimits(max_rank=_MAX_RANK, max_file_bytes=2 * _MAX_DATA_BYTES)
        )
    for part in read.parts:
        shape = (len(part.up), part.down.shape[1])
        if shape != target_shape(_BASE, part.target) or not 1 <= len(part.down) <= read.rank <= _MAX_RANK:
            raise AssertionError(f"{part.target} of layer {part.layer} has the shape {shape}")
        if not (np.isfinite(part.down).all() and np.isfinite(part.up).all() and part.scale > 0):
            raise AssertionError(f"{part.target} of layer {part.layer} has no numbers")
    for each in read.bottlenecks:
        size = len(each.down)
        shapes = (each.down.shape, each.bias.shape, each.up.shape, each.up_bias.shape)
        if shapes != ((size, _BASE.width), (size,), (_BASE.width, size), (_BASE.width,)):
            raise AssertionError(f"{each.half} of layer {each.layer} has the shapes {shapes}")
        if not (1 <= size <= read.rank <= _MAX_RANK and each.layer < _BASE.n_layers):
            raise AssertionError(f"{each.half} of layer {each.layer} has a size of {size}")


def _weights(header: bytes) -> bytes:
    try:
        entries = msgspec.json.decode(header, type=dict[str, _Entry])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        entries = {}
    length = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    return len(header).to_bytes(8, "little") + header + b"\1" * max(0, min(length, _MAX_DATA_BYTES))


def _read_all(path: Path, quantize: Quantize) -> None:
    with OpenedFolder(path, quantize) as model:
        for tensor in model.tensors.values():
            try:
                data = tensor.data
            except StokerError:  # values that cannot be quantized
                continue
            if len(data) * 8 != prod(tensor.shape) * _STORED_BITS[tensor.dtype]:
                raise AssertionError(f"{tensor.name}, {tensor.dtype} {tensor.shape}, has {len(data)} bytes")
        if not model.digest:
            raise AssertionError("no digest")
        if len(model.tokenizer.tokens) != model.config.vocab_size:
            raise AssertionError(f"{len(model.tokenizer.tokens)} tokens")
