"""Pydantic's errors in one readable sentence with the field's path."""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.types import Receive, Scope

from stoker.api.body import parse_object, read_body, require_json, shown
from stoker.api.limits import ApiLimits
from stoker.api.openai.errors import UNKNOWN_PARAMETER
from stoker.core.errors import InvalidRequestError

_WORDING = {
    "Input should": "it should",
    "String should": "it should",
    "List should": "it should",
    "Value should": "it should",
    "a valid dictionary": "an object",
    "a valid list": "an array",
}
"""Pydantic's words for Python's programmers to words for those who send JSON."""

_INSTANCE = re.compile(r" or instance of \w+")

Model = TypeVar("Model", bound=BaseModel)


async def valid_body(scope: Scope, receive: Receive, model: type[Model], limits: ApiLimits) -> Model:
    """Return a request's whole body, a small one, as a wire type.

    Raises:
        ClientGoneError: The client left before the body was complete.
        InvalidRequestError: It is no JSON, or not of this type.
    """
    require_json(scope)
    fields = parse_object(await read_body(receive), max_depth=limits.max_json_depth)
    return validate(model, fields)


def validate(model: type[Model], fields: dict[str, Any], *, path: str = "") -> Model:
    """Return the fields as a wire type.

    Args:
        model: The wire type.
        fields: Honoured fields.
        path: Where they stand in the request, such as ``messages.0.``.

    Raises:
        InvalidRequestError: Its message tells the first thing that is wrong.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
    steps, told = _first_wrong(errors, fields)
    where = path + ".".join(map(str, steps))
    kind = told[0]["type"]
    if kind == "missing":
        raise InvalidRequestError(f"'{where}' is required.", param=where, code="missing_required_parameter")
    if kind == "extra_forbidden":
        where = shown(where)
        raise InvalidRequestError(
            f"Unrecognized request argument supplied: '{where}'.", param=where, code=UNKNOWN_PARAMETER
        )
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    text = " or ".join(dict.fromkeys(_said(each["msg"]) for each in told))
    text = text.replace(" or it should be ", " or ")
    raise InvalidRequestError(f"Invalid '{where}': {text}{_got(told[0]['input'])}.", param=where, code=code)


Steps = tuple[int | str, ...]


def _first_wrong(
    errors: Sequence[ErrorDetails], fields: dict[str, Any]
) -> tuple[Steps, Sequence[ErrorDetails]]:
    """Return the path of the first thing that is wrong, and what is.

    Of a value that may be of several types there is an error for each. Where it is of one of them, what is
    wrong in it is told; else every type.
    """
    found = [(_steps(each, fields), each) for each in errors]
    first = found[0][0]
    same = [(steps, each) for steps, each in found if steps[: len(first)] == first]
    deepest = max(len(steps) for steps, _ in same)
    steps = next(steps for steps, _ in same if len(steps) == deepest)
    told = [each for where, each in same if where == steps]
    return steps, [each for each in told if not each["type"].endswith("_type")][:1] or told


def _steps(error: ErrorDetails, fields: dict[str, Any]) -> Steps:
    """Return where an error is, without the names of types that Pydantic puts into its path."""
    steps: list[int | str] = []
    value: Any = fields
    for step in error["loc"]:
        if step in value if isinstance(value, dict) else isinstance(value, list) and isinstance(step, int):
            value = value[step]
        elif isinstance(step, int):  # one was taken for a list of one
            value = None
        elif error["type"] != "missing" or step != error["loc"][-1]:
            continue
        steps.append(step)
    return tuple(steps)


def _said(message: str) -> str:
    text = _INSTANCE.sub("", message.replace(" after validation", ""))
    for old, new in _WORDING.items():
        text = text.replace(old, new)
    return text


def _got(value: Any) -> str:
    """Name what was given, if that is short enough to help."""
    match value:
        case bool() | int() | float():
            return f", not {shown(str(value).lower() if isinstance(value, bool) else repr(value))}"
        case str():
            return f", not {shown(value)!r}"
        case _:
            return ""


def check_count(fields: dict[str, Any], name: str, limits: ApiLimits) -> None:
    """Refuse too many texts in a field before they are looked at one by one.

    Raises:
        InvalidRequestError: They are more than `max_inputs`.
    """
    value = fields.get(name)
    if isinstance(value, list) and len(value) > limits.max_inputs:
        raise InvalidRequestError(
            f"Invalid '{name}': at most {limits.max_inputs:,} are taken at a time, not {len(value)}.",
            param=name,
            code="invalid_value",
        )
