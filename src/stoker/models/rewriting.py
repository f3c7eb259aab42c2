"""Model files written anew, with other contents for some of their matrices."""

import struct
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from math import prod
from pathlib import Path

import msgspec

from stoker.models.gguf import TENSOR_TYPES, GgufFile, TensorInfo, TensorType
from stoker.models.gguf.file import DEFAULT_ALIGNMENT
from stoker.models.huggingface.matrices import Matrix
from stoker.models.huggingface.safetensors import StoredTensor

_NUMBERS = {kind.name: number for number, kind in TENSOR_TYPES.items()}
_CHUNK_ELEMENTS = 2**22
_HEADER_ALIGNMENT = 8

Replaced = Mapping[str, Matrix]
"""What matrices shall be instead, by the file's names; of the same shapes."""


def write_chunks(path: Path, chunks: Iterable[bytes | memoryview]) -> str:
    """Write a new file and return its SHA-256 in hex.

    Raises:
        OSError: It cannot be written.
    """
    state = sha256()
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            state.update(chunk)
    return state.hexdigest()


def grown_bytes(file: GgufFile, replaced: Replaced) -> int:
    """By how much the new file's tensors are larger than the old one's."""
    return sum(_size_bytes(matrix) - file.tensors[name].size_bytes for name, matrix in replaced.items())


def rewritten_gguf(file: GgufFile, replaced: Replaced) -> Iterator[bytes | memoryview]:
    """Yield the file's bytes, its metadata and all other tensors as they are.

    Args:
        file: The file.
        replaced: In any type that `TENSOR_TYPES` has.
    """
    alignment = file.metadata.integer("general.alignment", DEFAULT_ALIGNMENT)
    head = bytearray(file.view(0, file.metadata_end))
    start = 0
    for info in file.tensors.values():
        kind, size_bytes = _type_and_size(info, replaced.get(info.name))
        name = info.name.encode()
        head += struct.pack("<Q", len(name)) + name
        head += struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *reversed(info.shape))
        head += struct.pack("<IQ", _NUMBERS[kind.name], start)
        start += size_bytes + -size_bytes % alignment
    yield bytes(head) + bytes(-len(head) % alignment)
    for info in file.tensors.values():
        matrix = replaced.get(info.name)
        if matrix is None:
            yield file.view(info.start, info.size_bytes)
        else:
            yield from _rows(matrix)
        _, size_bytes = _type_and_size(info, matrix)
        yield bytes(-size_bytes % alignment)


def rewritten_safetensors(
    tensors: Mapping[str, StoredTensor], replaced: Replaced
) -> Iterator[bytes | memoryview]:
    """Yield a safetensors file's bytes.

    Args:
        tensors: The file's tensors.
        replaced: In the types that they have there.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        end = start + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (start, end)}
        start = end
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    yield struct.pack("<Q", len(text)) + text
    for name, tensor in tensors.items():
        matrix = replaced.get(name)
        if matrix is None:
            yield tensor.data
        else:
            yield from _rows(matrix)


def _rows(matrix: Matrix) -> Iterator[memoryview]:
    """Yield a matrix's bytes, some rows at a time."""
    rows, inputs = matrix.shape
    step = max(1, _CHUNK_ELEMENTS // inputs)
    for first in range(0, rows, step):
        yield matrix.read(first, min(rows, first + step))


def _type_and_size(info: TensorInfo, matrix: Matrix | None) -> tuple[TensorType, int]:
    if matrix is None:
        return info.type, info.size_bytes
    return TENSOR_TYPES[_NUMBERS[matrix.dtype]], _size_bytes(matrix)


def _size_bytes(matrix: Matrix) -> int:
    kind = TENSOR_TYPES[_NUMBERS[matrix.dtype]]
    return prod(matrix.shape) // kind.block_elements * kind.block_bytes
