"""The engine process with the native engine in it."""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from stoker.engine.native import NativeEngineSettings, load_engine
from stoker.engine.native.sizing import available_memory_bytes, choose_host_bytes
from stoker.engine.native.work import model_work
from stoker.grammar.compiler import GrammarCompiler
from stoker.models import open_model
from stoker.models.adapters import AdapterLimits
from stoker.models.packs import PackFolder
from stoker.worker.config import EngineConfig
from stoker.worker.loop import LoadedEngine
from stoker.worker.processors import available_processors

if TYPE_CHECKING:
    from stoker.grammar.vocabulary import Vocabulary


def load_native(config: EngineConfig) -> LoadedEngine:
    """Load the model file, and that of a draft model, into the native engine; an `EngineFactory`.

    Raises:
        ModelError: A file cannot be read or run, or does not fit the memory.
        SettingsError: A setting does not go with this model or this processor.
    """
    packs = None if config.packs_dir is None else PackFolder(config.packs_dir, config.max_packs_bytes)
    with ExitStack() as files:
        source = files.enter_context(open_model(config.model_path, config.quantize))
        model = source.config
        settings = NativeEngineSettings(
            threads=config.n_threads or available_processors(),
            isa=config.isa,
            kv_type=config.kv_type,
            kv_memory_bytes=config.kv_memory_bytes,
            kv_sharers=config.kv_sharers,
            context_length=config.context_length or model.context_length,
            max_running=config.max_running,
            step_tokens=config.step_tokens,
            precise=config.precise,
            max_adapters=config.max_loras,
            adapter_limits=AdapterLimits(max_rank=config.max_lora_rank, max_file_bytes=config.max_lora_bytes),
        )
        work = model_work(model, source.tensors.values(), settings.chosen_kv_type())
        guesses = None
        if config.speculation == "draft-model" and config.draft_path is not None:
            from stoker.worker.native_drafts import load_with_draft  # noqa: PLC0415 - few starts need it

            draft = files.enter_context(open_model(config.draft_path, config.quantize))
            engine, guesses = load_with_draft(source, draft, settings, packs)
        else:
            if config.speculation == "skip-layers":
                from stoker.worker.native_drafts import without_layers  # noqa: PLC0415 - likewise

                guesses = without_layers(config.skip_layers, model, settings.context_length)
            engine = load_engine(source, settings, packs)
    return LoadedEngine(
        engine=engine,
        context_length=settings.context_length,
        vocab_size=model.vocab_size,
        kv_root=engine.kv_root,
        kv_block_bytes=engine.kv_block_bytes,
        kv_host_bytes=choose_host_bytes(
            kv_bytes=engine.kv_blocks * engine.kv_block_bytes,
            available_bytes=available_memory_bytes(),
            host_bytes=config.kv_host_bytes,
        ),
        work=work,
        grammars=GrammarCompiler(lambda: _vocabulary(config, model.vocab_size), config.grammar_limits),
        guesses=guesses,
    )


def _vocabulary(config: EngineConfig, vocab_size: int) -> "Vocabulary":
    from stoker.grammar.vocabulary import Vocabulary  # noqa: PLC0415 - only the first grammar needs it

    with open_model(config.model_path, config.quantize) as source:
        return Vocabulary.of(source.tokenizer, vocab_size)
