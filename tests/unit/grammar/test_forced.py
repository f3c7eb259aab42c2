"""Texts that have to follow are cut as if all that comes after them were known."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.grammar import Grammar, GrammarKind
from stoker.grammar.forced import MAX_FORCED, TokenCutter
from stoker.grammar.matcher import TokenMatcher
from stoker.grammar.vocabulary import Vocabulary
from stoker.testing.grammars import END, allowed_tokens, json_schema, merged_compiler

WORDS = (b"a", b"b", b"ab", b"abc", b"c", b"bca", b"<end>", b"", b"a")
VOCABULARY = Vocabulary(WORDS, controls=frozenset({6}), ends=frozenset({6}))


@pytest.fixture(scope="module")
def cutter() -> TokenCutter:
    return TokenCutter(VOCABULARY)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (b"", []),
        (b"a", []),  # it may be the beginning of "ab"
        (b"abc", [3]),
        (b"abca", [3]),
        (b"cb", [4]),
        (b"abcbcacab", [3, 5, 4]),
        (b"cc", [4, 4]),
        (b"<end>", []),  # a control token is no text, and nothing else spells this
        (b"cx", [4]),
    ],
)
def test_the_longest_tokens_that_what_follows_cannot_change(
    cutter: TokenCutter, text: bytes, tokens: list[int]
) -> None:
    assert cutter.cut(text, 100) == tokens


def test_of_equal_tokens_the_first_is_taken() -> None:
    assert TokenCutter(Vocabulary((b"x", b"x"), frozenset(), frozenset())).cut(b"xx", 9) == [0, 0]


@settings(derandomize=True, deadline=None)
@given(st.text("abc", max_size=30), st.text("abc", max_size=8), st.integers(0, 20))
def test_more_text_changes_no_token(text: str, more: str, most: int) -> None:
    cutter = TokenCutter(VOCABULARY)
    tokens = cutter.cut(text.encode(), most)
    assert len(tokens) <= most
    assert cutter.cut((text + more).encode(), most)[: len(tokens)] == tokens
    assert text.encode().startswith(b"".join(WORDS[token] for token in tokens))


def run(matcher: TokenMatcher, choose: int) -> tuple[list[int], list[int]]:
    """Answer with the token of this index among those allowed; return the tokens and how many were forced."""
    writer = merged_compiler().mask_writer()
    tokens: list[int] = []
    runs: list[int] = []
    complete = False
    while not complete and len(tokens) < 60:
        assert not writer.write([matcher])
        allowed = allowed_tokens(matcher)
        tokens.append(allowed[choose % len(allowed)])
        if tokens[-1] == END:
            break
        complete = matcher.advance(tokens[-1:])
        if not complete:
            forced = matcher.force(1000)
            tokens += forced
            runs.append(len(forced))
            complete = bool(forced) and matcher.complete
    return tokens, runs


def fast(grammar: Grammar) -> Grammar:
    return Grammar(grammar.kind, grammar.source, grammar.field, fast_forward=True)


GRAMMARS = [
    json_schema('{"type":"object","properties":{"first_name":{"type":"boolean"},"born":{"type":"integer",'
                '"maximum":9,"minimum":0}},"required":["first_name","born"],"additionalProperties":false}'),
    json_schema('{"enum":["alpha","albatross",{"x":[1,2]}]}'),
    Grammar(GrammarKind.REGEX, "(truetrue|false) aaaaa[0-9]aaaaaaaaaaaaa", "guided_regex"),
    Grammar(GrammarKind.LARK, 'start: "yes, " ("it is" | "it will be so")', "guided_grammar"),
]  # fmt: skip


@pytest.mark.parametrize("grammar", GRAMMARS, ids=["object", "enum", "regex", "lark"])
def test_forced_answers_are_of_the_grammar_and_go_on_from_anywhere(grammar: Grammar) -> None:
    compiler = merged_compiler()
    n_forced = 0
    for choose in range(12):
        matcher = compiler.matcher(fast(grammar))
        tokens, runs = run(matcher, choose)
        n_forced += sum(runs)
        plain = compiler.matcher(grammar)
        assert not any(plain.advance([token]) for token in tokens[:-1])
        assert plain.fault is None
        starts = [0]
        for length in runs:
            starts.append(starts[-1] + 1 + length)
        for start in starts[:-1]:
            again = compiler.matcher(fast(grammar), tokens[:start])
            assert run(again, choose)[0][: len(tokens) - start] == tokens[start:]
    assert n_forced > 12


def test_nothing_is_forced_where_the_answer_may_end() -> None:
    matcher = merged_compiler().matcher(fast(Grammar(GrammarKind.REGEX, "b(cdcdcd)?", "guided_regex")))
    matcher.advance(b"b")
    assert not matcher.force(100)


def test_nothing_is_forced_unless_it_is_asked_for() -> None:
    matcher = merged_compiler().matcher(Grammar(GrammarKind.REGEX, "bcdcdcd", "guided_regex"))
    matcher.advance(b"b")
    assert not matcher.force(100)


def test_long_runs_are_taken_in_parts() -> None:
    source = "b" + "cd" * MAX_FORCED
    matcher = merged_compiler().matcher(fast(Grammar(GrammarKind.REGEX, source, "guided_regex")))
    matcher.advance(b"b")
    assert bytes(matcher.force(10**6)) == source[1 : 1 + MAX_FORCED].encode()
    assert not matcher.complete
    assert len(matcher.force(10)) == 10
    assert not matcher.force(0)
