"""Probes for load balancers, and the metrics page."""

from collections.abc import Callable, Mapping

import orjson
from starlette.types import Receive, Scope, Send

from stoker.api.openapi import Part, Schema, record, response
from stoker.api.reply import Reply
from stoker.observe.metrics import CONTENT_TYPE, Metrics

ALIVE_PATHS = ("/health", "/livez")
OPEN_PATHS = (*ALIVE_PATHS, "/readyz")
"""Routes that need no API key: probes have none, and learn nothing but up or down."""


class Alive:
    """``/health`` and ``/livez``: 200 as long as the process answers at all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer the probe."""
        await Reply(200, b'{"status":"ok"}').send(send)


Readiness = Callable[[], Mapping[str, str | None]]
"""Returns, for each model that the server is expected to serve, None if a request would get its first
token now, otherwise why not."""


class Ready:
    """``/readyz``: 200 if every expected model is ready and there is one, else 503 with the reasons.

    Args:
        readiness: What is ready.
        show_models: Whether to say which models these are.
    """

    def __init__(self, readiness: Readiness, *, show_models: bool) -> None:
        self._readiness = readiness
        self._show_models = show_models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer the probe."""
        models = self._readiness()
        reasons = {name: reason for name, reason in models.items() if reason is not None}
        ready = bool(models) and not reasons
        document: dict[str, object] = {"status": "ready" if ready else "not ready"}
        if not ready:
            document["reason"] = next(iter(reasons.values()), "no model is served")
        if self._show_models:
            document["models"] = {name: reason or "ready" for name, reason in models.items()}
        await Reply(200 if ready else 503, orjson.dumps(document)).send(send)


class MetricsPage:
    """``/metrics``: everything in Prometheus's text format.

    Args:
        metrics: Where the numbers are.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer the scrape."""
        await Reply(200, self._metrics.render(), CONTENT_TYPE.encode()).send(send)


def probes_part() -> Part:
    """Return the probes' and the metrics page's share of the OpenAPI document."""
    text: Schema = {"type": "string"}

    def page(operation: str, answers: dict[str, Schema]) -> Schema:
        return {"get": {"operationId": operation, "security": [], "responses": answers}}

    alive = {"200": response("The process answers.", record({"status": {"const": "ok"}}))}
    ready = {
        "200": response("A request would get its first token now.", record({"status": {"const": "ready"}})),
        "503": response("It would not, and why.", record({"status": text, "reason": text})),
    }
    numbers = {"200": response("Prometheus's text format.", text, "text/plain")}
    metrics = {"get": {"operationId": "metrics", "responses": numbers}}
    return Part(
        {
            "/health": page("health", alive),
            "/livez": page("alive", alive),
            "/readyz": page("ready", ready),
            "/metrics": metrics,
        }
    )
