"""What compiling a grammar and finding a mask may take."""

from dataclasses import dataclass

TOO_COMPLEX = "grammar_too_complex"
"""Code of a grammar that takes too long, or more than its limits."""

EXCEEDS = "it takes more than is allowed by "
"""How a fault begins that is one of a limit; the setting follows."""

_SIGNS = {
    "number of symbols": "max_grammar_symbols",
    "too many states": "max_grammar_states",
    "initial lexer configuration": "max_grammar_compile_work",
    "fuel exhausted": "max_grammar_compile_work",
    "lexer precomputation failed": "max_grammar_compile_work",
    "too many expressions": "max_grammar_step_work",
    "Too many items": "max_grammar_step_items",
    "Current row has": "max_grammar_row_items",
}
"""What llguidance says when a limit is reached, and the setting that has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarLimits:
    """Limits that depend on a grammar and an answer alone, not on time: an answer reaches them again.

    Attributes:
        symbols: Most symbols of a compiled grammar.
        states: Most states of its lexer, about 2 kB each, that an answer may come to.
        compile_work: Most expressions that compiling the lexer may take, about 50 in a microsecond.
        step_work: Most that it may take for a mask, about 14 in a microsecond.
        step_items: Most items of the parser for a mask, about 20 in a microsecond.
        row_items: Most of them at one place of the answer: how many ways there are to go on.
    """

    symbols: int = 100_000
    states: int = 30_000
    compile_work: int = 1_000_000
    step_work: int = 50_000
    step_items: int = 20_000
    row_items: int = 2_000


def exceeded(error: str) -> str | None:
    """Return what to say of an error of llguidance that is one of a limit; None for any other."""
    return next((EXCEEDS + setting for sign, setting in _SIGNS.items() if sign in error), None)
