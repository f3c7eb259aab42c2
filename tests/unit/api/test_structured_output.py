"""Which fields ask for a form of the answer, and what becomes of them."""

import json
from typing import Any

import pytest

from stoker.api.limits import ApiLimits
from stoker.core.grammar import Grammar, GrammarKind
from stoker.testing.asgi import post
from stoker.testing.scripted_api import ScriptedApi, scripted_api

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HI: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
GO: dict[str, Any] = {"model": "tiny", "prompt": "go"}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"b": {}, "a": {"const": "\u00fc"}}, "title": "t"}


def schema_format(**changes: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA} | changes}


def as_json(field: str, schema: object = SCHEMA) -> Grammar:
    source = json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
    return Grammar(GrammarKind.JSON_SCHEMA, source, field)


ASKED: list[tuple[dict[str, Any], Grammar | None]] = [
    ({}, None),
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, as_json("response_format", {"type": "object"})),
    ({"response_format": schema_format()}, as_json("response_format.json_schema.schema")),
    (
        {"response_format": schema_format(strict=True, description="d")},
        as_json("response_format.json_schema.schema"),
    ),
    (
        {"response_format": schema_format(schema=SCHEMA | {"$schema": "x", "$id": "y"}, strict=None)},
        as_json("response_format.json_schema.schema"),
    ),
    ({"guided_json": SCHEMA}, as_json("guided_json")),
    ({"guided_json": json.dumps(SCHEMA)}, as_json("guided_json")),
    ({"guided_regex": "a+"}, Grammar(GrammarKind.REGEX, "a+", "guided_regex")),
    ({"guided_grammar": "start: x"}, Grammar(GrammarKind.LARK, "start: x", "guided_grammar")),
    (
        {"guided_choice": ["a", '"\n', "a"]},
        Grammar(GrammarKind.LARK, 'start: "a" | "\\"\\n"', "guided_choice"),
    ),
    ({"structured_outputs": {}}, None),
    ({"structured_outputs": {"json": SCHEMA}}, as_json("structured_outputs.json")),
    ({"structured_outputs": {"regex": "a"}}, Grammar(GrammarKind.REGEX, "a", "structured_outputs.regex")),
    (
        {"structured_outputs": {"choice": ["a"], "disable_fallback": True, "whitespace_pattern": None}},
        Grammar(GrammarKind.LARK, 'start: "a"', "structured_outputs.choice"),
    ),
    (
        {"structured_outputs": {"json_object": True}},
        as_json("structured_outputs.json_object", {"type": "object"}),
    ),
    (
        {"structured_outputs": {"regex": "a", "fast_forward": True}},
        Grammar(GrammarKind.REGEX, "a", "structured_outputs.regex", fast_forward=True),
    ),
    (
        {"guided_regex": "a", "structured_outputs": {"fast_forward": True}},
        Grammar(GrammarKind.REGEX, "a", "guided_regex", fast_forward=True),
    ),
    (
        {"structured_outputs": {"grammar": "g", "json_object": False}, "response_format": {"type": "text"}},
        Grammar(GrammarKind.LARK, "g", "structured_outputs.grammar"),
    ),
]


@pytest.mark.parametrize(("url", "body"), [(CHAT, HI), (TEXT, GO)], ids=["chat", "text"])
@pytest.mark.parametrize(("fields", "grammar"), ASKED, ids=str)
async def test_what_is_asked_for_reaches_the_generator(
    api: ScriptedApi, url: str, body: dict[str, Any], fields: dict[str, Any], grammar: Grammar | None
) -> None:
    response = await post(api.app, url, body | fields).done()
    assert response.status == 200, response.json()
    (request,) = api.generator.requests
    assert request.grammar == grammar


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": "json"}, "response_format", "invalid_type"),
    ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
    ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_object", "x": 1}}, "response_format.x", "unknown_parameter"),
    (
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema",
        "missing_required_parameter",
    ),
    (
        {"response_format": schema_format() | {"type": "json_object"}},
        "response_format.json_schema",
        "invalid_value",
    ),
    ({"response_format": schema_format(name="a b")}, "response_format.json_schema.name", "invalid_value"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
        "missing_required_parameter",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema",
        "missing_required_parameter",
    ),
    ({"response_format": schema_format(schema=[])}, "response_format.json_schema.schema", "invalid_type"),
    ({"response_format": schema_format(strict="yes")}, "response_format.json_schema.strict", "invalid_type"),
    ({"response_format": schema_format(extra=1)}, "response_format.json_schema.extra", "unknown_parameter"),
    (
        {"response_format": schema_format(schema={"properties": {"a": {"not": {}}}})},
        "response_format.json_schema.schema.properties.a.not",
        "invalid_schema",
    ),
    ({"guided_json": "{"}, "guided_json", "invalid_schema"),
    ({"guided_json": "[]"}, "guided_json", "invalid_schema"),
    ({"guided_json": {"x-guidance": {"lenient": True}}}, "guided_json.x-guidance", "invalid_schema"),
    (
        {"guided_json": {"grammars": [{"lark_grammar": "start: <[1]>"}]}},
        "guided_json.grammars",
        "invalid_schema",
    ),
    ({"guided_json": {"const": "x" * 70_000}}, "guided_json", "invalid_value"),
    ({"guided_json": '"' + "x" * 70_000}, "guided_json", "invalid_value"),
    ({"guided_json": 5}, "guided_json", "invalid_type"),
    ({"guided_json": ""}, "guided_json", "invalid_value"),
    ({"structured_outputs": {"json": [{}]}}, "structured_outputs.json", "invalid_type"),
    ({"guided_regex": ""}, "guided_regex", "invalid_value"),
    ({"guided_regex": 5}, "guided_regex", "invalid_type"),
    ({"guided_choice": []}, "guided_choice", "invalid_value"),
    ({"guided_choice": [""]}, "guided_choice.0", "invalid_value"),
    ({"guided_choice": "yes"}, "guided_choice", "invalid_type"),
    ({"guided_choice": ["x"] * 1025}, "guided_choice", "invalid_value"),
    ({"guided_choice": ["x" * 100 + str(n) for n in range(1000)]}, "guided_choice", "invalid_value"),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "invalid_value"),
    (
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        "structured_outputs.regex",
        "invalid_value",
    ),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice", "invalid_value"),
    (
        {"structured_outputs": {"structural_tag": "{}"}},
        "structured_outputs.structural_tag",
        "unsupported_parameter",
    ),
    (
        {"structured_outputs": {"json": {}, "whitespace_pattern": " "}},
        "structured_outputs.whitespace_pattern",
        "unsupported_parameter",
    ),
    (
        {"structured_outputs": {"fast_forward": True}},
        "structured_outputs.fast_forward",
        "invalid_value",
    ),
    (
        {"structured_outputs": {"regex": "a", "fast_forward": "yes"}},
        "structured_outputs.fast_forward",
        "invalid_type",
    ),
    (
        {"structured_outputs": {"regex": "a", "fast_forward": True}, "early_exit": {"stop_below": 0.5}},
        "early_exit.stop_below",
        "invalid_value",
    ),
    ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern", "unknown_parameter"),
]


@pytest.mark.parametrize(("fields", "param", "code"), WRONG, ids=lambda value: str(value)[:60])
async def test_what_is_wrong_is_refused_by_its_place(
    api: ScriptedApi, fields: dict[str, Any], param: str, code: str
) -> None:
    for url, body in ((CHAT, HI), (TEXT, GO)):
        response = await post(api.app, url, body | fields).done()
        assert response.status == 400
        error = response.json()["error"]
        assert (error["param"], error["code"]) == (param, code)
    assert api.generator.requests == []


async def test_the_limits_are_those_of_the_settings() -> None:
    api = scripted_api(limits=ApiLimits(max_grammar_bytes=10, max_schema_depth=2))
    for fields, words in (
        ({"guided_regex": "x" * 11}, "11 bytes; at most 10"),
        ({"guided_json": {"items": {"items": {}}}}, "deeper than 2 levels"),
    ):
        response = await post(api.app, CHAT, HI | fields).done()
        assert response.status == 400
        assert words in response.json()["error"]["message"]
    assert (await post(api.app, CHAT, HI | {"guided_regex": "x" * 10}).done()).status == 200


@pytest.mark.parametrize(
    ("url", "body", "param"),
    [
        (CHAT, HI | {"logprobs": True}, "logprobs"),
        (TEXT, GO | {"logprobs": 0}, "logprobs"),
        (TEXT, GO | {"best_of": 3}, "best_of"),
    ],
)
async def test_tokens_that_are_taken_at_once_have_no_probability(
    api: ScriptedApi, url: str, body: dict[str, Any], param: str
) -> None:
    fields = {"structured_outputs": {"regex": "a", "fast_forward": True}}
    response = await post(api.app, url, body | fields).done()
    assert response.status == 400
    assert response.json()["error"]["param"] == param
    assert api.generator.requests == []
