"""One safetensors file, opened: which tensors it has, and where they lie.

Format: https://github.com/huggingface/safetensors (8 bytes of length, a JSON object, the data). Nothing
that the file says is believed before it is checked against the file's real size.
"""

import mmap
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.mapped_file import map_file

MAX_HEADER_BYTES = 2**24
"""Longest header: 16 MiB, some 100,000 tensors."""

MAX_TENSORS = 65_536
"""Most tensors of one file."""

MAX_DIMENSIONS = 8
MAX_DIMENSION = 2**40
MAX_NAME_CHARS = 512

ELEMENT_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}
"""Size of an element of each type that a file may hold; which of them make a model is not decided here."""

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_SHOWN_CHARS = 80

_Size = Annotated[int, Meta(ge=0, le=MAX_DIMENSION)]
_Offset = Annotated[int, Meta(ge=0, le=2**62)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[list[_Size], Meta(max_length=MAX_DIMENSIONS)]
    data_offsets: tuple[_Offset, _Offset]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file.

    Attributes:
        name: Its name.
        dtype: Its type, one of `ELEMENT_BYTES`.
        shape: Outermost dimension first.
        data: Its bytes, row-major and little-endian; a view of the mapped file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


class SafetensorsFile:
    """A memory-mapped safetensors file whose header has been checked.

    The file must not be changed while it is open: a mapping shows whatever the file holds.

    Args:
        path: The file.

    Raises:
        UnknownModelError: There is no such file, or it may not be read.
        CorruptFileError: It is truncated or malformed.
        UnsupportedModelError: It has a type of elements that is not known.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map, self.modified_ns = map_file(path, kind="safetensors file", least_bytes=_LENGTH_BYTES)
        self.size_bytes = len(self._map)
        self.data_start, header = _read_header(str(path), self._map)
        entries = _decode(str(path), header)
        _check_entries(str(path), entries, self.size_bytes - self.data_start)
        self.tensors = {name: self._tensor(name, entry) for name, entry in entries.items()}
        """Every tensor by name, as the header lists them."""

    def header(self) -> memoryview:
        """The bytes before the data."""
        return memoryview(self._map)[: self.data_start]

    def close(self) -> None:
        """Let go of the file; tensors stay valid and keep it mapped until the last of them is gone."""
        self.tensors = {}
        with suppress(BufferError):  # a view is alive: the mapping goes when it goes
            self._map.close()

    def _tensor(self, name: str, entry: _Entry) -> StoredTensor:
        start, end = (self.data_start + offset for offset in entry.data_offsets)
        return StoredTensor(name, entry.dtype, tuple(entry.shape), memoryview(self._map)[start:end])


def shown(text: str) -> str:
    """A name from a file as messages show it."""
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…")


def _read_header(label: str, mapped: mmap.mmap) -> tuple[int, bytes]:
    """Return where the data begins, and the header."""
    length = int.from_bytes(mapped[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise CorruptFileError(
            f"{label}: its header has {length} bytes, more than the {MAX_HEADER_BYTES} allowed; "
            "it is no safetensors file, or damaged."
        )
    end = _LENGTH_BYTES + length
    if end > len(mapped):
        raise CorruptFileError(
            f"{label} is truncated: its header ends at {end}, but the file has {len(mapped)} bytes. "
            "Fetch the file again."
        )
    header = mapped[_LENGTH_BYTES:end]
    if not header.startswith(b"{"):
        raise CorruptFileError(f"{label}: its header begins with {header[:4]!r}, expected a JSON object.")
    return end, header


def _decode(label: str, header: bytes) -> dict[str, _Entry]:
    # Each entry has this key, so nothing large is made before the number is known to be small.
    if header.count(b'"data_offsets"') > MAX_TENSORS:
        raise CorruptFileError(f"{label}: its header lists more than {MAX_TENSORS} tensors.")
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        if _METADATA in raw:
            msgspec.json.decode(raw.pop(_METADATA), type=dict[str, str])
        entries = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in raw.items()}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{label}: its header is malformed: {str(error)[:400]}.") from error
    for name in entries:
        if len(name) > MAX_NAME_CHARS:
            raise CorruptFileError(
                f"{label}: the tensor {shown(name)} has a name of {len(name)} characters, more than "
                f"{MAX_NAME_CHARS}."
            )
    return entries


def _check_entries(label: str, entries: dict[str, _Entry], data_bytes: int) -> None:
    """Every tensor is as long as its type and shape say, and they fill the data without gap or overlap."""
    for name, entry in entries.items():
        if entry.dtype not in ELEMENT_BYTES:
            raise UnsupportedModelError(
                f"{label}: the tensor {shown(name)} has the type {shown(entry.dtype)}; Stoker knows "
                f"{', '.join(ELEMENT_BYTES)}."
            )
        expected = ELEMENT_BYTES[entry.dtype]
        for size in entry.shape:
            expected *= size
        start, end = entry.data_offsets
        if end - start != expected:
            raise CorruptFileError(
                f"{label}: the tensor {shown(name)} of the shape {entry.shape} and the type {entry.dtype} "
                f"needs {expected} bytes, but has {end - start}."
            )
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        start, end = entry.data_offsets
        if start != position:
            fault = "overlaps the one before" if start < position else "leaves a gap before it"
            raise CorruptFileError(f"{label}: the tensor {shown(name)} {fault}, at {min(start, position)}.")
        position = end
    if position > data_bytes:
        raise CorruptFileError(
            f"{label} is truncated: its tensors need {position} bytes, but the file has {data_bytes} "
            f"({position - data_bytes} are missing). Fetch the file again."
        )
    if position < data_bytes:
        raise CorruptFileError(f"{label} has {data_bytes - position} bytes that no tensor uses.")
