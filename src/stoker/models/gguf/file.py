"""A GGUF file, opened: its metadata, and where its tensors lie."""

from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.gguf.cursor import Cursor
from stoker.models.gguf.metadata import Metadata, read_metadata, shown
from stoker.models.gguf.types import OTHER_TENSOR_TYPE_NAMES, TENSOR_TYPES, TensorType
from stoker.models.mapped_file import map_file

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

MAX_TENSORS = 65_536
"""Most tensors of one file; a model of 100 layers has some 1,000."""

MAX_TENSOR_NAME_BYTES = 256
MAX_DIMENSIONS = 4
MAX_DIMENSION = 2**40
MAX_ALIGNMENT = 65_536
_MIN_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        name: Its name.
        type: How its elements are stored.
        shape: Outermost dimension first.
        start: Offset of its first byte from the beginning of the file.
        size_bytes: Its length.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    start: int
    size_bytes: int


class GgufFile:
    """A memory-mapped GGUF file whose header has been checked against the file's real size.

    The file must not be changed while it is open: a mapping shows whatever the file holds.

    Args:
        path: The file.

    Raises:
        UnknownModelError: There is no such file, or it may not be read.
        CorruptFileError: It is not GGUF, or truncated, or malformed.
        UnsupportedModelError: A version, byte order or tensor type that Stoker does not read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map, self.modified_ns = map_file(path, kind="GGUF model file", least_bytes=len(MAGIC))
        cursor = Cursor(self._map, str(path))
        n_tensors, n_keys = read_preamble(cursor)
        self.size_bytes = cursor.size
        self.metadata: Metadata = read_metadata(cursor, n_keys)
        self.metadata_end = cursor.position
        self.tensors, self.data_start = _read_tensor_infos(cursor, self.metadata, n_tensors)

    def view(self, start: int, size_bytes: int) -> memoryview:
        """Bytes of the file, read-only and not copied; they stay mapped as long as the view lives."""
        return memoryview(self._map)[start : start + size_bytes]

    def close(self) -> None:
        """Let go of the file; reading from it afterwards raises ValueError.

        Views handed out earlier stay valid and keep the file mapped until the last of them is gone.
        """
        with suppress(BufferError):  # a view is alive: the mapping goes when it goes
            self._map.close()


def read_preamble(cursor: Cursor) -> tuple[int, int]:
    """Check magic and version; return the numbers of tensors and of metadata keys.

    Raises:
        CorruptFileError: It does not begin as GGUF does.
        UnsupportedModelError: A version or byte order that Stoker does not read.
    """
    magic = cursor.buffer[: len(MAGIC)]
    if magic != MAGIC:
        raise cursor.corrupt(f"it begins with {magic!r}, expected {MAGIC!r}")
    cursor.skip(len(MAGIC), "the magic")
    version = cursor.u32("the version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        found = "a big-endian file" if swapped in VERSIONS else f"of version {version}"
        raise UnsupportedModelError(
            f"{cursor.label} is {found}; Stoker reads little-endian GGUF of the versions "
            f"{' and '.join(map(str, VERSIONS))}."
        )
    return cursor.u64("the number of tensors"), cursor.u64("the number of metadata keys")


def _read_tensor_infos(cursor: Cursor, metadata: Metadata, count: int) -> tuple[dict[str, TensorInfo], int]:
    if count > MAX_TENSORS:
        raise cursor.corrupt(f"its header claims {count} tensors, more than the {MAX_TENSORS} allowed")
    alignment = metadata.integer("general.alignment", DEFAULT_ALIGNMENT)
    if not _MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT or alignment.bit_count() != 1:
        raise cursor.corrupt(
            f"general.alignment is {alignment}, "
            f"expected a power of two from {_MIN_ALIGNMENT} to {MAX_ALIGNMENT}"
        )
    infos: dict[str, TensorInfo] = {}
    for _ in range(count):
        info = _read_tensor_info(cursor, alignment)
        if info.name in infos:
            raise cursor.corrupt(f"the tensor {shown(info.name)} appears twice")
        infos[info.name] = info
    data_start = -(-cursor.position // alignment) * alignment
    placed = {
        name: TensorInfo(name, info.type, info.shape, data_start + info.start, info.size_bytes)
        for name, info in infos.items()
    }
    _check_extents(cursor, placed)
    return placed, data_start


def _read_tensor_info(cursor: Cursor, alignment: int) -> TensorInfo:
    """Read one entry; `start` is still relative to the data section."""
    name = cursor.string("a tensor's name", MAX_TENSOR_NAME_BYTES)
    label = f"tensor {shown(name)}"
    n_dimensions = cursor.u32(label)
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise cursor.corrupt(f"{label} has {n_dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}")
    innermost_first = [cursor.u64(label) for _ in range(n_dimensions)]
    if not all(1 <= size <= MAX_DIMENSION for size in innermost_first):
        raise cursor.corrupt(
            f"{label} has the shape {innermost_first}: sizes must be from 1 to {MAX_DIMENSION}"
        )
    tensor_type = _tensor_type(cursor, label)
    start = cursor.u64(label)
    if start % alignment:
        raise cursor.corrupt(
            f"{label} begins at {start}, which is not a multiple of the alignment {alignment}"
        )
    if innermost_first[0] % tensor_type.block_elements:
        raise cursor.corrupt(
            f"{label} has rows of {innermost_first[0]} elements, expected a multiple of "
            f"{tensor_type.block_elements} for {tensor_type.name}"
        )
    size_bytes = prod(innermost_first) // tensor_type.block_elements * tensor_type.block_bytes
    return TensorInfo(name, tensor_type, tuple(reversed(innermost_first)), start, size_bytes)


def _tensor_type(cursor: Cursor, label: str) -> TensorType:
    number = cursor.u32(label)
    if number in TENSOR_TYPES:
        return TENSOR_TYPES[number]
    name = OTHER_TENSOR_TYPE_NAMES.get(number, f"number {number}")
    known = ", ".join(sorted(known.name for known in TENSOR_TYPES.values()))
    raise UnsupportedModelError(
        f"{cursor.label}: {label} has the type {name}, which Stoker does not read. It reads {known}: "
        "use a file of the same model in one of these."
    )


def _check_extents(cursor: Cursor, infos: dict[str, TensorInfo]) -> None:
    """Every tensor lies inside the file, and no two share a byte."""
    in_order = sorted(infos.values(), key=lambda info: info.start)
    for before, after in pairwise(in_order):
        if before.start + before.size_bytes > after.start:
            raise cursor.corrupt(f"the tensors {shown(before.name)} and {shown(after.name)} overlap")
    if not in_order:
        return
    end = in_order[-1].start + in_order[-1].size_bytes
    if end > cursor.size:
        raise CorruptFileError(
            f"{cursor.label} is truncated: its tensors need {end} bytes, but the file has {cursor.size} "
            f"({end - cursor.size} are missing). Fetch the file again."
        )
