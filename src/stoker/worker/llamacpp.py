"""The engine process with llama.cpp in it."""

from stoker.core.errors import SettingsError
from stoker.engine.llamacpp import LACKS
from stoker.engine.llamacpp.loader import LlamaCppSettings, load_engine
from stoker.engine.llamacpp.sizing import kv_block_bytes
from stoker.models.header import ModelHeader
from stoker.worker.config import EngineConfig
from stoker.worker.loop import LoadedEngine
from stoker.worker.processors import available_processors


def load_llamacpp(config: EngineConfig) -> LoadedEngine:
    """Load the model file into llama.cpp; an `EngineFactory`.

    Raises:
        ModelError: The file cannot be read or run, or does not fit the memory.
        SettingsError: A setting does not go with this engine, or the wheel is not installed.
    """
    if config.precise != "auto":
        raise SettingsError(
            f"precise is {config.precise!r}, but llama.cpp's activations have 8 bits; leave it auto"
        )
    if config.isa != "auto":
        raise SettingsError(f"isa is {config.isa!r}, but llama.cpp chooses its kernels itself; leave it auto")
    if config.kv_type != "auto":
        raise SettingsError(
            f"kv_type is {config.kv_type!r}, but llama.cpp's KV cache is always f16 here; leave it auto"
        )
    if config.speculation in {"draft-model", "skip-layers"}:
        raise SettingsError(
            f"speculation is {config.speculation!r}, but llama.cpp does not guess here; set it to off"
        )
    header = ModelHeader(config.model_path)
    settings = LlamaCppSettings(
        threads=config.n_threads or available_processors(),
        socket_path=config.socket_path.with_suffix(".ll.sock"),
        kv_memory_bytes=config.kv_memory_bytes,
        kv_sharers=config.kv_sharers,
        context_length=config.context_length or header.context_length,
        max_running=config.max_running,
        step_tokens=config.step_tokens,
    )
    engine, version = load_engine(header, settings)
    return LoadedEngine(
        engine=engine,
        context_length=settings.context_length,
        vocab_size=header.vocab_size,
        kv_root=engine.fingerprint,
        kv_block_bytes=kv_block_bytes(header.architecture, header.metadata),
        name=f"llama.cpp (xllamacpp {version})",
        lacks=LACKS,
    )
