"""What grammars in the Lark notation must not have."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.core.errors import InvalidRequestError
from stoker.grammar.lark import check_lark, choice_of


@pytest.mark.parametrize(
    "source",
    [
        'start: "<|im_end|>" /<[0-9]+>/ // <x> @y\n# <z> %llguidance {}\n',
        'start: "a\\"<" (B | "c")? [d]\nB: /[^"\\/]<"/\nd[lazy]: "e"',
        "%ignore / +/\n%import common.INT\nstart: INT{1,3}",
        'start: %json {"properties": {"<": {"const": "<"}}} %regex {"substring_words": "< @"}',
        "",
    ],
)
def test_text_may_say_anything(source: str) -> None:
    check_lark(source, "f")


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ('start: "a" <|im_end|>', 1, "tokens cannot be named"),
        ('start: "a"\nb: <[256]>', 2, "tokens cannot be named"),
        ("start: <[*]>", 1, "tokens cannot be named"),
        ("start: @other", 1, "other grammars"),
        ('%llguidance {"allow_invalid_utf8": true}\nstart: "a"', 1, "'%llguidance' is not supported"),
        ("start: a\na[max_tokens=3]: /.*/", 2, "'max_tokens' is not supported"),
        ('start: a\na[capture, stop = ""]: /.*/', 2, "'stop' is not supported"),
        ("start: a\na[temperature=0.5]: /.*/", 2, "'temperature' is not supported"),
        ('start: "a', 1, "has no end"),
        ("start: /a", 1, "has no end"),
        ("start: %json [1", 1, "should be followed by a JSON object"),
        ("start: " + "(" * 33, 1, "brackets nest"),
    ],
)
def test_what_is_not_text_is_refused_with_its_line(source: str, line: int, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as refused:
        check_lark(source, "f")
    assert (refused.value.param, refused.value.code) == ("f", "invalid_grammar")
    assert f"line {line}:" in str(refused.value)


def test_schemas_within_are_walked() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_lark('start: %json {"items": {"not": {}}}', "guided_grammar")
    assert refused.value.param == "guided_grammar.%json.items.not"
    with pytest.raises(InvalidRequestError):
        check_lark("start: %json " + "[" * 100_000, "f")


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.text(alphabet='ab"/\\<>[](){}%@|:= \n#', max_size=60))
def test_any_text_is_taken_or_refused(source: str) -> None:
    with suppress(InvalidRequestError):
        check_lark(source, "f")


@given(st.lists(st.text(min_size=1), min_size=1))
def test_choices_are_strings_whatever_they_spell(texts: list[str]) -> None:
    check_lark(choice_of(texts), "f")
