"""Pydantic's errors in one readable sentence with the field's path."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope

from stoker.api.body import parse_object, read_body, require_json, shown
from stoker.api.limits import ApiLimits
from stoker.core.errors import InvalidRequestError

_WORDING = {
    "Input should": "it should",
    "String should": "it should",
    "List should": "it should",
    "a valid dictionary or instance of StreamOptions": "an object",
    "a valid list": "an array",
}
"""Pydantic's words for Python's programmers to words for those who send JSON."""

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
        first = error.errors(include_url=False, include_context=False)[0]
    where = path + ".".join(str(step) for step in first["loc"])
    if first["type"] == "missing":
        raise InvalidRequestError(f"'{where}' is required.", param=where, code="missing_required_parameter")
    code = "invalid_type" if first["type"].endswith("_type") else "invalid_value"
    text = first["msg"].replace(" after validation", "")
    for old, new in _WORDING.items():
        text = text.replace(old, new)
    raise InvalidRequestError(f"Invalid '{where}': {text}{_got(first['input'])}.", param=where, code=code)


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
