"""Compiles grammars with llguidance, in the thread that it is called by."""

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stoker.core.errors import InvalidRequestError
from stoker.core.grammar import INVALID_GRAMMAR, INVALID_SCHEMA, Grammar, GrammarKind
from stoker.grammar.limits import EXCEEDS, TOO_COMPLEX, GrammarLimits
from stoker.grammar.matcher import MaskWriter, TokenMatcher, reason

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from numpy.typing import NDArray

    from stoker.grammar.forced import TokenCutter
    from stoker.grammar.schema import Subschema
    from stoker.grammar.vocabulary import Vocabulary

MAX_CACHED = 64
"""Compiled grammars that are kept, those used last."""

MAX_BLAMED = 200
"""Schemas within a schema that are tried one by one for which of them cannot be compiled."""

MAX_WHITE_SPACE = 40
"""Most characters of white space in one place of a JSON answer: models may go on with them for ever."""

_HEAD = '%llguidance {"no_forcing": true}\n'
"""How to cut a text that is the only one to follow is left to the model: llguidance has not its merges."""


@dataclass(frozen=True, slots=True)
class _Tools:
    """What compiling needs; made when the first grammar comes."""

    vocabulary: "Vocabulary"
    limits: "LLParserLimits"
    tokenizer: "LLTokenizer"
    sayable: "NDArray[np.uint32]"


class GrammarCompiler:
    """Compiles grammars for one vocabulary, and keeps those used last.

    Each sequence has a copy of its own, whose state depends on its grammar and its tokens alone. Not
    thread-safe: one thread owns it.

    Args:
        load_vocabulary: Reads the vocabulary; called once, when it is first needed.
        limits: What grammars may take.

    Attributes:
        n_compiled: Grammars compiled, those that failed included.
    """

    def __init__(
        self, load_vocabulary: "Callable[[], Vocabulary]", limits: GrammarLimits | None = None
    ) -> None:
        self._limits = limits or GrammarLimits()
        self._load_vocabulary = load_vocabulary
        self._tools: _Tools | None = None
        self._cutter: TokenCutter | None = None
        self._cache: OrderedDict[tuple[GrammarKind, str], LLMatcher] = OrderedDict()
        self.n_compiled = 0

    def matcher(self, grammar: Grammar, generated: Sequence[int] = ()) -> TokenMatcher:
        """Return what holds one sequence to a grammar.

        Args:
            grammar: The grammar.
            generated: What of the answer is there already.

        Raises:
            InvalidRequestError: It is no grammar, no text is of it, or it is too complex.
            ModelError: The vocabulary cannot be read.
        """
        tools = self._tools or self._make_tools()
        key = (grammar.kind, grammar.source)
        compiled = self._cache.get(key)
        if compiled is None:
            compiled = self._compile(grammar, tools)
            self._cache[key] = compiled
            if len(self._cache) > MAX_CACHED:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        cutter = self._make_cutter(tools) if grammar.fast_forward else None
        matcher = TokenMatcher(compiled.deep_copy(), grammar.field, eager=grammar.eager, cutter=cutter)
        _replay(matcher, generated)
        return matcher

    def _make_cutter(self, tools: _Tools) -> "TokenCutter":
        from stoker.grammar.forced import TokenCutter  # noqa: PLC0415 - few requests ask for it

        if self._cutter is None:
            self._cutter = TokenCutter(tools.vocabulary)
        return self._cutter

    def mask_writer(self) -> MaskWriter:
        """Return what computes masks for matchers of this compiler."""
        return MaskWriter((self._tools or self._make_tools()).sayable)

    def _make_tools(self) -> _Tools:
        from llguidance import LLTokenizer, TokenizerWrapper  # noqa: PLC0415

        vocabulary = self._load_vocabulary()
        tokenizer = LLTokenizer(TokenizerWrapper(_Words(vocabulary)), eos_token=sorted(vocabulary.ends))
        self._tools = _Tools(vocabulary, _parser_limits(self._limits), tokenizer, _sayable(vocabulary))
        return self._tools

    def _compile(self, grammar: Grammar, tools: _Tools) -> "LLMatcher":
        self.n_compiled += 1
        if grammar.kind is GrammarKind.JSON_SCHEMA:
            return _compile_schema(grammar, tools)
        if grammar.kind is GrammarKind.REGEX:
            fault = _fault(matcher := _match(_regex(grammar), tools), tools)
        else:
            fault = _fault(matcher := _match(_lark(grammar), tools), tools, head_lines=_HEAD.count("\n"))
        if fault is not None:
            raise InvalidRequestError(
                f"Invalid '{grammar.field}': {fault}.",
                param=grammar.field,
                code=TOO_COMPLEX if fault.startswith(EXCEEDS) else INVALID_GRAMMAR,
            )
        return matcher


def _replay(matcher: TokenMatcher, generated: Sequence[int]) -> None:
    """Take in what of an answer is there, as it came: masks leave traces in the lexer's limits."""
    index = 0
    while index < len(generated):
        matcher.matcher.compute_bitmask()
        matcher.advance(generated[index : index + 1])
        index += 1
        index += len(matcher.force(len(generated) - index))


class _Words:
    """The vocabulary as llguidance asks for it."""

    bos_token_id = None

    def __init__(self, vocabulary: "Vocabulary") -> None:
        self.eos_token_id = min(vocabulary.ends)
        self.tokens = vocabulary.tokens
        self.special_token_ids = sorted(vocabulary.controls)
        self._id_of_byte = {
            token: token_id for token_id, token in enumerate(vocabulary.tokens) if len(token) == 1
        }

    def __call__(self, text: bytes) -> list[int]:
        """Cut a text into tokens somehow: nothing that Stoker uses of llguidance asks for it."""
        return [self._id_of_byte[bytes((byte,))] for byte in text if bytes((byte,)) in self._id_of_byte]


def _sayable(vocabulary: "Vocabulary") -> "NDArray[np.uint32]":
    bits = np.zeros(-(-len(vocabulary.tokens) // 32) * 32, np.uint8)
    bits[: len(vocabulary.tokens)] = 1
    bits[sorted(vocabulary.controls - vocabulary.ends)] = 0
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)


def _regex(grammar: Grammar) -> str:
    from llguidance import LLMatcher  # noqa: PLC0415

    n_escapes = len(grammar.source) - len(grammar.source.rstrip("\\"))
    if n_escapes % 2:  # it would escape the end of the expression
        raise InvalidRequestError(
            f"Invalid '{grammar.field}': regular expression: nothing follows the last backslash.",
            param=grammar.field,
            code=INVALID_GRAMMAR,
        )
    wrapped = json.loads(LLMatcher.grammar_from_regex(grammar.source))
    return str(wrapped["grammars"][0]["lark_grammar"])


def _lark(grammar: Grammar) -> str:
    """Return a grammar of a client, translated from GBNF if it is in that."""
    from stoker.grammar.lark import check_lark  # noqa: PLC0415 - a start has no need of it

    source = grammar.source
    if "::=" in source:
        from llguidance.gbnf_to_lark import any_to_lark  # noqa: PLC0415

        try:
            source = any_to_lark(source)
        except Exception as error:  # it is a script of examples; whatever it raises is of its input
            raise InvalidRequestError(
                f"Invalid '{grammar.field}': {reason(str(error)) or 'it is no GBNF'}.",
                param=grammar.field,
                code=INVALID_GRAMMAR,
            ) from error
        source = source.replace("%llguidance {}", "", 1)
    check_lark(source, grammar.field)
    return source


def _compile_schema(grammar: Grammar, tools: _Tools) -> "LLMatcher":
    schema = json.loads(grammar.source)
    matcher = _match(_schema_source(schema), tools)
    fault = _fault(matcher, tools)
    if fault is None:
        return matcher
    if fault.startswith(EXCEEDS):
        raise InvalidRequestError(
            f"Invalid '{grammar.field}': {fault}.", param=grammar.field, code=TOO_COMPLEX
        )
    from stoker.grammar.paths import below  # noqa: PLC0415 - a start has no need of it

    place, fault = _blame(schema, fault, tools)
    path = below(grammar.field, *place)
    raise InvalidRequestError(
        f"Invalid '{path}': this schema cannot be held to: {fault}.", param=path, code=INVALID_SCHEMA
    )


def _blame(schema: dict[str, Any], fault: str, tools: _Tools) -> tuple[tuple[str | int, ...], str]:
    """Return the innermost place that cannot be compiled by itself, and why; the root if there is none."""
    from stoker.grammar.lark import MAX_NESTING  # noqa: PLC0415 - a start has no need of it
    from stoker.grammar.schema import check_schema  # noqa: PLC0415 - nor of this

    found = check_schema(schema, "", max_depth=2 * MAX_NESTING)
    shared: dict[str, Any] = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    for each in sorted(found[:MAX_BLAMED], key=lambda one: -len(one.steps)):
        own = _fault(_match(_schema_source({**shared, **each.value}), tools), tools)
        if own is not None:
            return (*each.steps, *_keyword(each, own)), own
    return (), fault


def _keyword(each: "Subschema", fault: str) -> tuple[str, ...]:
    named = [keyword for keyword in each.value if f"'{keyword}'" in fault or f"{keyword} " in fault]
    if not named and ("regex" in fault or "regular expression" in fault):
        named = [keyword for keyword in each.value if keyword in {"pattern", "patternProperties"}]
    return tuple(named[:1])


def _schema_source(schema: dict[str, Any]) -> str:
    white_space = f"[ \\t\\n\\r]{{1,{MAX_WHITE_SPACE}}}"
    return "start: %json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": white_space}})


def _parser_limits(limits: GrammarLimits) -> "LLParserLimits":
    from llguidance import LLParserLimits  # noqa: PLC0415

    return LLParserLimits(
        max_grammar_size=limits.symbols,
        max_lexer_states=limits.states,
        initial_lexer_fuel=limits.compile_work,
        step_lexer_fuel=limits.step_work,
        step_max_items=limits.step_items,
        max_items_in_row=limits.row_items,
        verbose_errors=False,
    )


def _match(source: str, tools: _Tools) -> "LLMatcher":
    from llguidance import LLMatcher  # noqa: PLC0415

    grammar = LLMatcher.grammar_from_lark(_HEAD + source)
    return LLMatcher(tools.tokenizer, grammar, log_level=0, limits=tools.limits)


def _fault(matcher: "LLMatcher", tools: _Tools, *, head_lines: int = 10**6) -> str | None:
    """Return why a matcher is of no use, or None; its first mask is computed for that.

    Args:
        matcher: Just compiled.
        tools: What it was compiled with.
        head_lines: Lines before the client's own, where it has written lines.
    """
    if not matcher.is_error():
        mask = np.frombuffer(matcher.compute_bitmask(), "<u4")[: len(tools.sayable)]
        if not matcher.is_error():
            return None if (mask & tools.sayable).any() else "no text is of it"
    error = matcher.get_error().strip()
    return "no text is of it" if error.startswith("NoExtension") else reason(error, head_lines=head_lines)
