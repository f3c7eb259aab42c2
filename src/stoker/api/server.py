"""Puts the HTTP edge together: `build_api` returns one ASGI application."""

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from stoker import __version__
from stoker.api.admin.control import ModelControl
from stoker.api.admin.pins import pin_routes
from stoker.api.admin.routes import admin_routes
from stoker.api.auth import ApiKey
from stoker.api.drain import DrainGate
from stoker.api.edge import Edge
from stoker.api.health import ALIVE_PATHS, OPEN_PATHS, Alive, MetricsPage, Readiness, Ready, probes_part
from stoker.api.limits import ApiLimits, BodyLimit
from stoker.api.openai.adapters import adapter_routes
from stoker.api.openai.errors import describe
from stoker.api.openai.routes import openai_routes
from stoker.api.openapi import PATH, OpenApiPage, compose
from stoker.api.origin import HostCheck
from stoker.api.served import ServedModels
from stoker.observe.metrics import Metrics


def build_api(
    *,
    models: ServedModels,
    control: ModelControl,
    readiness: Readiness,
    draining: Callable[[], bool],
    metrics: Metrics,
    limits: ApiLimits,
    api_key: str | None,
    allowed_hosts: Collection[str] = (),
) -> ASGIApp:
    """Return the whole API: dialects, administration, probes and metrics.

    Args:
        models: Served models.
        control: Loads and unloads them.
        readiness: Which models are expected, and ready.
        draining: Tells whether the server was told to end, and takes nothing new.
        metrics: Where requests are counted, and what ``/metrics`` shows.
        limits: Bounds on a request.
        api_key: What clients must send, or None to ask for nothing. Only the probes are open to all:
            ``/metrics`` tells which models are served and how busy they are, and so does ``/readyz`` if
            there is no key.
        allowed_hosts: Names of a server without a key, beside those of loopback.
    """

    def document() -> Mapping[str, Any]:
        # Seldom asked for, and not needed to be ready.
        from stoker.api.admin.openapi import admin_part  # noqa: PLC0415
        from stoker.api.openai.openapi import openai_part  # noqa: PLC0415

        parts = (openai_part(), admin_part(), probes_part())
        return compose(parts, version=__version__, key_needed=api_key is not None)

    # One thread: a parse holds the interpreter's lock for most of its time, and takes ten times the
    # memory of the body.
    parser = ThreadPoolExecutor(1, thread_name_prefix="parse")
    app: ASGIApp = Router(
        routes=[
            *adapter_routes(models=models, limits=limits),
            *openai_routes(models=models, limits=limits, metrics=metrics, parser=parser),
            *pin_routes(models=models, limits=limits, parser=parser),
            *admin_routes(control=control, limits=limits),
            Route("/health", Alive(), methods=["GET"]),
            Route("/livez", Alive(), methods=["GET"]),
            Route("/readyz", Ready(readiness, show_models=api_key is None), methods=["GET"]),
            Route("/metrics", MetricsPage(metrics), methods=["GET"]),
            Route(PATH, OpenApiPage(document), methods=["GET"]),
        ],
        redirect_slashes=False,
    )
    bodies = BodyLimit(app, limits=limits)
    metrics.watch_bodies(lambda: bodies.held_bytes)
    app = bodies
    if api_key is None:
        app = HostCheck(app, hosts=allowed_hosts, open_paths=OPEN_PATHS)
    else:
        app = ApiKey(app, key=api_key, open_paths=OPEN_PATHS)
    app = DrainGate(app, draining=draining, open_paths=ALIVE_PATHS)
    return Edge(app, metrics=metrics, describe=describe)


class CurrentApi:
    """The ASGI application that is served now; requests that have begun stay in the one they began in.

    Attributes:
        app: The application for new requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application."""
        await self.app(scope, receive, send)
