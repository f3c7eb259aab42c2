"""The outermost layer: request ids, errors into responses, metrics and the log line."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from time import perf_counter

import structlog
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stoker.api.reply import Reply
from stoker.core.errors import ClientGoneError, StokerError
from stoker.observe.logs import log_request
from stoker.observe.metrics import Metrics
from stoker.observe.record import CURRENT_RECORD, RequestRecord

_logger = structlog.get_logger()

_RECORD = "stoker.record"
_CLIENT_GONE_STATUS = 499
_WELL_FORMED_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in a dialect's own shape.

    Attributes:
        reply: The response to send.
        reason: A short word from a fixed set, for metrics and logs.
        param: The field to blame if it is safe to log, which a client's own words are not.
    """

    reply: Reply
    reason: str
    param: str | None = None


Describe = Callable[[Exception, Scope], Failure]
"""Turns any exception into a response of the dialect."""


def record_of(scope: Scope) -> RequestRecord:
    """Return the record of the request that this scope belongs to."""
    record: RequestRecord = scope[_RECORD]
    return record


def note_failure(record: RequestRecord, failure: Failure) -> None:
    """Remember why a request failed."""
    record.status = failure.reply.status
    record.error = failure.reason
    record.error_param = failure.param


class Edge:
    """ASGI middleware around everything else.

    Args:
        app: The application within.
        metrics: Where requests are counted.
        describe: The dialect's error shape.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, describe: Describe) -> None:
        self._app = app
        self._metrics = metrics
        self._describe = describe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; only a failure after the response's start is raised again."""
        # Starlette's router raises its 404 and 405 as exceptions only if it finds an app here.
        scope["app"] = self
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(
            request_id=_request_id(scope), method=scope["method"], started_s=perf_counter()
        )
        scope[_RECORD] = record
        CURRENT_RECORD.set(record)

        async def tagged_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                elapsed_ms = (perf_counter() - record.started_s) * 1000
                message["headers"] += [
                    (b"x-request-id", record.request_id.encode()),
                    (b"openai-processing-ms", b"%d" % elapsed_ms),
                ]
            await send(message)

        self._metrics.request_began()
        try:
            await self._app(scope, receive, tagged_send)
        except ClientGoneError as error:
            record.error = "client_gone"
            if error.__cause__ is not None:
                _logger.exception("failed to stop work", exc_info=error.__cause__)
        except (StokerError, HTTPException) as error:
            await self._fail(error, record, scope, tagged_send)
        except Exception as error:
            _logger.exception("unexpected error", request_id=record.request_id)
            await self._fail(error, record, scope, tagged_send)
        finally:
            if record.status == 0 or record.error == "client_gone":
                record.status = _CLIENT_GONE_STATUS
            route = scope.get("route")
            if isinstance(route, Route):
                record.route = route.path_format
            self._metrics.request_ended(record)
            log_request(record)

    async def _fail(self, error: Exception, record: RequestRecord, scope: Scope, send: Send) -> None:
        started = record.status != 0
        failure = self._describe(error, scope)
        note_failure(record, failure)
        if started:
            raise error
        await failure.reply.send(send)


def _request_id(scope: Scope) -> str:
    """Take the client's ``x-request-id`` if it is short and plain, else make one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _WELL_FORMED_ID.fullmatch(value):
            return str(value, "ascii")
    return f"req_{token_hex(16)}"
