"""A model whose engine is a process of ours: file, text side and supervised engine together."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.app.adapter_folder import AdapterFolder
from stoker.app.engine_choice import choose_engine
from stoker.app.model_memory import ModelMemory, model_memory
from stoker.config import Settings
from stoker.core.batching import BatchingPolicy
from stoker.core.errors import NotReadyError, SettingsError
from stoker.core.pooling import Pooling
from stoker.core.protocols import Generator
from stoker.core.tokens import AdapterRef
from stoker.grammar.limits import GrammarLimits
from stoker.models.config import TokenizerSpec
from stoker.models.library import LocatedModel, ModelLibrary, open_library
from stoker.models.template_file import read_template
from stoker.observe.engine_metrics import EngineReport
from stoker.observe.late_logs import LogFormat
from stoker.worker.config import EngineConfig, EngineKind
from stoker.worker.pins import PinnedPrefixes
from stoker.worker.resume import ResumingEngine
from stoker.worker.supervisor import EngineSupervisor

if TYPE_CHECKING:
    from stoker.text import LocalGenerator


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model whose engine is, or soon will be, a process of ours.

    Attributes:
        located: The name that it is served under, and its file.
        context_length: Most tokens of one sequence, the settings applied.
        max_running: Most sequences that its engine computes at once.
        max_waiting: Most sequences that its engine queues behind them.
        max_prompt_bytes: Most bytes that the prompts of its requests may take.
        engine_kind: What computes it.
        tokenizer_spec: Its tokenizer as the file describes it.
        chat_template: Source of its chat template: the settings' before its own; None if there is none.
        pooling: What its embeddings are made of.
        width: Size of its hidden states; None if only its engine knows.
        supervisor: Its engine processes.
        engine: What requests run on: the processes as one engine that does not die.
        pins: Its pinned prefixes.
        need_bytes: Memory that its engine is taken to need; 0 without a memory budget.
        adapters: Where its adapters are.
    """

    located: LocatedModel
    context_length: int
    max_running: int
    max_waiting: int
    max_prompt_bytes: int
    engine_kind: EngineKind
    tokenizer_spec: TokenizerSpec
    chat_template: str | None
    pooling: Pooling
    width: int | None
    supervisor: EngineSupervisor
    engine: ResumingEngine
    pins: PinnedPrefixes
    need_bytes: int = 0
    adapters: AdapterFolder

    @property
    def created(self) -> int:
        """When its file was made or fetched, in seconds since 1970."""
        return int(self.located.path.stat().st_mtime)

    @property
    def pid(self) -> int | None:
        """Process id of its engine, or None while none is ready."""
        try:
            return self.supervisor.pid
        except NotReadyError:
            return None

    @property
    def unread(self) -> int:
        """Tokens that its clients have not read yet."""
        return self.supervisor.unread

    def readiness(self) -> str | None:
        """Return None if a request would get its first token now, otherwise why not."""
        return None if self.supervisor.ready else f"the engine {self.supervisor.status.value}"

    def fingerprint(self) -> str | None:
        """Return what names weights and kernels, or None before an engine was ready."""
        return self.supervisor.fingerprint

    def report(self) -> EngineReport:
        """Return what the metrics tell of its engine."""
        return EngineReport(
            ready=self.supervisor.ready,
            restarts=self.supervisor.restarts,
            resumed=self.engine.n_resumed,
            quarantined=self.engine.n_quarantined,
            stats=self.supervisor.stats,
        )

    def generator(self) -> "LocalGenerator":
        """Build the text side; takes a good part of a second."""
        # Its libraries are loaded while the engine starts, not before.
        from stoker.text import ChatTemplate, LocalGenerator, Tokenizer  # noqa: PLC0415

        spec = self.tokenizer_spec
        source = self.chat_template
        template = None if source is None else ChatTemplate(source, spec.special_tokens)
        return LocalGenerator(
            self.located.model_id,
            self.engine,
            Tokenizer(spec),
            template,
            self.context_length,
            pooling=self.pooling,
            width=self.width,
            patience_s=lambda: self.engine.timeout_s,
        )

    async def start(self) -> "LocalGenerator":
        """Start the engine while the text side is built, and return that when both are ready.

        Raises:
            StokerError: The engine cannot start, or the tokenizer is damaged; nothing is left running.
        """
        starting = asyncio.create_task(self.supervisor.start())
        try:
            generator = await asyncio.to_thread(self.generator)
            await starting
        except BaseException:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await self.supervisor.stop()
            raise
        return generator

    async def stop(self, *, at_once: bool = False) -> None:
        """End the engine."""
        await self.pins.close()
        await self.supervisor.stop(at_once=at_once)

    async def sleep(self) -> None:
        """End the engine; the text side and what is known of the engine stay."""
        await self.supervisor.sleep()

    async def wake(self) -> None:
        """Start an engine again.

        Raises:
            StokerError: It cannot start; the model is asleep as before.
        """
        await self.supervisor.wake()

    def read_adapter(self, path: str) -> AdapterRef:
        """Read and check an adapter, and return it as engines find it; blocks.

        Raises:
            InvalidRequestError: It cannot be read, or does not fit the model.
        """
        return self.adapters.read(path)

    def apply(self, settings: Settings) -> None:
        """Take over what of the settings can change while the engine runs."""
        self.supervisor.timeout_s = settings.engine_timeout_s
        self.supervisor.tune(batching_policy(settings))
        self.engine.timeout_s = settings.resume_timeout_s


def model_library(settings: Settings) -> ModelLibrary:
    """Return the library over the model store, the catalogues and the network of these settings."""
    return open_library(settings)


def local_model(settings: Settings, located: LocatedModel, *, kv_sharers: int = 1) -> LocalModel:
    """Read a model file's header and prepare its engine; nothing is started.

    Args:
        settings: The settings, those of this model among them.
        located: The name that it is served under, and its file.
        kv_sharers: Models that share the memory for KV caches if no size is set.

    Raises:
        ModelError: The file is missing, damaged or of a model that cannot be run.
        SettingsError: The context is longer than the model's, or the chat template cannot be read.
    """
    facts = choose_engine(settings.engine, located.path, settings.quantize)
    spec, longest = facts.tokenizer, facts.context_length
    if settings.context_length is not None and settings.context_length > longest:
        raise SettingsError(
            f"context_length is {settings.context_length}, but {located.model_id} was made for at most "
            f"{longest} tokens"
        )
    own_template = settings.chat_template
    draft_path = _draft_path(settings, facts.engine)
    memory = ModelMemory(kv_bytes=settings.kv_memory, need_bytes=0)
    if settings.memory_budget is not None:
        memory = model_memory(settings, located, facts.engine, settings.memory_budget, draft_path=draft_path)
    engine = EngineConfig(
        model_path=located.path.absolute(),
        quantize=settings.quantize,
        model=located.model_id,
        engine=facts.engine,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        max_waiting_tokens=settings.max_waiting_tokens,
        step_tokens=settings.step_tokens,
        call_steps=settings.call_steps,
        speculation=settings.speculation,
        draft_path=draft_path,
        skip_layers=settings.skip_layers,
        draft_tokens=settings.draft_tokens,
        batching=batching_policy(settings),
        context_length=settings.context_length,
        n_threads=settings.threads,
        isa=settings.isa,
        precise=settings.precise,
        kv_type=settings.kv_type,
        kv_memory_bytes=memory.kv_bytes,
        kv_sharers=kv_sharers,
        kv_host_bytes=settings.kv_host_memory,
        kv_folder=settings.kv_folder.absolute(),
        kv_disk_bytes=settings.max_kv_disk_bytes,
        max_pinned_tokens=settings.max_pinned_tokens,
        max_loras=settings.max_loras if settings.lora_dir is not None else 0,
        max_lora_rank=settings.max_lora_rank,
        max_lora_bytes=settings.max_lora_bytes,
        packs_dir=settings.packs_dir.absolute() if settings.max_packs_bytes > 0 else None,
        max_packs_bytes=settings.max_packs_bytes,
        grammar_timeout_s=settings.grammar_timeout_s,
        grammar_limits=GrammarLimits(
            symbols=settings.max_grammar_symbols,
            states=settings.max_grammar_states,
            compile_work=settings.max_grammar_compile_work,
            step_work=settings.max_grammar_step_work,
            step_items=settings.max_grammar_step_items,
            row_items=settings.max_grammar_row_items,
        ),
        log_format=log_format(settings),
    )
    supervisor = EngineSupervisor(engine, timeout_s=settings.engine_timeout_s)
    return LocalModel(
        located=located,
        context_length=settings.context_length or longest,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        max_prompt_bytes=settings.max_prompt_bytes,
        engine_kind=facts.engine,
        tokenizer_spec=spec,
        chat_template=spec.chat_template if own_template is None else read_template(own_template),
        pooling=Pooling(settings.pooling),
        width=facts.width,
        supervisor=supervisor,
        engine=ResumingEngine(supervisor, timeout_s=settings.resume_timeout_s),
        pins=PinnedPrefixes(supervisor),
        need_bytes=memory.need_bytes,
        adapters=AdapterFolder(
            model=located.model_id,
            path=located.path.absolute(),
            quantize=settings.quantize,
            engine=facts.engine,
            folder=settings.lora_dir,
            max_rank=settings.max_lora_rank,
            max_file_bytes=settings.max_lora_bytes,
        ),
    )


def _draft_path(settings: Settings, engine: EngineKind) -> Path | None:
    """Return the draft model's file or folder, which may be pulled; None if none is wanted."""
    if settings.speculation != "draft-model":
        return None
    if settings.draft_model is None:
        raise SettingsError(
            "speculation is draft-model, but draft_model is not set: name a smaller model with the same "
            "tokenizer, or set speculation to prompt-lookup"
        )
    if engine != "native":
        return None  # the engine refuses this
    return open_library(settings).ensure(settings.draft_model).path.absolute()


def batching_policy(settings: Settings) -> BatchingPolicy:
    """Return how the engine is to fill its steps."""
    return BatchingPolicy(
        mode=settings.batching,
        itl_target_s=settings.itl_target_s,
        prefill_share=settings.prefill_share,
        batch_wait_s=settings.batch_wait_s,
        prompt_patience_s=settings.prompt_patience_s,
    )


@asynccontextmanager
async def running_generator(settings: Settings, located: LocatedModel) -> AsyncGenerator[Generator]:
    """Start a model's engine without a server, and end it afterwards.

    Raises:
        StokerError: The model cannot be read, or its engine cannot start.
    """
    model = local_model(settings, located)
    generator = await model.start()
    try:
        yield generator
    finally:
        await model.stop()


def log_format(settings: Settings) -> LogFormat:
    """Return the format of log lines: ``auto`` is for people only on a terminal."""
    if settings.log_format == "auto":
        return "console" if sys.stderr.isatty() else "json"
    return settings.log_format
