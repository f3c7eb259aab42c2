"""Starts llama.cpp's server inside this process."""

import ctypes
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from stoker.core.errors import SettingsError, UnsupportedModelError
from stoker.core.extras import LLAMACPP
from stoker.core.step import BLOCK_TOKENS
from stoker.engine.llamacpp.client import CompletionClient
from stoker.engine.llamacpp.engine import LlamaCppEngine
from stoker.engine.llamacpp.sizing import kv_block_bytes, most_kv_bytes
from stoker.engine.native.sizing import available_memory_bytes, choose_kv_blocks
from stoker.models.header import ModelHeader

MAX_SLOTS = 256
"""Most sequences that llama.cpp computes together."""

MICRO_BATCH = 512
"""Most tokens that one of its graphs computes."""

DEFAULT_CONTEXTS = 4
"""Whole contexts that the KV cache holds if no size is set: llama.cpp touches all of it at once."""

SPIN_COUNT = "20000"
"""How long a compute thread spins before it sleeps: some 50 us. libgomp's own default is 100 times that,
which a busy machine does not forgive."""

_SIGACTION_BYTES = 256
_LOG_ERRORS = 1
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppSettings:
    """How llama.cpp runs.

    Attributes:
        threads: Compute threads.
        socket_path: Where its server listens; the folder belongs to this user alone.
        kv_memory_bytes: Size of the KV cache, at most what `max_running` whole contexts need; None for
            `DEFAULT_CONTEXTS` of them, at most a share of the memory that is left.
        kv_sharers: Engines that this share is divided among, this one included.
        context_length: Most tokens of one sequence; at most what the model was made for.
        max_running: Most sequences in one step.
        step_tokens: Most tokens in one step.
    """

    threads: int
    socket_path: Path
    kv_memory_bytes: int | None = None
    kv_sharers: int = 1
    context_length: int
    max_running: int = 64
    step_tokens: int = 512


def step_bytes(*, max_running: int, vocab_size: int) -> int:
    """Memory that computing steps takes: logits of every sequence and of a micro-batch."""
    return (max_running + MICRO_BATCH) * vocab_size * _FLOAT_BYTES


def load_engine(header: ModelHeader, settings: LlamaCppSettings) -> tuple[LlamaCppEngine, str]:
    """Return an engine that has loaded the file, and the wheel's version.

    Raises:
        OutOfMemoryError: Weights or KV cache do not fit the memory that is available.
        SettingsError: The wheel is not installed, or a setting does not go with it.
        UnsupportedModelError: llama.cpp does not load the file.
    """
    if settings.max_running > MAX_SLOTS:
        raise SettingsError(
            f"max_running is {settings.max_running}; llama.cpp computes at most {MAX_SLOTS} sequences"
            " together"
        )
    wheel = _import_wheel()
    version = str(wheel.__version__)
    block_bytes = kv_block_bytes(header.architecture, header.metadata)
    kv_memory_bytes = settings.kv_memory_bytes
    if kv_memory_bytes is not None:
        most = most_kv_bytes(
            block_bytes, context_length=settings.context_length, max_running=settings.max_running
        )
        kv_memory_bytes = min(kv_memory_bytes, most)
    kv_blocks = choose_kv_blocks(
        block_bytes=block_bytes,
        weight_bytes=header.size_bytes,
        step_bytes=step_bytes(max_running=settings.max_running, vocab_size=header.vocab_size),
        available_bytes=available_memory_bytes(),
        kv_memory_bytes=kv_memory_bytes,
        kv_sharers=settings.kv_sharers,
        context_length=settings.context_length,
        max_running=min(settings.max_running, DEFAULT_CONTEXTS),
    )
    key = secrets.token_hex()
    parameters = _parameters(wheel, header.path, settings, n_cells=kv_blocks * BLOCK_TOKENS, key=key)
    try:
        with _signal_handlers_kept():
            server = wheel.Server(parameters)
    except RuntimeError as error:
        raise UnsupportedModelError(
            f"llama.cpp (xllamacpp {version}) does not load {header.path}; what it printed says why: {error}"
        ) from error
    engine = LlamaCppEngine(
        server,
        CompletionClient(settings.socket_path, key),
        fingerprint=f"llama.cpp-{version}-{header.digest[:12]}-f16",
        n_slots=settings.max_running,
        kv_blocks=kv_blocks,
        n_idle=settings.context_length,
        vocab_size=header.vocab_size,
        end_token=min(header.tokenizer.end_token_ids),
    )
    engine.begin()
    return engine, version


def _import_wheel() -> ModuleType:
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        return import_module("xllamacpp")
    except ImportError as error:
        raise SettingsError(f"the engine llamacpp needs the package xllamacpp: {LLAMACPP}") from error


def _parameters(wheel: ModuleType, path: Path, settings: LlamaCppSettings, *, n_cells: int, key: str) -> Any:
    parameters = wheel.CommonParams()
    parameters.model.path = str(path)
    # A slot that has been cleared holds one token.
    parameters.n_ctx = n_cells + settings.max_running
    parameters.n_parallel = settings.max_running
    parameters.kv_unified = True
    parameters.n_batch = settings.step_tokens
    parameters.n_ubatch = min(settings.step_tokens, MICRO_BATCH)
    for group in (parameters.cpuparams, parameters.cpuparams_batch):
        group.n_threads = settings.threads
    parameters.fit_params = False
    parameters.warmup = False
    parameters.offline = True
    # What it keeps beside its slots would take memory that nobody has counted.
    parameters.cache_ram_mib = 0
    parameters.cache_idle_slots = False
    parameters.n_ctx_checkpoints = 0
    parameters.hostnames = [str(settings.socket_path)]
    parameters.api_keys = [key]
    parameters.n_threads_http = settings.max_running + 2
    parameters.endpoint_slots = False
    parameters.ui = False
    parameters.verbosity = _LOG_ERRORS
    return parameters


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Undo what llama.cpp does to signals: it would end its server at SIGTERM, on its own.

    Python's own `signal` can be used by the main thread alone, and engines are loaded by another.
    """
    libc = ctypes.CDLL(None)
    kept = {
        number: ctypes.create_string_buffer(_SIGACTION_BYTES) for number in (signal.SIGINT, signal.SIGTERM)
    }
    for number, handler in kept.items():
        libc.sigaction(int(number), None, handler)
    try:
        yield
    finally:
        for number, handler in kept.items():
            libc.sigaction(int(number), handler, None)
