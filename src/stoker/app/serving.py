"""A server from start to end."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from time import monotonic
from types import FrameType
from typing import Any, cast

import uvicorn
import uvloop

from stoker import __version__
from stoker.api.connection import BoundedProtocol, ConnectionLimits
from stoker.api.limits import ApiLimits
from stoker.api.served import ServedModels
from stoker.api.server import CurrentApi, build_api
from stoker.app.fleet import Fleet, Makers
from stoker.app.hangup import Hangups
from stoker.app.local_model import local_model, log_format, model_library
from stoker.app.reload import Reloader
from stoker.app.sockets import BACKLOG, address_of, allow_connections, bind
from stoker.config import Settings, SettingsSource
from stoker.models.sources import Progress
from stoker.observe.logs import configure_logs
from stoker.observe.metrics import Metrics


def serve(
    source: SettingsSource,
    names: Sequence[str],
    *,
    progress: Callable[[str], Progress],
    announce: Callable[[str], None],
) -> None:
    """Serve models until SIGINT or SIGTERM: bind, pull what is missing, start the engines, be ready.

    Args:
        source: Where the settings are read, now and at each reload.
        names: Models by name or path; if there is none, the settings' `model`.
        progress: Returns what is told of the download of a model.
        announce: Given the one line that says that the server is ready, and where.

    Raises:
        StokerError: The server cannot start; nothing is left running.
    """
    started_s = monotonic()
    hangups = Hangups()
    reloader = Reloader(source)
    settings = reloader.current
    _configure_logs(settings)
    allow_connections(settings.max_connections)
    with bind(settings.host, settings.port) as listener:
        server = ModelServer(reloader)
        server.fleet.prepare(names or [settings.model], progress)
        url = f"http://{address_of(listener)}"

        def ready() -> None:
            key = "no API key needed on loopback" if settings.api_key is None else "API key needed"
            announce(
                f"Stoker {__version__} serves {', '.join(server.fleet.names)} at {url}/v1 "
                f"({key}; ready in {monotonic() - started_s:.1f} s; Ctrl-C ends it)"
            )

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.run(listener, hangups, ready))


class ModelServer:
    """The models of a server behind its HTTP API.

    Args:
        reloader: The settings.
    """

    def __init__(self, reloader: Reloader) -> None:
        self._reloader = reloader
        self._models = ServedModels()
        self._metrics = Metrics(version=__version__)
        makers = Makers(
            library=model_library,
            prepare=lambda settings, located, n: local_model(settings, located, kv_sharers=n),
        )
        self.fleet = Fleet(lambda: reloader.current, makers, self._models, self._metrics)
        self._api = CurrentApi(self._build_api(reloader.current))
        self._config = self._server_config(reloader.current)
        self._server = TwiceToldServer(self._config)

    async def run(self, listener: socket.socket, hangups: Hangups, ready: Callable[[], None]) -> None:
        """Serve until a signal says otherwise; `ready` is called when every model is."""
        # The server takes these signals while it runs, and raises them again when it has ended.
        asked_to_stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: asked_to_stop.set())
        hangups.serve(self._reload, self._end)
        watching = asyncio.create_task(self._reloader.watch(self._reload))
        starting = asyncio.create_task(self.fleet.start())
        server = self._server
        try:
            server.should_exit = asked_to_stop.is_set()
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            server.cut_off = serving.cancel
            await asyncio.wait((starting, serving), return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and starting.exception() is None:
                gc.collect()
                gc.freeze()  # what is alive now lives on: no collection need look at it again
                ready()
            else:
                server.should_exit = True
            await asyncio.wait((serving,))
            if not serving.cancelled():
                serving.result()
            if starting.done():
                starting.result()
        finally:
            for task in (watching, starting):
                task.cancel()
            await asyncio.gather(watching, starting, return_exceptions=True)
            await self.fleet.stop(at_once=server.told_twice)

    def _reload(self) -> None:
        self._reloader.reload(self._apply)

    def _end(self) -> None:
        self._server.should_exit = True

    def _apply(self, settings: Settings) -> None:
        """Put new settings into effect."""
        allow_connections(settings.max_connections)
        _configure_logs(settings)
        self._api.app = self._build_api(settings)
        self._config.timeout_keep_alive = settings.keep_alive_timeout_s
        self._config.timeout_graceful_shutdown = settings.shutdown_timeout_s
        self.fleet.apply(settings)

    def _build_api(self, settings: Settings) -> Any:
        return build_api(
            models=self._models,
            control=self.fleet,
            readiness=self.fleet.readiness,
            draining=lambda: self._server.should_exit,
            metrics=self._metrics,
            limits=ApiLimits(
                max_body_bytes=settings.max_body_bytes,
                max_bodies_bytes=settings.max_bodies_bytes,
                body_timeout_s=settings.body_timeout_s,
                max_choices=settings.max_choices,
                max_scored_choices=settings.max_scored_choices,
                max_grammar_bytes=settings.max_grammar_bytes,
                max_schema_depth=settings.max_schema_depth,
                max_inputs=settings.max_inputs,
                queue_timeout_s=settings.queue_timeout_s,
                request_timeout_s=settings.request_timeout_s,
            ),
            api_key=None if settings.api_key is None else settings.api_key.get_secret_value(),
            allowed_hosts=settings.allowed_hosts,
        )

    def _server_config(self, settings: Settings) -> uvicorn.Config:
        return uvicorn.Config(
            self._api,
            http=cast("type[asyncio.Protocol]", self._protocol),  # uvicorn only calls it
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=settings.keep_alive_timeout_s,
            timeout_graceful_shutdown=settings.shutdown_timeout_s,
        )

    def _protocol(self, **arguments: Any) -> BoundedProtocol:
        """Take a new connection within the limits that hold now."""
        settings = self._reloader.current
        limits = ConnectionLimits(
            max_connections=settings.max_connections,
            max_head_bytes=settings.max_header_bytes,
            head_timeout_s=settings.header_timeout_s,
            write_timeout_s=settings.write_timeout_s,
        )
        return BoundedProtocol(limits, **arguments)


class TwiceToldServer(uvicorn.Server):
    """uvicorn's server; told to end a second time, it does not wait for anybody.

    Attributes:
        told_twice: Whether it was.
        cut_off: Ends it at once.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.told_twice = False
        self.cut_off: Callable[[], object] = lambda: None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take SIGINT or SIGTERM."""
        if self.should_exit and self._loop is not None:
            self.told_twice = self.force_exit = True
            self._loop.call_soon_threadsafe(self.cut_off)
        super().handle_exit(sig, frame)


def _configure_logs(settings: Settings) -> None:
    configure_logs(log_format(settings), level=logging.getLevelNamesMapping()[settings.log_level.upper()])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
