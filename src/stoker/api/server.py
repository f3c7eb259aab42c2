"""Puts the HTTP edge together: `build_api` returns one ASGI application."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.routing import Route, Router
from starlette.types import ASGIApp

from stoker import __version__
from stoker.api.auth import ApiKey
from stoker.api.edge import Edge
from stoker.api.health import OPEN_PATHS, Alive, MetricsPage, Ready, probes_part
from stoker.api.limits import ApiLimits, BodyLimit
from stoker.api.openai.errors import describe
from stoker.api.openai.openapi import openai_part
from stoker.api.openai.routes import openai_routes
from stoker.api.openapi import PATH, OpenApiPage, compose
from stoker.api.served import ServedModel
from stoker.observe.metrics import Metrics


def build_api(
    *,
    models: Mapping[str, ServedModel],
    readiness: Callable[[], str | None],
    metrics: Metrics,
    limits: ApiLimits,
    api_key: str | None,
) -> ASGIApp:
    """Return the whole API: dialects, probes and metrics.

    Args:
        models: Served models by the name that clients send.
        readiness: Returns None if a request would get its first token now, otherwise why not.
        metrics: Where requests are counted, and what ``/metrics`` shows.
        limits: Bounds on a request.
        api_key: What clients must send, or None to ask for nothing. Only the probes are open to all:
            ``/metrics`` tells which models are served and how busy they are.
    """

    def document() -> Mapping[str, Any]:
        parts = (openai_part(), probes_part())
        return compose(parts, version=__version__, key_needed=api_key is not None)

    app: ASGIApp = Router(
        routes=[
            *openai_routes(models=models, limits=limits, metrics=metrics),
            Route("/health", Alive(), methods=["GET"]),
            Route("/livez", Alive(), methods=["GET"]),
            Route("/readyz", Ready(readiness), methods=["GET"]),
            Route("/metrics", MetricsPage(metrics), methods=["GET"]),
            Route(PATH, OpenApiPage(document), methods=["GET"]),
        ],
        redirect_slashes=False,
    )
    app = BodyLimit(app, limits=limits)
    if api_key is not None:
        app = ApiKey(app, key=api_key, open_paths=OPEN_PATHS)
    return Edge(app, metrics=metrics, describe=describe)
