"""Grammars in the Lark notation: what they must not have, and how choices are written in it."""

import json
import re
from collections.abc import Iterator, Sequence

from stoker.core.errors import InvalidRequestError
from stoker.core.grammar import INVALID_GRAMMAR
from stoker.grammar.schema import check_schema

MAX_NESTING = 32
"""Deepest brackets, and deepest schema within a grammar."""

_TOKEN = re.compile(
    r'(?P<comment>//[^\n]*|\#[^\n]*)|(?P<string>"(?:\\.|[^"\\\n])*")|(?P<regex>/(?:\\.|[^/\\\n])+/)'
    r"|(?P<directive>%[A-Za-z_]*)|(?P<option>\b(?:stop|stop_capture|max_tokens|temperature)\s*=)"
    r"|(?P<word>[A-Za-z_0-9]+)|(?P<other>.)",
    re.DOTALL,
)
_OPENING, _CLOSING = "([{", ")]}"
_DIRECTIVES = ("%ignore", "%import", "%declare", "%override", "%extend")


def check_lark(source: str, field: str) -> None:
    """Refuse a grammar that could name control tokens, or that asks for what would not be done.

    The compiler finds everything else that is wrong.

    Args:
        source: The grammar.
        field: Path of the request's field that has it.

    Raises:
        InvalidRequestError: It is such a grammar; the message has the line.
    """
    depth = position = 0
    while (found := _TOKEN.match(source, position)) is not None:
        position = found.end()
        text = found[0]
        match found.lastgroup:
            case "directive":
                position = _directive(source, found, field)
            case "option":
                name = text.rstrip("= \t")
                raise _fault(source, found.start(), field, f"the option '{name}' is not supported")
            case "other" if text == "<":
                raise _fault(source, found.start(), field, "tokens cannot be named; write text in quotes")
            case "other" if text == "@":
                raise _fault(source, found.start(), field, "there are no other grammars to refer to")
            case "other" if text in _OPENING:
                depth += 1
                if depth > MAX_NESTING:
                    raise _fault(source, found.start(), field, f"brackets nest deeper than {MAX_NESTING}")
            case "other" if text in _CLOSING:
                depth -= 1
            case "other" if text in '"/':
                raise _fault(source, found.start(), field, "a string or regular expression has no end")
            case _:
                pass


def _directive(source: str, found: re.Match[str], field: str) -> int:
    """Check what begins with a percent sign, and return where it ends."""
    name = found[0]
    if name in _DIRECTIVES:
        return found.end()
    if name not in {"%json", "%regex"}:
        raise _fault(source, found.start(), field, f"'{name}' is not supported")
    start = re.compile(r"\s*").match(source, found.end())
    begin = found.end() if start is None else start.end()
    try:
        value, end = json.JSONDecoder().raw_decode(source, begin)
    except (ValueError, RecursionError) as error:
        raise _fault(source, found.start(), field, f"'{name}' should be followed by a JSON object") from error
    if name == "%json":
        check_schema(value, f"{field}.%json", max_depth=MAX_NESTING)
    return end


def _fault(source: str, position: int, field: str, what: str) -> InvalidRequestError:
    line = source.count("\n", 0, position) + 1
    return InvalidRequestError(f"Invalid '{field}': line {line}: {what}.", param=field, code=INVALID_GRAMMAR)


def choice_of(texts: Sequence[str]) -> str:
    """Return the grammar of one of some texts."""
    return "start: " + " | ".join(_quoted(texts))


def _quoted(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        yield json.dumps(text, ensure_ascii=False)
