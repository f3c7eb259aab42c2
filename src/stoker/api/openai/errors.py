"""Every error in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""

from dataclasses import dataclass
from math import ceil

import orjson
from starlette.exceptions import HTTPException
from starlette.types import Scope

from stoker.api.body import shown
from stoker.api.edge import Failure
from stoker.api.reply import Reply
from stoker.core import errors

UNKNOWN_PARAMETER = "unknown_parameter"
"""Code of a field that no table knows; its name is the client's own and is not logged."""

_HIDDEN = "The server had an error of its own while answering. Its log says more under this x-request-id."


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """How one class of errors looks.

    Attributes:
        status: HTTP status.
        type: OpenAI's ``type``.
        code: OpenAI's ``code`` unless the error has its own.
        reason: The word for metrics and logs.
    """

    status: int
    type: str
    code: str | None
    reason: str


_INVALID = "invalid_request_error"
_SERVER = "server_error"

KINDS: dict[type[Exception], ErrorKind] = {
    errors.ContextLengthError: ErrorKind(400, _INVALID, "context_length_exceeded", "context_length"),
    errors.UnsupportedFieldError: ErrorKind(400, _INVALID, "unsupported_parameter", "unsupported_field"),
    errors.InvalidRequestError: ErrorKind(400, _INVALID, None, "invalid_request"),
    errors.AuthenticationError: ErrorKind(401, _INVALID, "invalid_api_key", "authentication"),
    errors.ForbiddenError: ErrorKind(403, _INVALID, "forbidden", "forbidden"),
    errors.ModelNotFoundError: ErrorKind(404, _INVALID, "model_not_found", "model_not_found"),
    errors.PinNotFoundError: ErrorKind(404, _INVALID, "pin_not_found", "pin_not_found"),
    errors.RequestTimeoutError: ErrorKind(408, _INVALID, "request_timeout", "request_timeout"),
    errors.SlowReaderError: ErrorKind(408, _INVALID, "slow_reader", "slow_reader"),
    errors.ConflictError: ErrorKind(409, _INVALID, "conflict", "conflict"),
    errors.PayloadTooLargeError: ErrorKind(413, _INVALID, "request_too_large", "request_too_large"),
    errors.QueueFullError: ErrorKind(429, "rate_limit_error", "rate_limit_exceeded", "queue_full"),
    errors.QueueTimeoutError: ErrorKind(429, "rate_limit_error", "queue_timeout", "queue_timeout"),
    errors.DeadlineError: ErrorKind(504, _SERVER, "deadline_exceeded", "deadline"),
    errors.NotReadyError: ErrorKind(503, _SERVER, "not_ready", "not_ready"),
    errors.ShuttingDownError: ErrorKind(503, _SERVER, "shutting_down", "shutting_down"),
    errors.CapacityError: ErrorKind(503, _SERVER, "not_ready", "capacity"),
    errors.EngineDiedError: ErrorKind(500, _SERVER, "engine_died", "engine_died"),
    errors.RequestQuarantinedError: ErrorKind(500, _SERVER, "request_quarantined", "request_quarantined"),
    errors.EngineError: ErrorKind(500, _SERVER, "engine_error", "engine_error"),
}
"""Class to looks; an error takes the entry of its nearest base, everything else is `_INTERNAL`."""

_INTERNAL = ErrorKind(500, _SERVER, "internal_error", "internal_error")
_NOT_FOUND = ErrorKind(404, _INVALID, "unknown_url", "unknown_url")
_WRONG_METHOD = ErrorKind(405, _INVALID, "method_not_allowed", "method_not_allowed")


def describe(error: Exception, scope: Scope) -> Failure:
    """Turn any exception into its response; messages of unexpected ones stay in the log."""
    if isinstance(error, HTTPException):
        return _describe_http(error, scope)
    kind = next((KINDS[base] for base in type(error).__mro__ if base in KINDS), _INTERNAL)
    message = _HIDDEN if kind is _INTERNAL else str(error)
    param, code, logged_param = None, kind.code, None
    headers: list[tuple[bytes, bytes]] = []
    match error:
        case errors.InvalidRequestError():
            param, code = error.param, error.code or kind.code
            logged_param = None if code == UNKNOWN_PARAMETER else param
        case errors.ModelNotFoundError():
            param = logged_param = error.param
        case errors.QueueFullError() | errors.QueueTimeoutError():
            headers.append((b"retry-after", b"%d" % max(1, ceil(error.retry_after_s))))
        case errors.NotReadyError():
            headers.append((b"retry-after", b"1"))
        case errors.AuthenticationError():
            headers.append((b"www-authenticate", b"Bearer"))
        case errors.RequestTimeoutError() | errors.ShuttingDownError():
            headers.append((b"connection", b"close"))
        case _:
            pass
    return _failure(kind, message, param=param, code=code, headers=headers, logged_param=logged_param)


def _describe_http(error: HTTPException, scope: Scope) -> Failure:
    method, path = scope["method"], shown(scope["path"])
    if error.status_code == 405:  # noqa: PLR2004 - an HTTP status
        allowed = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
        return _failure(
            _WRONG_METHOD,
            f"{method} is not allowed on {path}; allowed: {allowed}.",
            headers=[(b"allow", allowed.encode())],
        )
    return _failure(_NOT_FOUND, f"There is no such URL here: {method} {path}.")


def _failure(
    kind: ErrorKind,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
    logged_param: str | None = None,
) -> Failure:
    error = {"message": message, "type": kind.type, "param": param, "code": code or kind.code}
    # A path or a field's name may hold what is not Unicode; a reply must never fail on that.
    body = orjson.dumps({"error": {name: _clean(value) for name, value in error.items()}})
    return Failure(Reply(kind.status, body, headers=tuple(headers or ())), kind.reason, logged_param)


def _clean(value: str | None) -> str | None:
    return None if value is None else value.encode("utf-8", "replace").decode()
