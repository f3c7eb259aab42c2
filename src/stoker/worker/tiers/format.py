"""A KV file: one block with all that names it, checked before a byte of it is believed.

::

    0    8  magic
    8    4  version of the format, little-endian as all numbers
    12   4  CRC-32 of the header with zeros here
    16   4  CRC-32 of the data
    20   4  zeros
    24   8  bytes of data
    32  32  identity: BLAKE2b of what names weights, KV type, code and size of a block
    64  32  name of the block (`stoker.kvcache.chain`)
    96  32  name of what precedes it
    128 64  its 16 token ids
    192 64  zeros
    256     the data, opaque

The data are in the byte order and layout of the engine that wrote them; the identity says which.
"""

import struct
import zlib

from stoker.core.errors import CorruptFileError
from stoker.core.step import BLOCK_TOKENS
from stoker.kvcache import Link

FORMAT_VERSION = 1
HEADER_BYTES = 256

_MAGIC = b"STOKERKV"
_FIELDS = struct.Struct(f"<8sIIIIQ32s32s32s{BLOCK_TOKENS}I64x")
assert _FIELDS.size == HEADER_BYTES  # noqa: S101 - of the line above


def encode_header(identity: bytes, link: Link, data: memoryview) -> bytes:
    """Return the header of a block's file, ``[HEADER_BYTES]``."""
    data_crc = zlib.crc32(data)
    return _pack(
        identity, link, len(data), data_crc, zlib.crc32(_pack(identity, link, len(data), data_crc, 0))
    )


def check(header: bytes | bytearray, data: memoryview, identity: bytes, link: Link) -> None:
    """Compare what was read with what was asked for.

    Args:
        header: The file's first bytes, ``[HEADER_BYTES]``.
        data: The rest of it.
        identity: What the file must be of.
        link: The block that it must hold.

    Raises:
        CorruptFileError: It is damaged, or of another model, version or block.
    """
    if len(header) != HEADER_BYTES or header[:8] != _MAGIC:
        raise CorruptFileError("it is not a KV file")
    _, version, header_crc, data_crc, _, size_bytes, *names = _FIELDS.unpack(header)
    if version != FORMAT_VERSION:
        raise CorruptFileError(f"its format has version {version}, not {FORMAT_VERSION}")
    if zlib.crc32(header[16:], zlib.crc32(bytes(4), zlib.crc32(header[:12]))) != header_crc:
        raise CorruptFileError("its header is damaged")
    found_identity, name, parent, *tokens = names
    if found_identity != identity:
        raise CorruptFileError("it is of another model, KV type or version")
    if Link(name, parent, tuple(tokens)) != link:
        raise CorruptFileError("it holds another block than its name says")
    if size_bytes != len(data):
        raise CorruptFileError(f"it has {size_bytes} bytes of data, not {len(data)}")
    if zlib.crc32(data) != data_crc:
        raise CorruptFileError("its data are damaged")


def _pack(identity: bytes, link: Link, size_bytes: int, data_crc: int, header_crc: int) -> bytes:
    return _FIELDS.pack(
        _MAGIC,
        FORMAT_VERSION,
        header_crc,
        data_crc,
        0,
        size_bytes,
        identity,
        link.name,
        link.parent,
        *link.tokens,
    )
