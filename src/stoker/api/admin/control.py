"""What the administration routes need of whoever owns the models."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from stoker.config import ModelSettings


class ModelStatus(StrEnum):
    """What a model is doing."""

    QUEUED = "queued"
    """It waits for another one to be loaded."""

    PULLING = "pulling"
    """Its file is being fetched."""

    LOADING = "loading"
    """Its engine is starting."""

    READY = "ready"
    """A request would get its first token now."""

    UNREADY = "unready"
    """It is served, but its engine died or hangs; requests that have begun will go on."""

    FALLING_ASLEEP = "falling_asleep"
    """Its engine is ending to give its memory back; a request wakes it then."""

    SLEEPING = "sleeping"
    """Its engine has ended; a request wakes it."""

    WAKING = "waking"
    """Its engine is starting again; requests wait for it."""

    UNLOADING = "unloading"
    """It takes no requests; those that it has may end."""

    FAILED = "failed"
    """It could not be loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """One model as it is now.

    Attributes:
        name: The model id that clients send.
        model: The name or path that it was loaded by.
        status: What it is doing.
        since: When that began, in seconds since 1970; for READY and UNREADY, when it was loaded or woken.
        reason: Why it is UNREADY or FAILED.
        pulled_bytes: What has been fetched, while PULLING.
        total_bytes: What is to be fetched, if known.
        engine: What computes it, once that is known: ``native`` or ``llamacpp``.
        context_length: Most tokens of one sequence, once loaded.
        pid: Process id of its engine, while there is one.
        restarts: Engine processes started after the first one.
        in_flight: Choices that hold a place at the gateway.
        running: Sequences that its engine computes.
        waiting: Sequences queued behind them.
        kv_blocks: KV blocks in all.
        kv_blocks_used: Those that running sequences hold.
        memory_bytes: Memory that its engine process has in use, if that can be told.
    """

    name: str
    model: str
    status: ModelStatus
    since: float
    reason: str | None = None
    pulled_bytes: int | None = None
    total_bytes: int | None = None
    engine: str | None = None
    context_length: int | None = None
    pid: int | None = None
    restarts: int = 0
    in_flight: int = 0
    running: int = 0
    waiting: int = 0
    kv_blocks: int = 0
    kv_blocks_used: int = 0
    memory_bytes: int | None = None


class ModelControl(Protocol):
    """Loads and unloads models."""

    def states(self) -> list[ModelState]:
        """Return every model, in the order in which they were asked for."""

    async def load(self, model: str, overrides: ModelSettings) -> ModelState:
        """Begin to load a model, pulling it first if it is not stored, and return at once.

        Args:
            model: A name in the store or the catalogue; paths are not taken from here.
            overrides: Settings of its own, before those of the settings file.

        Raises:
            InvalidRequestError: `model` is a path, or settings contradict each other.
            ModelNotFoundError: Neither store nor catalogue has it.
            ConflictError: There is a model of this name, or there are as many as there may be.
        """

    def unload(self, name: str) -> ModelState:
        """Begin to unload a model, or forget one that failed, and return at once.

        It takes no new requests; those that it has may end within ``shutdown_timeout_s``.

        Raises:
            ModelNotFoundError: There is no model of this name.
            ConflictError: It is being unloaded already.
        """

    async def sleep(self, name: str) -> ModelState:
        """Put an idle model to sleep, and return when its memory is given back.

        Raises:
            ModelNotFoundError: There is no model of this name.
            ConflictError: It answers requests, is waking up, or is not served yet or any more.
        """

    async def wake(self, name: str) -> ModelState:
        """Wake a model, and return when it is awake.

        Raises:
            ModelNotFoundError: There is no model of this name.
            ConflictError: It is not served yet or any more.
            NotReadyError: It could not be woken, or there was no room for it in time.
        """

    def is_sleeping(self, name: str) -> bool:
        """Tell whether a model sleeps; one that is waking does not.

        Raises:
            ModelNotFoundError: There is no model of this name.
        """
