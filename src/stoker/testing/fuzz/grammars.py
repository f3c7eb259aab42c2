"""A target that reads grammars: the walkers, then the compiler and a few masks."""

import json
from functools import cache

from stoker.core.grammar import Grammar, GrammarKind
from stoker.grammar.compiler import GrammarCompiler
from stoker.grammar.matcher import MaskWriter
from stoker.grammar.schema import check_schema, without_root_only
from stoker.testing.grammars import allowed_tokens, byte_compiler

_KINDS = {ord("j"): GrammarKind.JSON_SCHEMA, ord("r"): GrammarKind.REGEX}
_MASKS = 8


@cache
def _tools() -> tuple[GrammarCompiler, MaskWriter]:
    compiler = byte_compiler()
    return compiler, compiler.mask_writer()


def grammar(data: bytes) -> None:
    """Compile a grammar, whose first byte says how it is written, and follow it for a few tokens.

    Raises:
        AssertionError: A control token would be allowed.
    """
    kind = _KINDS.get(data[0] if data else 0, GrammarKind.LARK)
    source = data[1:].decode(errors="replace")
    if kind is GrammarKind.JSON_SCHEMA:
        try:
            schema = json.loads(source)
        except (ValueError, RecursionError):
            return
        check_schema(schema, "f", max_depth=32)
        source = json.dumps(without_root_only(schema))
    compiler, writer = _tools()
    matcher = compiler.matcher(Grammar(kind, source, "f"))
    for index in range(_MASKS):
        if writer.write([matcher]):
            return
        allowed = allowed_tokens(matcher)
        if not {256, 257}.isdisjoint(allowed):
            raise AssertionError(f"control tokens are allowed after {index} tokens")
        if matcher.advance([allowed[len(source) * 7 % len(allowed)]]):
            return
