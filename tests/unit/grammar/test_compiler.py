"""Answers drawn at random from grammars are of them; copies do not feel each other; faults are named."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from stoker.core.errors import InvalidRequestError
from stoker.core.grammar import Grammar, GrammarKind
from stoker.grammar.compiler import MAX_CACHED, GrammarCompiler
from stoker.grammar.lark import choice_of
from stoker.grammar.matcher import TokenMatcher
from stoker.testing.grammars import (
    END,
    MERGED_VOCABULARY,
    allowed_tokens,
    byte_compiler,
    draw_answer,
    json_schema,
    merged_compiler,
)

VOCABULARY = MERGED_VOCABULARY


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return merged_compiler()


def text_of(tokens: list[int]) -> bytes:
    return b"".join(VOCABULARY.tokens[token] for token in tokens)


def closing(token: int) -> float:
    """Weigh tokens so that answers of endless grammars end soon."""
    return 30.0 if VOCABULARY.tokens[token][:1] in b'"}],:0123456789' or token == END else 1.0


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object"},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "pattern": "^[a-c]+[0-9]$"},
    {"type": "string", "pattern": "b+"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "uuid"},
    {"type": "integer", "minimum": -3, "exclusiveMaximum": 17},
    {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 100},
    {"type": "number", "exclusiveMinimum": 0.5, "maximum": 0.75},
    {"type": "number", "multipleOf": 0.25, "minimum": -2, "maximum": 2},
    {"type": ["boolean", "null"]},
    {"enum": ["a", 1, -0.5, None, True, {"x": [1, 2]}, [], "tr\u00fce\n"]},
    {"const": {"a": [1, {"b": "c"}]}},
    {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "null"}, {"type": "boolean"}], "items": False, "minItems": 2},
    {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}},
        "required": ["b"],
        "additionalProperties": False,
    },
    {"type": "object", "additionalProperties": {"type": "null"}, "maxProperties": 2},
    {"type": "object", "patternProperties": {"^x": {"type": "null"}}, "additionalProperties": False},
    {"anyOf": [{"type": "null"}, {"type": "array", "maxItems": 1, "items": {"type": "boolean"}}]},
    {"oneOf": [{"type": "string", "maxLength": 2}, {"type": "boolean"}]},
    {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]},
    {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                "required": ["next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_whole_answers_are_accepted_by_their_schema(
    compiler: GrammarCompiler, schema: dict[str, Any]
) -> None:
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    n_whole = 0
    for seed in range(12):
        tokens, whole = draw_answer(compiler, json_schema(json.dumps(schema)), seed, weigh=closing)
        if whole:
            n_whole += 1
            validator.validate(json.loads(text_of(tokens)))
    assert n_whole >= 6


VALUES = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=5)
SIMPLE = st.one_of(
    st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=4)),
    st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
              st.integers(-1000, 1000), st.integers(0, 100)),
    st.builds(lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
              st.integers(0, 4), st.integers(0, 4)),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": "string", "format": "time"}]),
)  # fmt: skip
NESTED = st.recursive(
    SIMPLE,
    lambda below: st.one_of(
        st.builds(
            lambda items, most: {"type": "array", "items": items, "maxItems": most}, below, st.integers(0, 3)
        ),
        st.builds(
            lambda properties, required: {
                "type": "object",
                "properties": properties,
                "required": sorted(properties)[:required],
                "additionalProperties": False,
            },
            st.dictionaries(st.text(max_size=4), below, max_size=3),
            st.integers(0, 3),
        ),
        st.builds(lambda cases: {"anyOf": cases}, st.lists(below, min_size=1, max_size=3)),
    ),
    max_leaves=5,
)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(schema=NESTED, seed=st.integers(0, 1000))
def test_answers_of_any_schema_are_accepted_by_it(schema: dict[str, Any], seed: int) -> None:
    tokens, whole = draw_answer(_SHARED, json_schema(json.dumps(schema)), seed, weigh=closing)
    if whole:
        Draft202012Validator(schema).validate(json.loads(text_of(tokens)))


_SHARED = merged_compiler()


@pytest.mark.parametrize("regex", ["[a-c]{2,5}", "(yes|no)!?", "\u00e4+/\\n", "a\nb|[^x]{3}", "x"])
def test_answers_match_a_regular_expression(compiler: GrammarCompiler, regex: str) -> None:
    for seed in range(10):
        tokens, whole = draw_answer(compiler, Grammar(GrammarKind.REGEX, regex, "f"), seed, weigh=closing)
        if whole:
            assert re.fullmatch(regex, text_of(tokens).decode())


def test_an_answer_is_one_of_the_choices(compiler: GrammarCompiler) -> None:
    texts = ["yes", "no", '"\\ \u00e9\n\t</s><|im_end|>', "y"]
    found = set()
    for seed in range(60):
        tokens, whole = draw_answer(compiler, Grammar(GrammarKind.LARK, choice_of(texts), "f"), seed)
        assert whole
        found.add(text_of(tokens).decode())
    assert found == set(texts)


def test_lark_and_gbnf_are_taken(compiler: GrammarCompiler) -> None:
    for source in ('start: "x" y+ "."\ny: "a" | "b"', 'root ::= "x" [ab]+ "."'):
        for seed in range(5):
            tokens, whole = draw_answer(
                compiler, Grammar(GrammarKind.LARK, source, "f"), seed, weigh=lambda _: 1
            )
            assert not whole or re.fullmatch(rb"x[ab]+\.", text_of(tokens))


def test_no_control_token_is_ever_allowed_but_at_the_end(compiler: GrammarCompiler) -> None:
    matcher = compiler.matcher(Grammar(GrammarKind.REGEX, "(?s:.*)", "f"))
    compiler.mask_writer().write([matcher])
    allowed = set(allowed_tokens(matcher))
    assert END in allowed
    assert {256, 257}.isdisjoint(allowed)
    assert max(allowed) < 259 + 9  # what stands for nothing is not


@settings(derandomize=True, max_examples=40, deadline=None)
@given(seeds=st.lists(st.integers(0, 10**6), min_size=2, max_size=4), order=st.randoms(use_true_random=False))
def test_sequences_of_one_grammar_do_not_feel_each_other(seeds: list[int], order: Any) -> None:
    grammar = json_schema(
        '{"type":"object","additionalProperties":{"enum":["aaaa","true",true]},"maxProperties":3}'
    )
    alone = [_trace(merged_compiler(), grammar, seed) for seed in seeds]
    compiler = merged_compiler()
    writer = compiler.mask_writer()
    matchers = [compiler.matcher(grammar) for _ in seeds]
    left = [list(trace) for trace in alone]
    while any(left):
        turns = [index for index, trace in enumerate(left) if trace and order.random() < 0.7]
        assert writer.write([matchers[index] for index in turns]) == []
        for index in turns:
            allowed, token = left[index].pop(0)
            assert allowed_tokens(matchers[index]) == allowed
            matchers[index].advance([token])


def _trace(compiler: GrammarCompiler, grammar: Grammar, seed: int) -> list[tuple[list[int], int]]:
    tokens, _ = draw_answer(compiler, grammar, seed, most=60, weigh=closing)
    matcher, writer = compiler.matcher(grammar), compiler.mask_writer()
    trace = []
    for token in tokens:
        writer.write([matcher])
        trace.append((allowed_tokens(matcher), token))
        matcher.advance([token])
    return trace


def test_one_that_goes_on_allows_what_it_would_have_allowed(compiler: GrammarCompiler) -> None:
    grammar = json_schema('{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":4}')
    trace = _trace(compiler, grammar, 5)
    writer = compiler.mask_writer()
    for cut, (allowed, _) in enumerate(trace):
        matcher = compiler.matcher(grammar, [token for _, token in trace[:cut]])
        assert writer.write([matcher]) == []
        assert allowed_tokens(matcher) == allowed


def test_a_grammar_is_compiled_once_while_it_is_kept() -> None:
    compiler = byte_compiler()
    for index in (0, 0, *range(MAX_CACHED), 0, MAX_CACHED, 1):
        compiler.matcher(Grammar(GrammarKind.REGEX, f"a{index}", "f"))
    assert compiler.n_compiled == MAX_CACHED + 2  # the last one had been given up


FAULTS: list[tuple[GrammarKind, str, str, str]] = [
    (GrammarKind.REGEX, "((", "f", "unclosed group"),
    (GrammarKind.REGEX, "(?=a)", "f", "look-around"),
    (GrammarKind.REGEX, "a\\", "f", "last backslash"),
    (GrammarKind.REGEX, "(" * 30_000 + "a" + ")" * 30_000, "f", "nested parentheses"),
    (GrammarKind.REGEX, "a[^\\s\\S]", "f", "no text"),
    (GrammarKind.LARK, "start: nothing", "f", "line 1: .*nothing"),
    (GrammarKind.LARK, "start: start", "f", "no text"),
    (GrammarKind.LARK, 'root ::= "a', "f", "Invalid 'f'"),
    (GrammarKind.LARK, "root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "f", "Invalid 'f'"),
    (GrammarKind.LARK, "start: " + "(" * 30 + '"a"' + ")" * 30, "f", "too deeply nested"),
    (GrammarKind.JSON_SCHEMA, '{"$ref":"#"}', "f", "no text"),
    (
        GrammarKind.JSON_SCHEMA,
        '{"anyOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"$ref":"#/$defs/a"}}}',
        "f.anyOf.0",
        "no text",
    ),
    (
        GrammarKind.JSON_SCHEMA,
        '{"properties":{"a":{"items":{"oneOf":[{"type":"string"},{"minLength":2}]}}}}',
        "f.properties.a.items.oneOf",
        "may overlap",
    ),
    (
        GrammarKind.JSON_SCHEMA,
        '{"properties":{"a":{"pattern":"\\\\bx"}}}',
        "f.properties.a.pattern",
        "lookaround",
    ),
    (
        GrammarKind.JSON_SCHEMA,
        '{"items":{"type":"string","pattern":"(("}}',
        "f.items.pattern",
        "unclosed group",
    ),
    (GrammarKind.JSON_SCHEMA, '{"type":"integer","minimum":3,"maximum":2}', "f.minimum", "minimum"),
    (GrammarKind.JSON_SCHEMA, '{"type":"string","enum":[1]}', "f", "nsatisfiable"),
]


@pytest.mark.parametrize(("kind", "source", "param", "words"), FAULTS, ids=lambda value: str(value)[:60])
def test_what_cannot_be_compiled_is_refused_with_place_and_reason(
    compiler: GrammarCompiler, kind: GrammarKind, source: str, param: str, words: str
) -> None:
    with pytest.raises(InvalidRequestError, match=words) as refused:
        compiler.matcher(Grammar(kind, source, "f"))
    assert refused.value.param == param
    assert len(str(refused.value)) < 700


def test_one_that_is_lost_is_told_and_allows_anything(compiler: GrammarCompiler) -> None:
    grammar = Grammar(GrammarKind.REGEX, "ab", "f")
    good, lost = compiler.matcher(grammar), compiler.matcher(grammar)
    assert not lost.advance(list(b"x"))
    assert compiler.mask_writer().write([good, lost]) == [1]
    assert allowed_tokens(good) == [ord("a")]
    assert len(allowed_tokens(lost)) > 250
    assert isinstance(lost, TokenMatcher)
    assert lost.fault is not None


@pytest.mark.parametrize(("eager", "ends"), [(True, [False, True, True]), (False, [False, False, True])])
def test_an_eager_grammar_ends_when_nothing_need_follow(
    compiler: GrammarCompiler, *, eager: bool, ends: list[bool]
) -> None:
    matcher = compiler.matcher(Grammar(GrammarKind.REGEX, "abc?", "f", eager=eager))
    assert [matcher.advance([token]) for token in b"abc"] == ends
