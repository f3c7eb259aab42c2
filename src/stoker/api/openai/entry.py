"""From a request's body to what an endpoint does."""

from collections.abc import Callable
from secrets import token_hex
from typing import Any, TypeVar

from stoker.api.body import parse_object
from stoker.api.limits import ApiLimits

Parsed = TypeVar("Parsed")


def body_parser(
    parse: Callable[[dict[str, Any], ApiLimits, str], Parsed], limits: ApiLimits, request_id: str
) -> Callable[[bytes], Parsed]:
    """Return what makes a job of a body, by its fields; for any thread.

    The job's id begins with the request's. That one is the client's and need not be unique, and two requests
    of one id must not meet in an engine.

    Args:
        parse: Makes it of fields, limits and the id.
        limits: Bounds on a request.
        request_id: The request's id.
    """

    def parse_body(body: bytes) -> Parsed:
        fields = parse_object(body, max_depth=limits.max_json_depth)
        return parse(fields, limits, f"{request_id}.{token_hex(4)}")

    return parse_body
