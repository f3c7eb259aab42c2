"""The composition root: the one place that names concrete classes and puts them together."""

import asyncio
import errno
import functools
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import cast

import uvicorn
import uvloop

from stoker import __version__
from stoker.api.connection import BoundedProtocol, ConnectionLimits
from stoker.api.limits import ApiLimits
from stoker.api.served import ServedModel
from stoker.api.server import build_api
from stoker.config import Settings
from stoker.core.errors import SettingsError
from stoker.core.protocols import Generator
from stoker.models import OpenedModel, open_model
from stoker.models.config import TokenizerSpec
from stoker.models.library import LocatedModel, ModelLibrary, open_library
from stoker.models.sources import Progress
from stoker.observe.engine_metrics import EngineReport
from stoker.observe.logs import LogFormat, configure_logs
from stoker.observe.metrics import Metrics
from stoker.policy.admission import Admission, AdmissionLimits
from stoker.text import ChatTemplate, LocalGenerator, Tokenizer
from stoker.worker.config import EngineConfig
from stoker.worker.resume import ResumingEngine
from stoker.worker.supervisor import EngineSupervisor

BACKLOG = 2048
"""Connections that may wait for being accepted."""

OTHER_FILES = 64
"""Files that a server may have open beside its connections; it has about 20."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model whose engine is, or soon will be, a process of ours.

    Attributes:
        located: Its name and file.
        context_length: Most tokens of one sequence, the settings applied.
        tokenizer_spec: Its tokenizer as the file describes it.
        special_tokens: Spelling of the tokens that its chat template may name.
        supervisor: Its engine processes.
        engine: What requests run on: the processes as one engine that does not die.
    """

    located: LocatedModel
    context_length: int
    tokenizer_spec: TokenizerSpec
    special_tokens: dict[str, str]
    supervisor: EngineSupervisor
    engine: ResumingEngine

    def readiness(self) -> str | None:
        """Return None if a request would get its first token now, otherwise why not."""
        return None if self.supervisor.ready else f"the engine {self.supervisor.status.value}"

    def fingerprint(self) -> str | None:
        """Return what names weights and kernels, or None while no engine is ready."""
        return self.supervisor.info.fingerprint if self.supervisor.ready else None

    def generator(self) -> LocalGenerator:
        """Build the text side; takes a good part of a second."""
        spec = self.tokenizer_spec
        template = spec.chat_template
        return LocalGenerator(
            self.located.model_id,
            self.engine,
            Tokenizer(spec),
            None if template is None else ChatTemplate(template, self.special_tokens),
            self.context_length,
        )


def model_library(settings: Settings) -> ModelLibrary:
    """Return the library over the model store, the catalogues and the network of these settings."""
    return open_library(settings)


def local_model(settings: Settings, located: LocatedModel) -> LocalModel:
    """Read a model file's header and prepare its engine; nothing is started.

    Raises:
        ModelError: The file is missing, damaged or of a model that cannot be run.
        SettingsError: The context is longer than the model's.
    """
    with open_model(located.path) as opened:
        spec = opened.tokenizer
        special_tokens = _special_tokens(opened)
        longest = opened.config.context_length
    if settings.context_length is not None and settings.context_length > longest:
        raise SettingsError(
            f"context_length is {settings.context_length}, but {located.model_id} was made for at most "
            f"{longest} tokens"
        )
    engine = EngineConfig(
        model_path=located.path.absolute(),
        model=located.model_id,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        max_waiting_tokens=settings.max_waiting_tokens,
        step_tokens=settings.step_tokens,
        context_length=settings.context_length,
        n_threads=settings.threads,
        isa=settings.isa,
        kv_memory_bytes=settings.kv_memory,
        log_format=_log_format(settings),
    )
    supervisor = EngineSupervisor(engine, timeout_s=settings.engine_timeout_s)
    return LocalModel(
        located=located,
        context_length=settings.context_length or longest,
        tokenizer_spec=spec,
        special_tokens=special_tokens,
        supervisor=supervisor,
        engine=ResumingEngine(supervisor, timeout_s=settings.resume_timeout_s),
    )


@asynccontextmanager
async def running_generator(settings: Settings, located: LocatedModel) -> AsyncGenerator[Generator]:
    """Start a model's engine without a server, and end it afterwards.

    Raises:
        StokerError: The model cannot be read, or its engine cannot start.
    """
    model = local_model(settings, located)
    starting = asyncio.create_task(model.supervisor.start())
    try:
        generator = await asyncio.to_thread(model.generator)
        await starting
        yield generator
    finally:
        await _abandon(starting)
        await model.supervisor.stop()


def serve(settings: Settings, *, progress: Progress, announce: Callable[[str], None]) -> None:
    """Serve a model until SIGINT or SIGTERM: bind, pull if missing, start the engine, be ready.

    Args:
        settings: The settings.
        progress: Told of a download.
        announce: Given the one line that says that the server is ready, and where.

    Raises:
        StokerError: The server cannot start; nothing is left running.
    """
    started_s = monotonic()
    configure_logs(_log_format(settings), level=logging.getLevelNamesMapping()[settings.log_level.upper()])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    allow_connections(settings.max_connections)
    with bind(settings.host, settings.port) as listener:
        located = model_library(settings).ensure(settings.model, progress)
        model = local_model(settings, located)
        url = f"http://{_address(listener)}"

        def ready() -> None:
            key = "no API key needed on loopback" if settings.api_key is None else "API key needed"
            announce(
                f"Stoker {__version__} serves {located.model_id} at {url}/v1 "
                f"({key}; ready in {monotonic() - started_s:.1f} s; Ctrl-C ends it)"
            )

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, model, listener, ready))


def allow_connections(n_connections: int) -> None:
    """Raise this process's limit of open files as far as so many connections need.

    Raises:
        SettingsError: The limit cannot be raised that far.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = n_connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SettingsError(
            f"max_connections is {n_connections}, but this process may only open {hard} files and needs "
            f"{OTHER_FILES} beside its connections: raise the limit (ulimit -n) or lower max_connections"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def bind(host: str, port: int) -> socket.socket:
    """Take the address, so that it is known to be free before any work is done; nobody is accepted yet.

    Raises:
        SettingsError: The address is in use or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            # Two sockets may both bind with SO_REUSEADDR; the second one to listen fails.
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"port {port} on {host} is in use: end the other server, or choose another --port"
            ) from error
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return listener


async def _serve(
    settings: Settings, model: LocalModel, listener: socket.socket, ready: Callable[[], None]
) -> None:
    # The server takes these signals while it runs, and raises them again when it has ended.
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_stop.set())
    starting = asyncio.create_task(model.supervisor.start())
    try:
        server = uvicorn.Server(await _server_config(settings, model))
        server.should_exit = asked_to_stop.is_set()
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await asyncio.wait((starting, serving), return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and starting.exception() is None:
            gc.collect()
            gc.freeze()  # what is alive now lives on: no collection need look at it again
            ready()
        else:
            server.should_exit = True
        await serving
        if starting.done():
            starting.result()
    finally:
        await _abandon(starting)
        await model.supervisor.stop()


async def _abandon(task: asyncio.Task[None]) -> None:
    """End a task whose outcome matters no more, if it has not ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _server_config(settings: Settings, model: LocalModel) -> uvicorn.Config:
    located, supervisor = model.located, model.supervisor
    metrics = Metrics(version=__version__)
    metrics.watch_engine(
        located.model_id,
        lambda: EngineReport(
            ready=supervisor.ready,
            restarts=supervisor.restarts,
            resumed=model.engine.n_resumed,
            quarantined=model.engine.n_quarantined,
            stats=supervisor.stats,
        ),
    )
    n_places = settings.max_running + settings.max_waiting
    generator = await asyncio.to_thread(model.generator)
    admission = Admission(
        generator,
        AdmissionLimits(
            max_choices=n_places,
            max_prompt_bytes=settings.max_prompt_bytes,
            context_length=model.context_length,
        ),
    )
    metrics.watch_memory(
        located.model_id,
        prompt_bytes=lambda: admission.prompt_bytes,
        unread_tokens=lambda: supervisor.unread,
    )
    metrics.watch_choices(located.model_id, lambda: admission.in_flight)
    served = ServedModel(
        name=located.model_id,
        generator=admission,
        reserve=admission.reserve,
        codec=generator.codec,
        created=int(located.path.stat().st_mtime),
        fingerprint=model.fingerprint,
        context_length=model.context_length,
    )
    api = build_api(
        models={served.name: served},
        readiness=model.readiness,
        metrics=metrics,
        limits=ApiLimits(
            max_body_bytes=settings.max_body_bytes,
            max_bodies_bytes=settings.max_bodies_bytes,
            body_timeout_s=settings.body_timeout_s,
            max_prompt_tokens=model.context_length,
            max_choices=min(settings.max_choices, n_places),
            queue_timeout_s=settings.queue_timeout_s,
            request_timeout_s=settings.request_timeout_s,
        ),
        api_key=None if settings.api_key is None else settings.api_key.get_secret_value(),
    )
    protocol = functools.partial(
        BoundedProtocol,
        ConnectionLimits(
            max_connections=settings.max_connections,
            max_head_bytes=settings.max_header_bytes,
            head_timeout_s=settings.header_timeout_s,
            write_timeout_s=settings.write_timeout_s,
        ),
    )
    return uvicorn.Config(
        api,
        http=cast("type[asyncio.Protocol]", protocol),  # uvicorn only calls it
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


def _special_tokens(opened: OpenedModel) -> dict[str, str]:
    """Return the spellings that chat templates call ``bos_token`` and so on."""
    tokens = opened.tokenizer.tokens
    ids = {
        name: opened.metadata.get(f"tokenizer.ggml.{role}_token_id")
        for name, role in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"))
    }
    return {name: tokens[id_] for name, id_ in ids.items() if isinstance(id_, int) and id_ < len(tokens)}


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if listener.family is socket.AF_INET6 else f"{host}:{port}"


def _log_format(settings: Settings) -> LogFormat:
    if settings.log_format == "auto":
        return "console" if sys.stderr.isatty() else "json"
    return settings.log_format
