"""The format of a pack file, and the reading of its header.

Numbers are little-endian::

    offset  bytes
    0       8     magic
    8       4     version of this format
    12      4     number of the packed layout (`stoker._native.PACK_LAYOUT`)
    16      8     size of the whole file
    24      4     size of the description
    28      4     number of checksums
    32      32    SHA-256 of what precedes it and of all that follows it up to the data
    64            description: a `PackDescription` as JSON
                  checksums: CRC-32 of each `CHUNK_BYTES` of the data, 4 bytes each; the last chunk may
                  be shorter
                  zeros up to a multiple of `ALIGNMENT`
    data          the parts, each at a multiple of `ALIGNMENT`, with zeros between them

A file without its header is no pack: a writer writes the header last.
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Annotated

import msgspec
from msgspec import Meta

from stoker.core.errors import CorruptFileError

MAGIC = b"stoker\x00P"
FORMAT_VERSION = 1

ALIGNMENT = 4096
"""A page: what is mapped of a part is of that part alone."""

CHUNK_BYTES = 1 << 20

MAX_FILE_BYTES = 1 << 44
MAX_DESCRIPTION_BYTES = 16 << 20
MAX_PARTS = 1 << 17
"""Most parts of one pack; a model of 100 layers has some 1,000."""

PACK_NAME = re.compile(r"^[0-9a-f]{32}-[0-9a-f]{16}\.pack\Z")
"""What a pack's file is called."""

PRELUDE = Struct("<8sIIQII32s")
_UNSIGNED_BYTES = 32

_Name = Annotated[str, Meta(pattern=r"^[a-z0-9_.]{1,128}\Z")]
_Offset = Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]


@dataclass(frozen=True, slots=True)
class PackKey:
    """What a pack is the pack of.

    Attributes:
        digest: Names the model: 32 hex digits.
        recipe: SHA-256 in hex of all else that its weights depend on.
    """

    digest: str
    recipe: str

    @property
    def file_name(self) -> str:
        """Name of the pack's file."""
        return f"{self.digest}-{self.recipe[:16]}.pack"


class PackPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One matrix or vector.

    Attributes:
        name: The tensor's, as in `stoker.models.config.Tensor`.
        kind: How its bytes are to be read, in the engine's words.
        start: Its first byte, from the beginning of the data.
        size_bytes: Its length.
    """

    name: _Name
    kind: _Name
    start: _Offset
    size_bytes: _Offset


class PackDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a pack says of itself.

    Attributes:
        stoker: Version of Stoker that made it.
        digest: As in `PackKey`.
        recipe: As in `PackKey`.
        parts: The parts, in the order in which they lie.
    """

    stoker: Annotated[str, Meta(max_length=100)]
    digest: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    recipe: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    parts: Annotated[tuple[PackPart, ...], Meta(max_length=MAX_PARTS)]

    @property
    def data_bytes(self) -> int:
        """Length of the data."""
        return self.parts[-1].start + self.parts[-1].size_bytes if self.parts else 0


@dataclass(frozen=True, slots=True)
class PackHeader:
    """A header that has been checked.

    Attributes:
        layout: Number of the packed layout.
        description: What the pack says of itself.
        checksums: CRC-32 of each chunk of the data.
        data_start: Offset of the data in the file.
    """

    layout: int
    description: PackDescription
    checksums: tuple[int, ...]
    data_start: int


def aligned(size: int) -> int:
    """Return the next multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def n_chunks(data_bytes: int) -> int:
    """Return how many checksums so much data has."""
    return -(-data_bytes // CHUNK_BYTES)


def data_start(description: PackDescription) -> int:
    """Return where the data begins behind the header of this pack."""
    return _data_start(len(msgspec.json.encode(description)), n_chunks(description.data_bytes))


def _data_start(description_bytes: int, n_checksums: int) -> int:
    return aligned(PRELUDE.size + description_bytes + 4 * n_checksums)


def encode_header(layout: int, description: PackDescription, checksums: list[int]) -> bytes:
    """Return everything that precedes the data."""
    text = msgspec.json.encode(description)
    table = Struct(f"<{len(checksums)}I").pack(*checksums)
    start = _data_start(len(text), len(checksums))
    size_bytes = start + description.data_bytes
    numbers = (MAGIC, FORMAT_VERSION, layout, size_bytes, len(text), len(checksums))
    unsigned = PRELUDE.pack(*numbers, b"")[:_UNSIGNED_BYTES]
    rest = (text + table).ljust(start - PRELUDE.size, b"\0")
    return unsigned + sha256(unsigned + rest).digest() + rest


def placed(parts: list[tuple[str, str, int]]) -> tuple[PackPart, ...]:
    """Lay parts out one behind the other; each is given as name, kind and length."""
    out = []
    start = 0
    for name, kind, size_bytes in parts:
        out.append(PackPart(name, kind, start, size_bytes))
        start = aligned(start + size_bytes)
    return tuple(out)


def read_header(data: memoryview, label: str) -> PackHeader:
    """Check a file's header against itself and against the size of the file.

    Args:
        data: The whole file.
        label: The file's name, for errors.

    Raises:
        CorruptFileError: No pack, one of another version of the format, or a truncated or damaged one.
    """
    if len(data) < PRELUDE.size or bytes(data[: len(MAGIC)]) != MAGIC:
        raise CorruptFileError(f"{label} does not begin as a pack file does.")
    _, version, layout, size_bytes, description_bytes, n_checksums, digest = PRELUDE.unpack_from(data)
    if version != FORMAT_VERSION:
        raise CorruptFileError(
            f"{label} has the format version {version}; this Stoker reads {FORMAT_VERSION}."
        )
    if size_bytes != len(data):
        raise CorruptFileError(f"{label} has {len(data)} bytes; its header says {size_bytes}.")
    start = _data_start(description_bytes, n_checksums)
    if description_bytes > MAX_DESCRIPTION_BYTES or start > len(data):
        raise CorruptFileError(f"{label} has a header of {start} bytes, which cannot be.")
    unsigned, rest = bytes(data[:_UNSIGNED_BYTES]), bytes(data[PRELUDE.size : start])
    if sha256(unsigned + rest).digest() != digest:
        raise CorruptFileError(f"{label} has a damaged header: its checksum is wrong.")
    try:
        description = msgspec.json.decode(rest[:description_bytes], type=PackDescription)
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise CorruptFileError(f"{label} has a malformed description: {str(error)[:200]}") from error
    _check_places(description, len(data) - start, n_checksums, label)
    checksums = Struct(f"<{n_checksums}I").unpack_from(rest, description_bytes)
    return PackHeader(layout, description, checksums, start)


def _check_places(description: PackDescription, data_bytes: int, n_checksums: int, label: str) -> None:
    """Check that parts lie one behind the other, fill the data and are checksummed."""
    start, seen = 0, set()
    for part in description.parts:
        if part.start != start or part.name in seen:
            raise CorruptFileError(f"{label}: the part {part.name} is out of place.")
        seen.add(part.name)
        start = aligned(part.start + part.size_bytes)
    if description.data_bytes != data_bytes or n_chunks(data_bytes) != n_checksums:
        raise CorruptFileError(
            f"{label} holds {data_bytes} bytes of data and {n_checksums} checksums; its description says "
            f"{description.data_bytes} bytes."
        )
