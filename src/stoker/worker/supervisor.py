"""Keeps one engine process running and serves as its `TokenEngine`."""

import asyncio
import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Sequence
from enum import Enum
from pathlib import Path

import msgspec

from stoker.core.batching import BatchingPolicy
from stoker.core.errors import NotReadyError, SettingsError, StokerError
from stoker.core.protocols import EngineInfo
from stoker.core.stats import EngineStats, add_counters
from stoker.core.tokens import TokenEvent, TokenRequest
from stoker.worker.child import ENGINE_COMMAND, EngineChild
from stoker.worker.client import EngineClient
from stoker.worker.config import EngineConfig
from stoker.worker.restarts import RestartHistory, RestartPolicy

MAX_SOCKET_PATH_BYTES = 100
"""Unix sockets have short paths: 108 bytes on Linux, 104 on macOS, with the final zero."""

UNREADY_SHARE = 1 / 6
"""An engine that has been silent for this share of its timeout is not ready."""

CHECK_SHARE = 1 / 60
"""How often an engine's silence is looked at, as a share of its timeout."""

RECHECK_S = 0.5
"""How often one who waits looks for himself: a silent engine that speaks again does not say so."""

_log = logging.getLogger(__name__)


class EngineStatus(Enum):
    """What a supervisor's engine is doing; the value completes "the engine …"."""

    STARTING = "is starting"
    READY = "is ready"
    SILENT = "does not answer"
    RESTARTING = "died and is being restarted"
    CRASH_LOOP = "keeps dying; it is restarted from time to time"
    ASLEEP = "is asleep"
    STOPPED = "is stopped"


class EngineSupervisor:
    """A `TokenEngine` that outlives its engine processes.

    Streams of an engine that dies end with `EngineDiedError`; new ones get `NotReadyError` until the
    next engine is ready. `ResumingEngine` makes streams outlive their engine, too.

    Args:
        config: Settings of the engine.
        command: Program and arguments that start an engine process.
        policy: How restarts are paced.
        start_timeout_s: Time for an engine to become ready; the first start of a large model repacks
            its weights.
        timeout_s: An engine that has sequences to answer and says nothing for this long is killed and
            restarted; it is not ready from `UNREADY_SHARE` of that on. A busy engine is heard after
            every step, so this must be more than the longest step.
        stop_grace_s: Time for an engine to end by itself before it is killed.

    Attributes:
        timeout_s: As given; may be changed at any time.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        command: Sequence[str] = ENGINE_COMMAND,
        policy: RestartPolicy | None = None,
        start_timeout_s: float = 900.0,
        timeout_s: float = 60.0,
        stop_grace_s: float = 5.0,
    ) -> None:
        self._config = config
        self._command = tuple(command)
        self._history = RestartHistory(policy or RestartPolicy())
        self._start_timeout_s = start_timeout_s
        self.timeout_s = timeout_s
        self._stop_grace_s = stop_grace_s
        self._folder: Path | None = None
        self._child: EngineChild | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._n_starts = 0
        self._n_wakes = 0
        self._asleep = False
        self._started = asyncio.Event()  # set, and replaced, when an engine is ready or none will be
        self._counted = EngineStats()  # by the engines before this one
        self._stopped = False

    async def start(self) -> None:
        """Start the first engine and return when it is ready.

        Raises:
            StokerError: The engine cannot start; the class and the message are the engine's own, so
                a model that does not fit raises `OutOfMemoryError` here. Nothing is left running.
        """
        self._folder = _make_folder()
        try:
            child = await self._start_child(self._folder)
        except BaseException:
            _remove_folder(self._folder)
            raise
        self._watcher = asyncio.create_task(self._watch(child, self._folder), name="engine-supervisor")

    async def stop(self, *, at_once: bool = False) -> None:
        """End the engine within `stop_grace_s`, or at once, and leave no process and no file behind."""
        self._stopped = True
        self._announce()
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait((self._watcher,))
        if self._child is not None:
            await self._child.stop(grace_s=0.0 if at_once else self._stop_grace_s)
        if self._folder is not None:
            _remove_folder(self._folder)

    async def sleep(self) -> None:
        """End the engine, and start none until `wake`; what streams it has end with `EngineDiedError`.

        Its memory is given back when this returns. It is no death: the pace of restarts does not change.
        """
        self._asleep = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait((self._watcher,))
        if self._child is not None:
            await self._child.stop(grace_s=self._stop_grace_s)

    async def wake(self) -> None:
        """Start an engine after `sleep`, and return when it is ready.

        Raises:
            NotReadyError: It is stopped, or was never started.
            StokerError: The engine cannot start; the error is its own. It is asleep as before.
        """
        if self._folder is None or self._stopped:
            raise NotReadyError(f"the engine {self.status.value}")
        self._n_wakes += 1
        child = await self._start_child(self._folder)
        self._asleep = False
        self._announce()
        self._watcher = asyncio.create_task(self._watch(child, self._folder), name="engine-supervisor")

    @property
    def status(self) -> EngineStatus:
        """What the engine is doing."""
        if self._stopped:
            return EngineStatus.STOPPED
        if self._asleep:
            return EngineStatus.ASLEEP
        if self._child is not None and self._child.client.connected:
            silent = self._child.client.silence_s > self.timeout_s * UNREADY_SHARE
            return EngineStatus.SILENT if silent else EngineStatus.READY
        if self._history.crash_loop:
            return EngineStatus.CRASH_LOOP
        return EngineStatus.STARTING if self._watcher is None else EngineStatus.RESTARTING

    @property
    def ready(self) -> bool:
        """Whether a request would get its first token now."""
        return self.status is EngineStatus.READY

    @property
    def restarts(self) -> int:
        """How often an engine was started after the first one, wakes left out."""
        return max(0, self._n_starts - self._n_wakes - 1)

    @property
    def pid(self) -> int:
        """Process id of the engine.

        Raises:
            NotReadyError: No engine is ready.
        """
        return self._ready_child().pid

    @property
    def info(self) -> EngineInfo:
        """What the engine said of itself.

        Raises:
            NotReadyError: No engine is ready.
        """
        return self._ready_child().client.info

    @property
    def fingerprint(self) -> str | None:
        """Names weights and kernels of the engine that is, or was last, ready; None before the first.

        What a dead engine's last frame brought is still answered with.
        """
        return None if self._child is None else self._child.client.info.fingerprint

    @property
    def stats(self) -> EngineStats:
        """The engine's gauges, zeros while there is none, and the counters of all engines so far."""
        if self._child is None:
            return EngineStats()
        client = self._child.client
        counted = add_counters(client.stats, self._counted)
        return counted if client.connected else add_counters(EngineStats(), counted)

    @property
    def unread(self) -> int:
        """Tokens and alternatives that have arrived from the engine and were not read yet."""
        return 0 if self._child is None else self._child.client.unread

    def stream(self, request: TokenRequest) -> AsyncGenerator[TokenEvent]:
        """Stream one sequence from the engine that is ready now; see `EngineClient.stream`.

        Raises:
            NotReadyError: No engine is ready; raised by the call itself.
        """
        return self._ready_child().client.stream(request)

    def tune(self, policy: BatchingPolicy) -> None:
        """Have this engine, and those after it, fill their steps by this policy."""
        if policy == self._config.batching:
            return
        self._config = msgspec.structs.replace(self._config, batching=policy)
        if self._child is not None:
            self._child.client.tune(policy)

    async def wait_ready(self) -> None:
        """Wait without limit until an engine is ready.

        Raises:
            NotReadyError: The supervisor is stopped, so there will be none.
        """
        while not self.ready:
            if self._stopped:
                raise NotReadyError(f"the engine {self.status.value}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S):
                    await self._started.wait()

    def _ready_child(self) -> EngineChild:
        if self._child is None or not self.ready:
            raise NotReadyError(f"the engine {self.status.value}; try again later")
        return self._child

    async def _start_child(self, folder: Path) -> EngineChild:
        self._n_starts += 1
        config = self._config
        child = await EngineChild.start(
            config,
            folder / f"{self._n_starts}.sock",
            command=self._command,
            timeout_s=self._start_timeout_s,
        )
        if self._child is not None:
            self._counted = add_counters(self._child.client.stats, self._counted)
        self._child = child
        if config is not self._config:  # it was tuned while the engine started
            child.client.tune(self._config.batching)
        self._announce()
        return child

    def _announce(self) -> None:
        started, self._started = self._started, asyncio.Event()
        started.set()

    async def _watch(self, child: EngineChild, folder: Path) -> None:
        """Whenever the engine dies, start the next one."""
        now = asyncio.get_running_loop().time
        while True:
            ready_at = now()
            reason = await self._end_of(child)
            delay_s = self._history.record_death(now(), lived_s=now() - ready_at)
            _log.error(
                "the engine of %s died: %s; the next one starts in %.1f s",
                self._config.model,
                reason,
                delay_s,
            )
            child = await self._restart(folder, delay_s)
            _log.warning(
                "the engine of %s is ready again after %d restarts", self._config.model, self.restarts
            )

    async def _end_of(self, child: EngineChild) -> str:
        """Wait until the engine is gone, or hangs and is killed for it; return why."""
        watching = asyncio.create_task(self._hang_up_on_silence(child.client))
        try:
            return await child.wait()
        finally:
            watching.cancel()

    async def _hang_up_on_silence(self, client: EngineClient) -> None:
        silent = was_silent = False
        while not (silent and was_silent):  # if it was this process that stood still, one look would be wrong
            await asyncio.sleep(self.timeout_s * CHECK_SHARE)
            silent, was_silent = client.silence_s > self.timeout_s, silent
        await client.close(f"it did not answer for {self.timeout_s:g} s")

    async def _restart(self, folder: Path, delay_s: float) -> EngineChild:
        while True:
            await asyncio.sleep(delay_s)
            try:
                return await self._start_child(folder)
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody else would try again
                now = asyncio.get_running_loop().time()
                delay_s = self._history.record_death(now, lived_s=0.0)
                _log.error(
                    "the engine of %s could not start: %s; next attempt in %.1f s",
                    self._config.model,
                    error,
                    delay_s,
                    exc_info=not isinstance(error, StokerError),
                )


def _make_folder() -> Path:
    try:
        folder = Path(tempfile.mkdtemp(prefix="stoker-"))  # mode 0700
    except OSError as error:
        raise SettingsError(
            f"no folder can be made for the engine's socket: {error}; set TMPDIR to a folder with room"
        ) from error
    if len(os.fsencode(folder)) > MAX_SOCKET_PATH_BYTES - len("/1000000.sock"):
        folder.rmdir()
        raise SettingsError(
            f"the folder for temporary files, {folder.parent}, has too long a path for a Unix socket;"
            " set TMPDIR to a shorter one"
        )
    return folder


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
