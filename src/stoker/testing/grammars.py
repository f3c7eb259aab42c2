"""Grammars over a vocabulary of bytes, and answers drawn at random from them."""

import random
from collections.abc import Callable

from stoker.core.grammar import Grammar, GrammarKind
from stoker.grammar.compiler import GrammarCompiler
from stoker.grammar.matcher import TokenMatcher
from stoker.grammar.vocabulary import Vocabulary
from stoker.testing.tokenizer import byte_tokenizer_spec

END = 258
"""Token that ends an answer."""

MERGES = ('{ "', '" :', "a a", "aa aa", "Ġ Ġ", "ĠĠ ĠĠ", "t r", "tr u", "tru e")
"""A few tokens of several bytes."""

MERGED_VOCABULARY = Vocabulary.of(byte_tokenizer_spec(merges=MERGES), 259 + len(MERGES) + 30)
"""Bytes, three control tokens, merges, and ids that stand for nothing."""


def byte_compiler() -> GrammarCompiler:
    """Return a compiler for tokens that are bytes, whose ids above 255 are control tokens."""
    return GrammarCompiler(lambda: Vocabulary.of(byte_tokenizer_spec(), 259))


def merged_compiler() -> GrammarCompiler:
    """Return a compiler for `MERGED_VOCABULARY`."""
    return GrammarCompiler(lambda: MERGED_VOCABULARY)


def json_schema(source: str) -> Grammar:
    """Return the grammar of a JSON Schema."""
    return Grammar(GrammarKind.JSON_SCHEMA, source, "response_format")


def allowed_tokens(matcher: TokenMatcher) -> list[int]:
    """Return the tokens of a matcher's latest mask."""
    words = matcher.allowed
    return [32 * index + bit for index, word in enumerate(words) for bit in range(32) if word >> bit & 1]


def draw_answer(
    compiler: GrammarCompiler,
    grammar: Grammar,
    seed: int,
    *,
    most: int = 400,
    weigh: Callable[[int], float] = lambda _: 1.0,
) -> tuple[list[int], bool]:
    """Draw tokens that a grammar allows until the answer is complete.

    Args:
        compiler: Compiles it.
        grammar: The grammar.
        seed: Of the draws.
        most: Most tokens.
        weigh: Weight of each token that is allowed.

    Returns:
        The tokens, an end token left out, and whether they are a whole answer.

    Raises:
        ValueError: The grammar was lost on the way.
    """
    matcher = compiler.matcher(grammar)
    writer = compiler.mask_writer()
    random_ = random.Random(seed)  # noqa: S311 - no secrets are drawn
    tokens: list[int] = []
    while len(tokens) < most:
        if writer.write([matcher]):
            raise ValueError(f"lost after {tokens}: {matcher.fault}")
        allowed = allowed_tokens(matcher)
        (token,) = random_.choices(allowed, [weigh(each) for each in allowed])
        complete = matcher.advance([token])
        if token == END:
            return tokens, True
        tokens.append(token)
        if complete:
            return tokens, True
    return tokens, False
