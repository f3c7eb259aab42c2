"""The key-value part of a GGUF header."""

import struct
from dataclasses import dataclass

from stoker.core.errors import CorruptFileError, UnsupportedModelError
from stoker.models.gguf.cursor import Cursor
from stoker.models.gguf.types import SCALAR_FORMATS, ValueType

MAX_KEYS = 65_536
"""Most keys of one file; real ones have some 30."""

MAX_KEY_BYTES = 65_535
"""The format's own limit."""

MAX_ARRAY_LENGTH = 2**22
"""Most elements of one array; the largest vocabularies have some 260,000 tokens."""

MAX_STRINGS = 2**22
"""Most strings in all arrays together; bounds the time to walk over them."""

_SHOWN_CHARS = 80


def shown(name: str) -> str:
    """A name out of a file, made safe and short for a message."""
    return repr(name if len(name) <= _SHOWN_CHARS else name[:_SHOWN_CHARS] + "…")


@dataclass(frozen=True, slots=True)
class ArrayRef:
    """Where an array's elements lie; they are decoded when asked for."""

    element: ValueType
    count: int
    position: int


Value = int | float | bool | str | ArrayRef


class Metadata:
    """Typed access to a file's key-value pairs.

    Every getter raises `CorruptFileError` when the key is missing (and no default was given) or
    has a value of another type.
    """

    def __init__(self, cursor: Cursor, values: dict[str, Value]) -> None:
        self._cursor = cursor
        self._values = values

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> Value | None:
        """The value as it is, or None."""
        return self._values.get(key)

    def names(self) -> tuple[str, ...]:
        """Every key, in the file's order."""
        return tuple(self._values)

    def is_array(self, key: str) -> bool:
        """Whether the key is there and holds an array."""
        return isinstance(self._values.get(key), ArrayRef)

    def shown_value(self, key: str) -> str:
        """The value of a key, made safe and short for a message."""
        value = self._values[key]
        if isinstance(value, ArrayRef):
            return f"an array of {value.count} {value.element.name}"
        return shown(value) if isinstance(value, str) else repr(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self._mistyped(key, "a string")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._mistyped(key, "one integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """An integer or a floating-point number, as float."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._mistyped(key, "one number")
        return float(value)

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """A boolean."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._mistyped(key, "a boolean")
        return value

    def length(self, key: str) -> int:
        """Number of elements of an array."""
        return self._array(key).count

    def strings(self, key: str) -> tuple[str, ...]:
        """An array of strings, decoded."""
        array = self._array(key)
        if array.element is not ValueType.STRING:
            raise self._mistyped(key, "an array of strings")
        buffer, at = self._cursor.buffer, array.position
        length_at = struct.Struct("<Q").unpack_from
        decoded = []
        try:
            for _ in range(array.count):
                end = at + 8 + length_at(buffer, at)[0]
                decoded.append(buffer[at + 8 : end].decode())
                at = end
        except UnicodeDecodeError as error:
            raise self._cursor.corrupt(
                f"element {len(decoded)} of the array {shown(key)} at byte {at} is not UTF-8"
            ) from error
        return tuple(decoded)

    def integers(self, key: str) -> tuple[int, ...]:
        """An array of integers."""
        array = self._array(key)
        layout = SCALAR_FORMATS.get(array.element, "?")
        if layout not in "BbHhIiQq" or array.element is ValueType.BOOL:
            raise self._mistyped(key, "an array of integers")
        return struct.unpack_from(f"<{array.count}{layout}", self._cursor.buffer, array.position)

    def flags(self, key: str) -> tuple[bool, ...]:
        """An array of booleans; some writers spell them as integers of the values 0 and 1."""
        array = self._array(key)
        if array.element is ValueType.BOOL:
            end = array.position + array.count
            values: tuple[int, ...] = tuple(self._cursor.buffer[array.position : end])
        else:
            values = self.integers(key)
        if not all(value in (0, 1) for value in values):
            raise self._mistyped(key, "an array of booleans")
        return tuple(map(bool, values))

    def numbers(self, key: str) -> tuple[float, ...]:
        """An array of floating-point numbers."""
        array = self._array(key)
        layout = SCALAR_FORMATS.get(array.element, "?")
        if layout not in "fd":
            raise self._mistyped(key, "an array of floating-point numbers")
        return struct.unpack_from(f"<{array.count}{layout}", self._cursor.buffer, array.position)

    def _value(self, key: str, default: Value | None) -> Value:
        value = self._values.get(key, default)
        if value is None:
            raise self._cursor.corrupt(f"it lacks the metadata key {shown(key)}")
        return value

    def _array(self, key: str) -> ArrayRef:
        value = self._value(key, None)
        if not isinstance(value, ArrayRef):
            raise self._mistyped(key, "an array")
        return value

    def _mistyped(self, key: str, expected: str) -> CorruptFileError:
        value = self._values[key]
        found = f"an array of {value.element.name}" if isinstance(value, ArrayRef) else type(value).__name__
        return self._cursor.corrupt(f"the metadata key {shown(key)} is {found}, expected {expected}")


def read_metadata(cursor: Cursor, n_keys: int) -> Metadata:
    """Read `n_keys` key-value pairs; arrays are walked over, not decoded."""
    if n_keys > MAX_KEYS:
        raise cursor.corrupt(f"its header claims {n_keys} metadata keys, more than the {MAX_KEYS} allowed")
    values: dict[str, Value] = {}
    n_strings = 0
    for _ in range(n_keys):
        key = cursor.string("a metadata key", MAX_KEY_BYTES)
        if key in values:
            raise cursor.corrupt(f"the metadata key {shown(key)} appears twice")
        value = _read_value(cursor, key)
        if isinstance(value, ArrayRef) and value.element is ValueType.STRING:
            n_strings += value.count
            if n_strings > MAX_STRINGS:
                raise cursor.corrupt(f"its arrays hold more than the {MAX_STRINGS} strings allowed")
        values[key] = value
    return Metadata(cursor, values)


def _read_value(cursor: Cursor, key: str) -> Value:
    what = f"the value of {shown(key)}"
    kind = _value_type(cursor, what)
    if kind is ValueType.STRING:
        return cursor.string(what)
    if kind is not ValueType.ARRAY:
        return cursor.scalar(kind, what)
    element = _value_type(cursor, what)
    count = cursor.u64(what)
    if count > MAX_ARRAY_LENGTH:
        raise cursor.corrupt(f"{what} claims {count} elements, more than the {MAX_ARRAY_LENGTH} allowed")
    if element is ValueType.ARRAY:
        raise UnsupportedModelError(
            f"{cursor.label}: {what} is an array of arrays, which Stoker does not read."
        )
    if element is ValueType.STRING:
        return ArrayRef(element, count, cursor.skip_strings(count, what))
    n_bytes = count * struct.calcsize("<" + SCALAR_FORMATS[element])
    return ArrayRef(element, count, cursor.skip(n_bytes, what))


def _value_type(cursor: Cursor, what: str) -> ValueType:
    number = cursor.u32(what)
    try:
        return ValueType(number)
    except ValueError as error:
        raise cursor.corrupt(f"{what} has the unknown value type {number}") from error
