"""Log set-up, and the one line that every finished request leaves.

Logs go to standard error, standard output being for what a command prints. No line ever holds text
of a prompt or an answer; tracebacks are printed without local variables for the same reason.
"""

import logging
import sys
from time import perf_counter
from typing import Any, TextIO

import orjson
import structlog

from stoker.observe.late_logs import LogFormat
from stoker.observe.record import RequestRecord

_MILLISECONDS = 1000.0


def _json(event: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def configure_logs(
    log_format: LogFormat,
    *,
    level: int = logging.INFO,
    stream: TextIO | None = None,
    process: str | None = None,
) -> None:
    """Send Stoker's own log lines and those of libraries to one stream in one format.

    Args:
        log_format: ``console`` for people, ``json`` for one object a line.
        level: Least level that is written, as in `logging`.
        stream: Where to; standard error by default.
        process: Named in every line, where several processes write to one stream.
    """
    stream = sys.stderr if stream is None else stream
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if process is not None:
        shared.append(lambda _logger, _method, event: {**event, "process": process})
    renderer: structlog.typing.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer(serializer=_json)
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def log_request(record: RequestRecord) -> None:
    """Write the line of a finished request; probes that went well are not worth one."""
    now_s = perf_counter()
    fields: dict[str, object] = {
        "request_id": record.request_id,
        "method": record.method,
        "route": record.route,
        "status": record.status,
        "duration_ms": round((now_s - record.started_s) * _MILLISECONDS, 1),
    }
    if record.model is not None:
        fields |= {"model": record.model, "stream": record.stream}
    if record.wake_s is not None:
        fields["wake_ms"] = round(record.wake_s * _MILLISECONDS, 1)
    if record.first_token_s is not None:
        fields["ttft_ms"] = round((record.first_token_s - record.started_s) * _MILLISECONDS, 1)
    if record.completion_tokens is not None:
        fields |= {
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "completion_tokens": record.completion_tokens,
        }
    if record.early_exits:
        fields["early_exits"] = [str(each) for each in record.early_exits]
    if record.error is not None:
        fields |= {"error": record.error, "param": record.error_param}
    logger = structlog.get_logger()
    if record.model is None and record.error is None:
        logger.debug("request", **fields)
    else:
        logger.info("request", **fields)
