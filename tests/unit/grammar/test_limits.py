"""Grammars that take too much are told which limit they have reached, when they are compiled or later."""

import json
from dataclasses import replace

import pytest

from stoker.core.errors import InvalidRequestError
from stoker.core.grammar import Grammar, GrammarKind
from stoker.grammar.compiler import GrammarCompiler
from stoker.grammar.lark import choice_of
from stoker.grammar.limits import TOO_COMPLEX, GrammarLimits
from stoker.testing.grammars import MERGED_VOCABULARY, draw_answer, json_schema

FEW = GrammarLimits()


def regex(source: str) -> Grammar:
    return Grammar(GrammarKind.REGEX, source, "guided_regex")


def lark(source: str) -> Grammar:
    return Grammar(GrammarKind.LARK, source, "guided_grammar")


def compiler(limits: GrammarLimits) -> GrammarCompiler:
    return GrammarCompiler(lambda: MERGED_VOCABULARY, limits)


MANY_RULES = (
    "start: " + " ".join(f"r{i}" for i in range(99)) + "".join(f'\nr{i}: "a" | "b" r{i}' for i in range(99))
)
MANY_PROPERTIES = json.dumps({"type": "object", "properties": {f"p{i}": {} for i in range(400)}})
MANY_LEXEMES = "start: " + " | ".join(f"/[a-z]{{1,9}}x{i}/" for i in range(999))
BRANCHING = "|".join(f"(.{{0,{i}}}[ab]){{9}}" for i in range(1, 20))


@pytest.mark.parametrize(
    ("limits", "grammar", "setting"),
    [
        (replace(FEW, symbols=100), lark(MANY_RULES), "max_grammar_symbols"),
        (replace(FEW, symbols=100), json_schema(MANY_PROPERTIES), "max_grammar_symbols"),
        (replace(FEW, compile_work=1000), lark(MANY_LEXEMES), "max_grammar_compile_work"),
        (replace(FEW, step_items=1000), json_schema(MANY_PROPERTIES), "max_grammar_step_items"),
    ],
)
def test_what_takes_too_much_to_compile_is_refused(
    limits: GrammarLimits, grammar: Grammar, setting: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"is allowed by {setting}") as refused:
        compiler(limits).matcher(grammar)
    assert (refused.value.param, refused.value.code) == (grammar.field, TOO_COMPLEX)


@pytest.mark.parametrize(
    ("limits", "grammar", "setting"),
    [
        (replace(FEW, states=100), regex("(a?){300}(.{0,300}x){50}"), "max_grammar_states"),
        (replace(FEW, step_work=1000), regex(BRANCHING), "max_grammar_step_work"),
        (replace(FEW, row_items=10), json_schema(MANY_PROPERTIES), "max_grammar_row_items"),
    ],
)
def test_what_takes_too_much_later_ends_its_answer(
    limits: GrammarLimits, grammar: Grammar, setting: str
) -> None:
    with pytest.raises(ValueError, match=f"is allowed by {setting}"):
        draw_answer(compiler(limits), grammar, 1)


@pytest.mark.parametrize(
    "grammar",
    [
        lark(MANY_RULES),
        lark(choice_of([f"{i} is one of a great many texts, all of which are long" for i in range(1024)])),
        json_schema(MANY_PROPERTIES),
        json_schema(json.dumps({"enum": [f"{i} " * 20 for i in range(1000)]})),
        regex("([A-Z][a-z]{2,9} [0-9]+\\. ){1000}"),
    ],
    ids=["rules", "choices", "properties", "enum", "regex"],
)
def test_the_limits_are_enough_for_large_grammars(grammar: Grammar) -> None:
    draw_answer(compiler(GrammarLimits()), grammar, 1, most=100)
