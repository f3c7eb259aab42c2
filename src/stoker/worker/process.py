"""The engine process from start to end."""

import ctypes
import logging
import os
import secrets
import signal
import sys
from concurrent.futures import Future, wait
from threading import Event, Thread
from typing import NoReturn

from stoker.core.errors import ModelError, SettingsError
from stoker.observe.late_logs import configure_late_logs
from stoker.worker import conversion, frames
from stoker.worker.config import EngineConfig
from stoker.worker.loop import EngineFactory, EngineLoop
from stoker.worker.server import Server

FAREWELL_S = 2.0
"""How long a failed engine waits for a gateway to hear its reason."""

LAST_STEP_S = 2.0
"""How long a step may go on after the engine has been told to stop."""

SWITCH_INTERVAL_S = 0.0005
"""Longest that the thread of the sockets holds up the loop between two bytecodes."""

_PR_SET_PDEATHSIG = 1

_log = logging.getLogger(__name__)


def engine_main(factory: EngineFactory) -> NoReturn:
    """Be an engine process: settings from standard input, whose end of file is the end.

    Exits with 0 when it was told to stop and with 1 after a failure.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the gateway decides
    try:
        config = EngineConfig.from_line(sys.stdin.buffer.readline())
    except SettingsError as error:
        sys.exit(str(error))
    configure_late_logs(config.log_format, level=logging.WARNING, process="engine")
    sys.exit(serve_engine(factory, config))


def serve_engine(factory: EngineFactory, config: EngineConfig) -> int:
    """Load an engine, serve it on ``config.socket_path``, and return the process's exit status.

    Takes the whole process: signals, standard input and the main thread, which owns the sockets.
    With a parent it ends at the end of standard input or with the parent, without one at SIGTERM; and
    in any case when a step fails, of which the gateways then learn the reason.
    """
    if config.parent_pid is not None:
        _die_with(config.parent_pid)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    incarnation = secrets.randbits(63)
    server = Server(config.socket_path, incarnation)
    stopped = Event()
    signal.set_wakeup_fd(server.wake_fileno, warn_on_full_buffer=False)
    if config.parent_pid is None:
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    else:
        # A service manager signals every process of the service; the gateway has answers to finish.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _watch_stdin(server, stopped)
    outcome = _start(EngineLoop(config, server.mailbox, incarnation), factory, server)
    server.run(lambda: stopped.is_set() or outcome.done())
    server.mailbox.close()
    wait((outcome,), timeout=LAST_STEP_S)
    if not outcome.done():
        _log.warning("stopped in the middle of a step that takes more than %s s", LAST_STEP_S)
        os._exit(0)
    error = outcome.exception()
    if error is not None:
        _report(error, server, incarnation)
    signal.set_wakeup_fd(-1)
    server.close()
    return 0 if error is None else 1


def _report(error: BaseException, server: Server, incarnation: int) -> None:
    """Tell the gateways why the engine ends; they speak for it where the reason is a setting or a model."""
    users_business = isinstance(error, ModelError | SettingsError)
    if not users_business:
        _log.error("the engine cannot go on", exc_info=error)
    told = server.say_farewell(frames.Fatal(incarnation, conversion.failure(error)), within_s=FAREWELL_S)
    if users_business and not told:
        _log.error("%s", error)


def _start(loop: EngineLoop, factory: EngineFactory, server: Server) -> Future[None]:
    """Run the loop in a thread; the future ends with it, however it ends."""
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            loop.run(factory)
        except BaseException as error:  # noqa: BLE001 - the main thread reports it to every gateway
            outcome.set_exception(error)
        else:
            outcome.set_result(None)
        server.wake()

    Thread(target=run, name="engine-loop", daemon=True).start()
    return outcome


def _die_with(parent_pid: int) -> None:
    """Have the kernel end this process when its parent ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        _log.warning("the engine will not end at once with its gateway: %s", os.strerror(number))
    if os.getppid() != parent_pid:  # it ended before that took effect
        sys.exit(f"the gateway (process {parent_pid}) ended before its engine began")


def _watch_stdin(server: Server, stopped: Event) -> None:
    """Stop at the end of standard input: its other end is held by the parent alone."""
    fileno = sys.stdin.fileno()

    def read() -> None:
        if not os.read(fileno, 4096):
            server.unwatch(fileno)
            stopped.set()

    server.watch(fileno, read)
