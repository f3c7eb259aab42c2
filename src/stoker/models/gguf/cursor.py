"""A bounds-checked position in a byte buffer."""

import struct
from mmap import mmap

from stoker.core.errors import CorruptFileError
from stoker.models.gguf.types import SCALAR_FORMATS, ValueType

MAX_STRING_BYTES = 16 * 2**20
"""Longest string in a file; the longest in use, chat templates, are some 10 KB."""

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Cursor:
    """Reads little-endian values one after another and never past the end.

    Args:
        buffer: The whole file.
        label: The file's name, for messages.
    """

    def __init__(self, buffer: mmap, label: str) -> None:
        self.buffer = buffer
        self.label = label
        self.size = len(buffer)
        self.position = 0

    def corrupt(self, problem: str) -> CorruptFileError:
        """An error that names the file."""
        return CorruptFileError(f"{self.label} is not a valid GGUF file: {problem}.")

    def truncated(self, n_bytes: int, what: str) -> CorruptFileError:
        """An error for something of `n_bytes` that begins here and does not fit the file."""
        return CorruptFileError(
            f"{self.label} is truncated or damaged: {what} at byte {self.position} needs the file to have "
            f"at least {self.position + n_bytes} bytes, but it has {self.size}. Fetch the file again."
        )

    def skip(self, n_bytes: int, what: str) -> int:
        """Move past `n_bytes` and return where they begin."""
        if n_bytes > self.size - self.position:
            raise self.truncated(n_bytes, what)
        start = self.position
        self.position += n_bytes
        return start

    def u32(self, what: str) -> int:
        """Read an unsigned 32-bit integer."""
        value: int = _U32.unpack_from(self.buffer, self.skip(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        """Read an unsigned 64-bit integer."""
        value: int = _U64.unpack_from(self.buffer, self.skip(8, what))[0]
        return value

    def string(self, what: str, max_bytes: int = MAX_STRING_BYTES) -> str:
        """Read a UTF-8 string with its 64-bit length before it."""
        length = self.u64(what)
        if length > max_bytes:
            raise self.corrupt(f"{what} claims {length} bytes, more than the {max_bytes} allowed")
        start = self.skip(length, what)
        try:
            return self.buffer[start : self.position].decode()
        except UnicodeDecodeError as error:
            raise self.corrupt(f"{what} at byte {start} is not UTF-8") from error

    def scalar(self, kind: ValueType, what: str) -> int | float | bool:
        """Read one fixed-size value."""
        layout = struct.Struct("<" + SCALAR_FORMATS[kind])
        value: int | float = layout.unpack_from(self.buffer, self.skip(layout.size, what))[0]
        if kind is not ValueType.BOOL:
            return value
        if value not in (0, 1):
            raise self.corrupt(f"{what} is a boolean with the value {value}")
        return bool(value)

    def skip_strings(self, count: int, what: str) -> int:
        """Move past `count` strings without decoding them and return where the first begins.

        Vocabularies hold 100,000s of strings, and the engine process needs none of them.
        """
        start = at = self.position
        buffer, last = self.buffer, self.size - 8
        length_at = _U64.unpack_from
        for _ in range(count):
            if at > last:
                break
            at += 8 + length_at(buffer, at)[0]
        else:
            self.position = at
        if self.position != at or at > self.size:
            self.position = start
            raise self.truncated(at + 8 - start, what)
        return start
