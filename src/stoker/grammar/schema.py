"""JSON Schemas: every keyword is held to, or refused by its path.

What compiles schemas passes over keywords that it does not know, and its errors name no place. So a schema is
walked first, and whatever is not known to hold is refused: unknown keywords, those that are not enforced,
values of a wrong type, numbers that would be rounded.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any
from urllib.parse import unquote

from stoker.core.errors import InvalidRequestError
from stoker.core.grammar import INVALID_SCHEMA
from stoker.grammar.paths import below

MAX_COUNT = 10_000
"""Most items, properties or characters that a keyword may ask for."""

MAX_NUMBER = 2**53
"""Bounds lie between this and its negative, where every integer is exact."""

FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
"""Formats that are held to."""

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")

ANNOTATIONS = frozenset(
    ("$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly")
) | {"contentMediaType", "contentEncoding"}
"""Keywords that no answer depends on."""

ROOT_ONLY = frozenset(("$schema", "$id"))
"""Keywords that are left out at the root, where they change nothing, and refused elsewhere."""

_HINTS = {
    "additionalItems": "use 'prefixItems' and 'items'",
    "dependencies": "spell the cases out with 'anyOf'",
    "nullable": 'use "type": ["…", "null"]',
    "oneOf": "use 'anyOf'",
    "x-guidance": "white space and keywords are the server's to decide",
}
_LOOKAROUND = re.compile(r"(?<!\\)(?:\\\\)*\(\?<?[=!]")
_BACKREFERENCE = re.compile(r"(?<!\\)(?:\\\\)*\\[1-9k]")


@dataclass(frozen=True, slots=True)
class Subschema:
    """A schema within the schema.

    Attributes:
        steps: Names and indices that lead to it from the root.
        value: The object.
    """

    steps: tuple[str | int, ...]
    value: Mapping[str, Any]


def check_schema(schema: object, path: str, *, max_depth: int) -> list[Subschema]:
    """Return the schema and all schemas in it, those that are objects, outer ones first.

    Args:
        schema: The schema as parsed.
        path: Where it stands in the request.
        max_depth: Deepest nesting of arrays and objects; the schema itself is 1.

    Raises:
        InvalidRequestError: It is not a schema that can be held to; `param` is the place.
    """
    if not isinstance(schema, dict):
        raise _wrong(path, "it should be a JSON Schema, which is an object")
    check_depth(schema, path, max_depth=max_depth)
    walk = _Walk(path)
    walk.schema((), schema)
    walk.check_references()
    return walk.found


def check_depth(value: object, path: str, *, max_depth: int) -> None:
    """Refuse what is nested too deeply, without recursion.

    Raises:
        InvalidRequestError: It is.
    """
    level = [value]
    for _ in range(max_depth):
        level = [item for each in level for item in _items(each)]
        if not level:
            return
    raise _wrong(path, f"it nests arrays and objects deeper than {max_depth} levels (max_schema_depth)")


def _items(value: object) -> list[Any]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, dict | list)]


def without_root_only(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checked schema without what only says which dialect it is of."""
    return {name: value for name, value in schema.items() if name not in ROOT_ONLY}


def _wrong(path: str, what: str) -> InvalidRequestError:
    return InvalidRequestError(f"Invalid '{path}': {what}.", param=path, code=INVALID_SCHEMA)


class _Walk:
    """One walk through one schema.

    Attributes:
        found: The schemas that were come by.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._references: list[tuple[tuple[str | int, ...], str]] = []
        self.found: list[Subschema] = []

    def schema(self, steps: tuple[str | int, ...], value: object) -> None:
        """Walk through a schema."""
        if isinstance(value, bool) and steps:
            return
        if not isinstance(value, dict):
            raise self._fault(steps, "it should be a schema: an object, true or false")
        self.found.append(Subschema(steps, value))
        for keyword, given in value.items():
            place = (*steps, keyword)
            check = _CHECKS.get(keyword)
            if check is not None:
                check(self, place, given)
            elif keyword not in ANNOTATIONS and not (keyword in ROOT_ONLY and not steps):
                hint = f"; {_HINTS[keyword]}" if keyword in _HINTS else ""
                raise self._fault(place, f"this keyword is not supported, so it could not be held to{hint}")

    def check_references(self) -> None:
        """Refuse references to what is no schema in here."""
        known = {tuple(map(str, each.steps)) for each in self.found}
        for place, reference in self._references:
            if _pointer(reference) not in known:
                raise self._fault(place, "it should point to a schema in this one, such as #/$defs/name")

    def reference(self, place: tuple[str | int, ...], given: object) -> None:
        """Note a ``$ref``."""
        if not isinstance(given, str) or not (given == "#" or given.startswith("#/")):
            raise self._fault(place, "it should point to a schema in this one, such as #/$defs/name")
        self._references.append((place, given))

    def schemas(self, place: tuple[str | int, ...], given: object) -> None:
        """Walk through an array of schemas."""
        if not isinstance(given, list) or not given:
            raise self._fault(place, "it should be an array of schemas, not empty")
        for index, each in enumerate(given):
            self.schema((*place, index), each)

    def items(self, place: tuple[str | int, ...], given: object) -> None:
        """Walk through ``items``."""
        if isinstance(given, list):
            raise self._fault(place, "it should be one schema; schemas by position are 'prefixItems'")
        self.schema(place, given)

    def named(self, place: tuple[str | int, ...], given: object) -> None:
        """Walk through an object of schemas."""
        if not isinstance(given, dict):
            raise self._fault(place, "it should be an object of schemas")
        for name, each in given.items():
            self.schema((*place, name), each)

    def patterns(self, place: tuple[str | int, ...], given: object) -> None:
        """Walk through an object of patterns and schemas."""
        self.named(place, given)
        for pattern in given if isinstance(given, dict) else ():
            self.pattern((*place, pattern), pattern)

    def pattern(self, place: tuple[str | int, ...], given: object) -> None:
        """Check a regular expression."""
        if not isinstance(given, str):
            raise self._fault(place, "it should be a regular expression, which is a string")
        if _LOOKAROUND.search(given) or _BACKREFERENCE.search(given):
            raise self._fault(place, "look-around and back references are not supported")

    def format(self, place: tuple[str | int, ...], given: object) -> None:
        """Check a format's name."""
        if given not in FORMATS:
            raise self._fault(place, f"it should be one of {', '.join(FORMATS)}")

    def types(self, place: tuple[str | int, ...], given: object) -> None:
        """Check the names of types."""
        names = given if isinstance(given, list) and given else [given]
        if not all(isinstance(name, str) and name in TYPES for name in names) or _repeats(names):
            raise self._fault(place, f"it should be one or several of {', '.join(TYPES)}")

    def names(self, place: tuple[str | int, ...], given: object) -> None:
        """Check an array of properties' names."""
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given) or _repeats(given):
            raise self._fault(place, "it should be an array of names, each of them once")

    def values(self, place: tuple[str | int, ...], given: object) -> None:
        """Check ``enum``."""
        if not isinstance(given, list) or not given:
            raise self._fault(place, "it should be an array of values, not empty")
        for index, each in enumerate(given):
            self.value((*place, index), each)

    def value(self, place: tuple[str | int, ...], given: object) -> None:
        """Check a value that an answer may have to be: its numbers must be exact."""
        pending = [given]
        while pending:
            each = pending.pop()
            if isinstance(each, dict):
                pending += each.values()
            elif isinstance(each, list):
                pending += each
            elif isinstance(each, int | float):
                self.number(place, float(each) if isinstance(each, bool) else each)

    def count(self, place: tuple[str | int, ...], given: object) -> None:
        """Check a number of things."""
        if isinstance(given, float) and given.is_integer():
            given = int(given)
        if type(given) is not int or not 0 <= given <= MAX_COUNT:
            raise self._fault(place, f"it should be an integer from 0 to {MAX_COUNT}")

    def number(self, place: tuple[str | int, ...], given: object) -> None:
        """Check a bound."""
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise self._fault(place, "it should be a number")
        if not isfinite(given) or abs(given) > MAX_NUMBER:
            raise self._fault(place, f"it should be within -{MAX_NUMBER} and {MAX_NUMBER}")

    def positive(self, place: tuple[str | int, ...], given: object) -> None:
        """Check ``multipleOf``."""
        self.number(place, given)
        if isinstance(given, int | float) and given <= 0:
            raise self._fault(place, "it should be above 0")

    def false(self, place: tuple[str | int, ...], given: object) -> None:
        """Check a keyword that is not supported, but asks for nothing if it is false."""
        if given is not False:
            raise self._fault(place, "this keyword is not supported, so it could not be held to")

    def _fault(self, steps: tuple[str | int, ...], what: str) -> InvalidRequestError:
        return _wrong(below(self._path, *steps), what)


_CHECKS: Mapping[str, Callable[[_Walk, tuple[str | int, ...], object], None]] = {
    "$ref": _Walk.reference,
    "$defs": _Walk.named,
    "definitions": _Walk.named,
    "allOf": _Walk.schemas,
    "anyOf": _Walk.schemas,
    "oneOf": _Walk.schemas,
    "const": _Walk.value,
    "enum": _Walk.values,
    "type": _Walk.types,
    "properties": _Walk.named,
    "patternProperties": _Walk.patterns,
    "additionalProperties": _Walk.schema,
    "required": _Walk.names,
    "minProperties": _Walk.count,
    "maxProperties": _Walk.count,
    "items": _Walk.items,
    "prefixItems": _Walk.schemas,
    "minItems": _Walk.count,
    "maxItems": _Walk.count,
    "uniqueItems": _Walk.false,
    "minLength": _Walk.count,
    "maxLength": _Walk.count,
    "pattern": _Walk.pattern,
    "format": _Walk.format,
    "minimum": _Walk.number,
    "maximum": _Walk.number,
    "exclusiveMinimum": _Walk.number,
    "exclusiveMaximum": _Walk.number,
    "multipleOf": _Walk.positive,
}
"""Every keyword that is held to, and how its value is checked."""

KEYWORDS = tuple(_CHECKS)
"""Their names."""


def _repeats(names: list[Any]) -> bool:
    return len(set(map(str, names))) < len(names)


def _pointer(reference: str) -> tuple[str, ...]:
    return tuple(_unescaped(reference[2:].split("/"))) if len(reference) > 1 else ()


def _unescaped(steps: list[str]) -> Iterator[str]:
    for step in steps:
        yield unquote(step).replace("~1", "/").replace("~0", "~")
