"""What a model's engine will need, known before it is started: as its loader computes it."""

from dataclasses import dataclass
from pathlib import Path

from stoker.config import Settings
from stoker.core.step import BLOCK_TOKENS
from stoker.models import open_model
from stoker.models.header import ModelHeader
from stoker.models.library import LocatedModel
from stoker.worker.config import EngineKind
from stoker.worker.processors import available_processors

PROCESS_BYTES = 150 << 20
"""An engine process beside weights, KV and buffers: interpreter, libraries, requests."""

PASSING_BYTES = 128 << 20
"""Host memory that KV blocks pass through on their way to the disk, where no other is kept."""

KV_SHARE = 0.25
"""Share of a memory budget, weights and buffers taken off, that a model's KV cache has if no size is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMemory:
    """Memory of one engine.

    Attributes:
        kv_bytes: Size of its KV cache; None for a share of what is available when it starts.
        need_bytes: All that it may come to take: weights, KV cache, host tier, buffers of steps, process.
    """

    kv_bytes: int | None
    need_bytes: int


@dataclass(frozen=True, slots=True)
class _Parts:
    weight_bytes: int
    step_bytes: int
    block_bytes: int
    context_length: int
    most_contexts: int
    has_host_tier: bool


def model_memory(
    settings: Settings,
    located: LocatedModel,
    kind: EngineKind,
    budget_bytes: int,
    *,
    draft_path: Path | None = None,
) -> ModelMemory:
    """Decide how large a model's KV cache is within a memory budget, and say what the model needs.

    A cache whose size is not set has a quarter of the budget that is left beside weights and buffers, but
    room for one context at least and for every place's context at most: it is the same at every wake.

    Args:
        settings: The settings, those of this model among them.
        located: The model's file or folder.
        kind: What computes it.
        budget_bytes: The memory budget of all models.
        draft_path: File or folder of the model that guesses for it; None for none.

    Raises:
        ModelError: The file is damaged or of a model that cannot be run.
        SettingsError: A setting does not go with this model or this processor.
    """
    parts = (
        _of_llamacpp(settings, located) if kind == "llamacpp" else _of_native(settings, located, draft_path)
    )
    kv_bytes = None if settings.kv_memory is None else int(settings.kv_memory)
    if kv_bytes is None:
        context_blocks = -(-parts.context_length // BLOCK_TOKENS)
        left_bytes = max(0, budget_bytes - parts.weight_bytes - parts.step_bytes - PROCESS_BYTES)
        share_blocks = int(left_bytes * KV_SHARE) // parts.block_bytes
        n_blocks = min(max(share_blocks, context_blocks), context_blocks * parts.most_contexts)
        kv_bytes = n_blocks * parts.block_bytes
    host_bytes = 0
    if parts.has_host_tier:
        host_bytes = kv_bytes // 2 if settings.kv_host_memory is None else int(settings.kv_host_memory)
        if host_bytes == 0 and settings.max_kv_disk_bytes:
            host_bytes = PASSING_BYTES
    need_bytes = parts.weight_bytes + parts.step_bytes + kv_bytes + host_bytes + PROCESS_BYTES
    return ModelMemory(kv_bytes=kv_bytes, need_bytes=need_bytes)


def _of_native(settings: Settings, located: LocatedModel, draft_path: Path | None) -> _Parts:
    # The library is loaded in the gateway only where there is a budget to be kept.
    from stoker.engine.native.loader import (  # noqa: PLC0415
        ModelBytes,
        NativeEngineSettings,
        check_isa,
        draft_settings,
        model_bytes,
    )

    check_isa(settings.isa)
    with open_model(located.path, settings.quantize) as source:
        engine = NativeEngineSettings(
            threads=settings.threads or available_processors(),
            isa=settings.isa,
            kv_type=settings.kv_type,
            context_length=settings.context_length or source.config.context_length,
            step_tokens=settings.step_tokens,
            max_running=settings.max_running,
            precise=settings.precise,
        )
        own, draft = model_bytes(source, engine), ModelBytes()
    if draft_path is not None:
        with open_model(draft_path, settings.quantize) as source:
            draft = model_bytes(source, draft_settings(engine, source.config.context_length))
    return _Parts(
        weight_bytes=own.weight_bytes + draft.weight_bytes,
        step_bytes=own.step_bytes + draft.step_bytes,
        block_bytes=own.block_bytes + draft.block_bytes,
        context_length=engine.context_length,
        most_contexts=settings.max_running,
        has_host_tier=True,
    )


def _of_llamacpp(settings: Settings, located: LocatedModel) -> _Parts:
    from stoker.engine.llamacpp.loader import DEFAULT_CONTEXTS, step_bytes  # noqa: PLC0415 - likewise
    from stoker.engine.llamacpp.sizing import kv_block_bytes  # noqa: PLC0415

    header = ModelHeader(located.path)
    return _Parts(
        weight_bytes=header.size_bytes,
        step_bytes=step_bytes(max_running=settings.max_running, vocab_size=header.vocab_size),
        block_bytes=kv_block_bytes(header.architecture, header.metadata),
        context_length=settings.context_length or header.context_length,
        most_contexts=min(settings.max_running, DEFAULT_CONTEXTS),
        has_host_tier=False,
    )
