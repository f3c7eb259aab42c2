"""The walker of JSON Schemas: what it takes, what it refuses, and where it says that is."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.errors import InvalidRequestError
from stoker.grammar.schema import (
    ANNOTATIONS,
    FORMATS,
    KEYWORDS,
    MAX_COUNT,
    MAX_NUMBER,
    ROOT_ONLY,
    check_schema,
    without_root_only,
)


def refusal(schema: object, max_depth: int = 32) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequestError) as refused:
        check_schema(schema, "s", max_depth=max_depth)
    assert refused.value.code == "invalid_schema"
    assert f"'{refused.value.param}'" in str(refused.value)
    return refused.value.param, str(refused.value)


TAKEN: list[dict[str, Any]] = [
    {},
    {"type": "object"},
    {"type": ["string", "null"], "title": "t", "description": "d", "default": {"x": [1]}, "examples": [1]},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://x", "type": "integer"},
    {"properties": {"a": True, "b": False, "$ref": {"type": "null"}}, "required": ["a"]},
    {"$defs": {"a/b~c d": {"items": {"$ref": "#"}}}, "$ref": "#/$defs/a~1b~0c%20d"},
    {"allOf": [{"minimum": -1.5}], "anyOf": [{"const": {"a": [None, 0.5]}}], "oneOf": [{"enum": [1, "x"]}]},
    {"prefixItems": [{"$ref": "#/properties/a"}], "items": False, "properties": {"a": {"format": "uuid"}}},
    {"patternProperties": {"^x\\\\1": {"pattern": "(?:a|b)\\d+"}}, "additionalProperties": {"maxLength": 3}},
    {"minItems": 0, "maxItems": MAX_COUNT, "minLength": 2.0, "minProperties": 1, "uniqueItems": False},
    {"exclusiveMinimum": 0, "exclusiveMaximum": MAX_NUMBER, "multipleOf": 0.01},
]


@pytest.mark.parametrize("schema", TAKEN, ids=json.dumps)
def test_what_can_be_held_to_is_taken(schema: dict[str, Any]) -> None:
    found = check_schema(schema, "s", max_depth=32)
    assert found[0].steps == ()
    assert found[0].value is schema


REFUSED: list[tuple[Any, str]] = [
    ([], "s"),
    (True, "s"),
    ("{}", "s"),
    ({"properties": []}, "s.properties"),
    ({"properties": {"a": 5}}, "s.properties.a"),
    ({"properties": {"a": {"items": {"contains": {}}}}}, "s.properties.a.items.contains"),
    ({"x-guidance": {"lenient": True}}, "s.x-guidance"),
    ({"anyOf": [{"type": "string"}, {"not": {}}]}, "s.anyOf.1.not"),
    ({"anyOf": []}, "s.anyOf"),
    ({"allOf": {}}, "s.allOf"),
    ({"items": [{}]}, "s.items"),
    ({"prefixItems": {}}, "s.prefixItems"),
    ({"type": "int"}, "s.type"),
    ({"type": []}, "s.type"),
    ({"type": ["null", "null"]}, "s.type"),
    ({"type": {"a": 1}}, "s.type"),
    ({"required": "a"}, "s.required"),
    ({"required": ["a", "a"]}, "s.required"),
    ({"required": [1]}, "s.required"),
    ({"enum": []}, "s.enum"),
    ({"enum": [1, {"a": [2**54]}]}, "s.enum.1"),
    ({"const": -(2**53) - 1}, "s.const"),
    ({"minimum": 1e300}, "s.minimum"),
    ({"minimum": "0"}, "s.minimum"),
    ({"exclusiveMinimum": True}, "s.exclusiveMinimum"),
    ({"multipleOf": 0}, "s.multipleOf"),
    ({"multipleOf": -1}, "s.multipleOf"),
    ({"minItems": -1}, "s.minItems"),
    ({"minItems": MAX_COUNT + 1}, "s.minItems"),
    ({"maxLength": 1.5}, "s.maxLength"),
    ({"maxLength": True}, "s.maxLength"),
    ({"uniqueItems": True}, "s.uniqueItems"),
    ({"pattern": 1}, "s.pattern"),
    ({"pattern": "(?=a)b"}, "s.pattern"),
    ({"pattern": "(a)\\1"}, "s.pattern"),
    ({"patternProperties": {"(?<!x)y": {}}}, "s.patternProperties.(?<!x)y"),
    ({"format": "regex"}, "s.format"),
    ({"format": ["uri"]}, "s.format"),
    ({"$ref": "https://example.com/x"}, "s.$ref"),
    ({"$ref": "#/$defs/a"}, "s.$ref"),
    ({"$ref": "#/default", "default": {}}, "s.$ref"),
    ({"$ref": 1}, "s.$ref"),
    ({"$ref": "#anchor"}, "s.$ref"),
    ({"$defs": {"a": {"$id": "x"}}}, "s.$defs.a.$id"),
    ({"$anchor": "x"}, "s.$anchor"),
    ({"$dynamicRef": "#x"}, "s.$dynamicRef"),
    ({"if": {}, "then": {}}, "s.if"),
    ({"nullable": True}, "s.nullable"),
    ({"unevaluatedProperties": False}, "s.unevaluatedProperties"),
    ({"propertyNames": {}}, "s.propertyNames"),
    ({"dependentRequired": {}}, "s.dependentRequired"),
    ({"additionalItems": False}, "s.additionalItems"),
]


@pytest.mark.parametrize(("schema", "place"), REFUSED, ids=str)
def test_what_cannot_is_refused_by_its_place(schema: object, place: str) -> None:
    assert refusal(schema)[0] == place


def test_a_hint_says_what_to_do_instead() -> None:
    assert "prefixItems" in refusal({"items": [{}]})[1]
    assert '"null"' in refusal({"nullable": True})[1]


def test_depth_is_bounded_also_in_values() -> None:
    deep: Any = {}
    for _ in range(10):
        deep = {"items": deep}
    check_schema(deep, "s", max_depth=11)
    assert "deeper than 10 levels" in refusal(deep, 10)[1]
    values: Any = 1
    for _ in range(100_000):
        values = [values]
    assert refusal({"const": values})[0] == "s"


def test_long_names_and_paths_are_cut() -> None:
    schema: Any = {"not": 1}
    for _ in range(14):
        schema = {"properties": {"x" * 1000: schema}}
    place, message = refusal(schema)
    assert place is not None
    assert place.startswith("…")
    assert place.endswith("….not")
    assert len(message) < 1300


def test_what_only_says_the_dialect_is_left_out() -> None:
    assert without_root_only({"$schema": "x", "$id": "y", "type": "null"}) == {"type": "null"}


def test_no_keyword_is_of_two_kinds() -> None:
    assert not set(KEYWORDS) & ANNOTATIONS
    assert not set(KEYWORDS) & ROOT_ONLY


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(FORMATS),
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(st.sampled_from([*KEYWORDS, "title", "x"]) | st.text(max_size=4), below, max_size=4)
    ),
    max_leaves=20,
)


@settings(derandomize=True, max_examples=1000, deadline=None)
@given(JSON)
def test_anything_is_taken_or_refused_with_a_short_message(value: object) -> None:
    found = None
    with suppress(InvalidRequestError):
        found = check_schema(value, "s", max_depth=8)
    if found is None:
        place, message = refusal(value, 8)
        assert (place or "").startswith(("s", "…"))
        assert len(message) < 1500
