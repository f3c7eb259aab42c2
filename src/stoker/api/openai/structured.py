"""What an answer must look like: ``response_format`` and vLLM's fields to a `Grammar`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from stoker.api.limits import ApiLimits
from stoker.api.openai.fields import (
    JSON_SCHEMA_FIELDS,
    RESPONSE_FORMAT_FIELDS,
    STRUCTURED_OUTPUTS_FIELDS,
    FieldTable,
)
from stoker.api.openai.wire import GrammarFields, ResponseFormat, StructuredOutputs
from stoker.core.errors import InvalidRequestError
from stoker.core.grammar import INVALID_SCHEMA, Grammar, GrammarKind
from stoker.grammar.lark import choice_of
from stoker.grammar.schema import check_schema, without_root_only

_RESPONSE_FORMAT = FieldTable(RESPONSE_FORMAT_FIELDS)
_JSON_SCHEMA = FieldTable(JSON_SCHEMA_FIELDS)
_STRUCTURED_OUTPUTS = FieldTable(STRUCTURED_OUTPUTS_FIELDS)

_ANY_OBJECT = '{"type":"object"}'


def sift_grammars(fields: dict[str, Any]) -> None:
    """Apply the tables of the fields that are objects, in place.

    Raises:
        InvalidRequestError: An object has a field that is in no table, or that is refused.
    """
    form = fields.get("response_format")
    if isinstance(form, dict):
        form = fields["response_format"] = _RESPONSE_FORMAT.sift(form, path="response_format.")
        schema = form.get("json_schema")
        if isinstance(schema, dict):
            form["json_schema"] = _JSON_SCHEMA.sift(schema, path="response_format.json_schema.")
    outputs = fields.get("structured_outputs")
    if isinstance(outputs, dict):
        fields["structured_outputs"] = _STRUCTURED_OUTPUTS.sift(outputs, path="structured_outputs.")


def fast_forwarded(
    grammar: Grammar | None, body: GrammarFields, *, others: Sequence[tuple[str, bool]]
) -> Grammar | None:
    """Return the grammar, fast-forwarded if a request asks for that.

    Args:
        grammar: What the answer must look like.
        body: The request.
        others: Fields that need a probability for each token, and whether they are there.

    Raises:
        InvalidRequestError: It asks for that without a grammar, or for the probability of each token.
    """
    if body.structured_outputs is None or not body.structured_outputs.fast_forward:
        return grammar
    field = "structured_outputs.fast_forward"
    if grammar is None:
        raise InvalidRequestError(
            f"'{field}' is only allowed together with a form of the answer, such as 'response_format' or "
            "'structured_outputs.json'.",
            param=field,
            code="invalid_value",
        )
    for name, there in others:
        if there:
            raise InvalidRequestError(
                f"'{name}' and '{field}' do not go together: tokens that are taken at once have no "
                "probability. Leave one of them out.",
                param=name,
                code="invalid_value",
            )
    return replace(grammar, fast_forward=True)


def grammar_of(body: GrammarFields, limits: ApiLimits) -> Grammar | None:
    """Return the grammar that a request asks for, or None.

    Raises:
        InvalidRequestError: It asks for several, or for one that could not be held to; `param` is the
            place, within a schema too.
    """
    found = list(_wanted(body))
    if len(found) > 1:
        raise InvalidRequestError(
            f"'{found[0][0]}' and '{found[1][0]}' each say what the answer must look like. Send one of them.",
            param=found[1][0],
            code="invalid_value",
        )
    for path, make, value in found:
        grammar = make(path, value, limits)
        n_bytes = len(grammar.source.encode())
        if n_bytes > limits.max_grammar_bytes:
            raise InvalidRequestError(
                f"Invalid '{path}': it has {n_bytes} bytes; at most {limits.max_grammar_bytes} are taken "
                "(max_grammar_bytes).",
                param=path,
                code="invalid_value",
            )
        return grammar
    return None


Make = Callable[[str, Any, ApiLimits], Grammar]


def _wanted(body: GrammarFields) -> Iterator[tuple[str, Make, Any]]:
    if body.response_format is not None:
        yield from _of_format(body.response_format)
    for name, make in _MAKERS.items():
        value = getattr(body, f"guided_{name}", None)
        if value is not None:
            yield f"guided_{name}", make, value
    if body.structured_outputs is not None:
        yield from _of_outputs(body.structured_outputs)


def _of_format(form: ResponseFormat) -> Iterator[tuple[str, Make, Any]]:
    if form.type != "json_schema" and form.json_schema is not None:
        raise InvalidRequestError(
            "'response_format.json_schema' is only allowed with the type 'json_schema'.",
            param="response_format.json_schema",
            code="invalid_value",
        )
    if form.type == "json_object":
        yield "response_format", _any_object, None
    elif form.type == "json_schema":
        if form.json_schema is None:
            raise InvalidRequestError(
                "'response_format.json_schema' is required with the type 'json_schema'.",
                param="response_format.json_schema",
                code="missing_required_parameter",
            )
        yield "response_format.json_schema.schema", _schema, form.json_schema.schema_


def _of_outputs(outputs: StructuredOutputs) -> Iterator[tuple[str, Make, Any]]:
    for name, make in _MAKERS.items():
        value = outputs.json_ if name == "json" else getattr(outputs, name)
        if value is not None:
            yield f"structured_outputs.{name}", make, value
    if outputs.json_object:
        yield "structured_outputs.json_object", _any_object, None


def _any_object(path: str, _: None, __: ApiLimits) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, _ANY_OBJECT, path)


def _schema(path: str, value: dict[str, Any] | str, limits: ApiLimits) -> Grammar:
    if isinstance(value, str):
        if len(value) > limits.max_grammar_bytes:
            return Grammar(GrammarKind.JSON_SCHEMA, value, path)  # which is refused for its size
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise InvalidRequestError(
                f"Invalid '{path}': it is not valid JSON: {error}.", param=path, code=INVALID_SCHEMA
            ) from error
    check_schema(value, path, max_depth=limits.max_schema_depth)
    schema = value if isinstance(value, dict) else {}
    return Grammar(GrammarKind.JSON_SCHEMA, orjson.dumps(without_root_only(schema)).decode(), path)


def _regex(path: str, value: str, _: ApiLimits) -> Grammar:
    return Grammar(GrammarKind.REGEX, value, path)


def _choice(path: str, value: list[str], _: ApiLimits) -> Grammar:
    return Grammar(GrammarKind.LARK, choice_of(list(dict.fromkeys(value))), path)


def _grammar(path: str, value: str, _: ApiLimits) -> Grammar:
    return Grammar(GrammarKind.LARK, value, path)


_MAKERS: Mapping[str, Make] = {"json": _schema, "regex": _regex, "choice": _choice, "grammar": _grammar}
"""What vLLM calls each, in ``guided_…`` and in ``structured_outputs``, and what makes a grammar of it."""
