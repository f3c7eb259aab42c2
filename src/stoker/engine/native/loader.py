"""Loads an opened model file into the native library."""

from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from stoker import __version__, _native
from stoker.core.errors import OutOfMemoryError, SettingsError
from stoker.engine.native.adapters import AdapterSlots
from stoker.engine.native.engine import NativeEngine
from stoker.engine.native.packing import ModelPack, load_weights
from stoker.engine.native.precision import AUTO, apply_precise, choose_precise, short_digest
from stoker.engine.native.shape import native_shape
from stoker.engine.native.sizing import (
    available_memory_bytes,
    choose_kv_blocks,
    kv_block_bytes,
    packed_bytes,
    scratch_bytes,
)
from stoker.models.adapters import AdapterLimits
from stoker.models.config import ModelConfig, WeightSource
from stoker.models.packs import PackFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBytes:
    """Memory of a model.

    Attributes:
        weight_bytes: Packed weights.
        step_bytes: Buffers of a step.
        block_bytes: A KV block.
    """

    weight_bytes: int = 0
    step_bytes: int = 0
    block_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeEngineSettings:
    """How the native engine runs.

    Attributes:
        threads: Compute threads.
        isa: Instruction-set path, or ``auto`` for the fastest that this processor has.
        kv_type: How keys and values are held: ``f16``, ``bf16`` or ``q8``; ``auto`` for what the
            instruction-set path is fastest with, or fp32 on the float path.
        kv_memory_bytes: Size of the KV cache; None for a share of the memory that is left.
        kv_sharers: Engines that this share is divided among.
        kv_blocks: Exactly so many KV blocks, whatever the memory; None for as many as it has room for.
        companion: Memory of a model that is loaded beside it, with as many KV blocks; None for none.
        context_length: Most tokens of one sequence; at most what the model was made for.
        max_running: Most sequences in one step.
        step_tokens: Most tokens in one step.
        float_path: Compute in fp32 (weights, activations, and KV unless its type is given); slow, for
            checking.
        max_adapters: Most adapters in memory; 0 for none.
        adapter_limits: What each of them may have.
        precise: Matrices whose activations have 16 bits; see `stoker.engine.native.precision`.
    """

    threads: int
    isa: str = "auto"
    kv_type: str = "auto"
    kv_memory_bytes: int | None = None
    kv_sharers: int = 1
    kv_blocks: int | None = None
    companion: ModelBytes | None = None
    context_length: int
    max_running: int = 64
    step_tokens: int = 512
    float_path: bool = False
    max_adapters: int = 0
    adapter_limits: AdapterLimits = field(default_factory=AdapterLimits)
    precise: str = AUTO

    def chosen_kv_type(self) -> str:
        """Return the KV type, also where it is ``auto``."""
        if self.kv_type != "auto":
            return self.kv_type
        return "f32" if self.float_path else _native.fastest_kv_type(self.isa)


def check_isa(isa: str) -> None:
    """Refuse an instruction-set path that this processor has not.

    Raises:
        SettingsError: It has not.
    """
    if isa not in ("auto", *_native.available_isas()):
        raise SettingsError(
            f"isa is {isa!r}; this processor can run {', '.join(_native.available_isas())} (or auto)"
        )


def load_engine(
    source: WeightSource, settings: NativeEngineSettings, packs: PackFolder | None = None
) -> NativeEngine:
    """Map a model's pack, or repack its weights; and reserve its KV cache.

    The file may be closed afterwards.

    Args:
        source: The model file.
        settings: How the engine runs.
        packs: Where its pack is, or shall be; None to hold the weights in memory of this process's own.

    Raises:
        CorruptFileError: A tensor's contents cannot be used.
        OutOfMemoryError: Weights or KV cache do not fit the memory that is available.
        SettingsError: The instruction-set path is unknown here, the context is too long, or the model
            has not the matrices that are to be precise.
    """
    config = source.config
    check_isa(settings.isa)
    if settings.context_length > config.context_length:
        raise SettingsError(
            f"context_length is {settings.context_length}, but the model was made for"
            f" {config.context_length} tokens"
        )
    precise = choose_precise(settings.precise, config)
    weight_bytes = packed_bytes(list(source.tensors.values()), float_path=settings.float_path)
    available_bytes = available_memory_bytes()
    pack = None
    # A model that cannot fit is refused before its file is read.
    if packs is not None and weight_bytes < available_bytes:
        pack = ModelPack(packs, source, float_path=settings.float_path, n_threads=settings.threads)
        available_bytes = max(0, available_bytes - pack.others_bytes())
    companion = settings.companion or ModelBytes()
    kv_blocks = settings.kv_blocks or choose_kv_blocks(
        block_bytes=kv_block_bytes(config, settings.chosen_kv_type()) + companion.block_bytes,
        weight_bytes=weight_bytes + companion.weight_bytes,
        step_bytes=_step_bytes(config, settings) + companion.step_bytes,
        available_bytes=available_bytes,
        kv_memory_bytes=settings.kv_memory_bytes,
        kv_sharers=settings.kv_sharers,
        context_length=settings.context_length,
        max_running=settings.max_running,
    )
    try:
        model = _native.Model(
            native_shape(config, settings.context_length),
            isa=settings.isa,
            n_threads=settings.threads,
            kv_blocks=kv_blocks,
            max_step_tokens=settings.step_tokens,
            max_step_seqs=settings.max_running,
            float_path=settings.float_path,
            kv_type=settings.kv_type,
        )
        apply_precise(model, config, precise)
        load_weights(model, source, pack)
    except MemoryError as error:
        raise OutOfMemoryError("the system refused the memory for weights and KV cache") from error
    # Of all that is set, only these change what a model answers to a prompt that fits either way.
    stretched = "-long" if any(each.is_long(settings.context_length) for each in config.rotaries) else ""
    chosen = "" if precise == choose_precise(AUTO, config) else f"-{short_digest(precise)}"
    fingerprint = f"stoker-{__version__}-{source.digest[:12]}{stretched}{chosen}-{model.kv_type}-{model.isa}"
    # KV blocks outlive the process: they are those of the very weights and KV type, and of the code that
    # computed them and laid them out.
    kv_root = f"{fingerprint}-{source.digest}-{_code_digest()}-{model.kv_block_bytes}"
    adapters = None
    if settings.max_adapters:
        adapters = AdapterSlots(
            config, settings.adapter_limits, n_slots=settings.max_adapters, float_path=settings.float_path
        )
    return NativeEngine(model, fingerprint, kv_root=kv_root, adapters=adapters)


def draft_settings(settings: NativeEngineSettings, context_length: int) -> NativeEngineSettings:
    """Return how a draft model runs beside a model of these settings.

    Args:
        settings: The model's.
        context_length: Most tokens that the draft model was made for.
    """
    return replace(
        settings,
        context_length=min(settings.context_length, context_length),
        precise=AUTO,
        max_adapters=0,
    )


def model_bytes(source: WeightSource, settings: NativeEngineSettings) -> ModelBytes:
    """Return the memory that a model takes that is loaded with these settings."""
    return ModelBytes(
        weight_bytes=packed_bytes(list(source.tensors.values()), float_path=settings.float_path),
        step_bytes=_step_bytes(source.config, settings),
        block_bytes=kv_block_bytes(source.config, settings.chosen_kv_type()),
    )


def _step_bytes(config: ModelConfig, settings: NativeEngineSettings) -> int:
    return scratch_bytes(
        config,
        step_tokens=settings.step_tokens,
        max_running=settings.max_running,
        precise=choose_precise(settings.precise, config),
        threads=settings.threads,
    )


def _code_digest() -> str:
    """Return what names the compiled library: another build may round, or lay out KV, otherwise."""
    return blake2b(Path(_native.__file__).read_bytes(), digest_size=16).hexdigest()
