"""The engine loop: mail in, steps, frames out; one thread owns scheduler and engine."""

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stoker.core.abilities import Ability
from stoker.core.drafting import Drafter
from stoker.core.errors import SettingsError
from stoker.core.protocols import (
    Adaptable,
    EngineInfo,
    MovableBlocks,
    MultiStep,
    Progressing,
    StepEngine,
    Verifying,
)
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.core.work import TYPICAL_WORK, ModelWork
from stoker.grammar.compiler import GrammarCompiler
from stoker.scheduler import Scheduler, SchedulerLimits
from stoker.speculate.lookup import PromptLookup
from stoker.worker import conversion
from stoker.worker.adapters import AdapterShelf
from stoker.worker.config import EngineConfig
from stoker.worker.desk import Desk
from stoker.worker.grammars import Grammars
from stoker.worker.mailbox import Mailbox
from stoker.worker.pulse import Pulse
from stoker.worker.sessions import Sessions
from stoker.worker.tiers import BlockMover, KVFolder, blocks_per_step, make_books

if TYPE_CHECKING:
    from stoker.worker.drafters import GuessingModel


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedEngine:
    """An engine that has its weights, and what the loop must know of the model.

    Attributes:
        engine: Computes the steps.
        context_length: Most tokens of one sequence that the model was made for.
        vocab_size: Token ids are below this.
        kv_root: Names weights and KV type; sequences share KV blocks below one root only.
        kv_block_bytes: Memory of a KV block; 0 if the engine does not tell.
        kv_host_bytes: Memory for KV blocks that were evicted.
        name: What the engine is, for people.
        lacks: What it cannot do.
        work: Operations and bytes of the model.
        grammars: Compiles grammars; None if the engine lacks that.
        guesses: Which model guesses next tokens; None for none.
    """

    engine: StepEngine
    context_length: int
    vocab_size: int
    kv_root: str
    kv_block_bytes: int = 0
    kv_host_bytes: int = 0
    name: str = "the native engine"
    lacks: frozenset[Ability] = frozenset()
    work: ModelWork = TYPICAL_WORK
    grammars: GrammarCompiler | None = None
    guesses: "GuessingModel | None" = None

    @property
    def engines(self) -> list[StepEngine]:
        """The engine, and that of a draft model."""
        draft = None if self.guesses is None else self.guesses.engine
        return [self.engine] if draft is None else [self.engine, draft]

    def close(self) -> None:
        """Free threads and memory."""
        for engine in self.engines:
            engine.close()


EngineFactory = Callable[[EngineConfig], LoadedEngine]
"""Loads the engine; raises `ModelError` or `SettingsError` when that cannot work."""


class EngineLoop:
    """Runs steps as long as there are sequences, and sleeps when there are none.

    Mail is read between steps: a submission takes part in the next engine call, an abort takes
    effect at the next one. Everything is sent without ever waiting for a gateway.

    Args:
        config: Settings of this engine process.
        mailbox: What the gateways send.
        incarnation: Number of this engine process.
    """

    def __init__(self, config: EngineConfig, mailbox: Mailbox, incarnation: int) -> None:
        self._config = config
        self._mailbox = mailbox
        self._incarnation = incarnation

    def run(self, factory: EngineFactory) -> None:
        """Load the engine and serve until the mailbox is closed; ends with the engine closed.

        Raises:
            StokerError: The engine cannot be loaded, or a step failed; it must not be used again.
        """
        loaded = factory(self._config)
        try:
            info = _describe(self._config, loaded)
            n_context = -(-info.context_length // BLOCK_TOKENS)
            most_pinned = min(self._config.max_pinned_tokens // BLOCK_TOKENS, info.kv_blocks - n_context)
            limits = SchedulerLimits(
                context_length=info.context_length,
                max_running=info.max_running,
                max_waiting=info.max_waiting,
                max_waiting_tokens=self._config.max_waiting_tokens,
                max_step_tokens=self._config.step_tokens,
                max_call_steps=min(map(self._call_steps, loaded.engines)),
                max_pinned_blocks=max(0, most_pinned),
                max_restored_blocks=blocks_per_step(loaded.kv_block_bytes),
            )
            tiers = _open_tiers(self._config, loaded, self._mailbox.nudge)
            scheduler = Scheduler(
                limits,
                info.kv_blocks,
                loaded.kv_root,
                batching=self._config.batching,
                model=loaded.work,
                tiers=None if tiers is None else tiers.books,
            )
            for engine in loaded.engines:
                warm_up(engine)
            gc.collect()
            gc.freeze()  # what is alive now lives on: no collection need look at it again
            hello = conversion.hello_frame(info, incarnation=self._incarnation)
            sessions = Sessions(self._incarnation, hello)
            grammars = Grammars(loaded.grammars, self._config.grammar_timeout_s, self._mailbox.nudge)
            shelf = _open_shelf(self._config, loaded, scheduler, self._mailbox.nudge)
            try:
                desk = Desk(scheduler, sessions, info, grammars, shelf)
                drafter = _make_drafter(self._config, loaded)
                self._serve(loaded, scheduler, desk, tiers, drafter)
                if tiers is not None:
                    tiers.flush(scheduler.save_unwritten)
            finally:
                grammars.close()
                if shelf is not None:
                    shelf.close()
                if tiers is not None:
                    tiers.close()
        finally:
            loaded.close()

    def _call_steps(self, engine: StepEngine) -> int:
        """Return how many steps a call may have, and let calls of several end when mail comes."""
        if not isinstance(engine, MultiStep):
            return 1
        engine.heed(self._mailbox.flag)
        return self._config.call_steps

    def _serve(
        self,
        loaded: LoadedEngine,
        scheduler: Scheduler,
        desk: Desk,
        tiers: BlockMover | None,
        drafter: Drafter | None,
    ) -> None:
        clock, engine = time.monotonic, loaded.engine
        watched = [each for each in loaded.engines if isinstance(each, Progressing)]
        sessions, grammars = desk.sessions, desk.grammars
        busy = False
        pulse = Pulse(watched, sessions.beat) if watched else nullcontext()
        save_evicted = tiers.save_evicted if tiers is not None else _nothing
        timeout_s = None
        while (letters := self._mailbox.take(wait=not busy, timeout_s=timeout_s)) is not None:
            for letter in letters:
                desk.open(letter, clock())
            begun = desk.begin_prepared(clock())
            settled = desk.settle(clock())
            expired = scheduler.expire(clock())
            for expiry in expired:
                sessions.fail(expiry.request_id, expiry.error)
            if tiers is not None:
                tiers.note_outcomes(clock())
            plan = scheduler.schedule(clock())
            busy = plan is not None
            moved_s = 0.0 if tiers is None else _move(tiers, pulse)
            wake_at = None if busy else desk.wake_at
            timeout_s = None if wake_at is None else max(0.0, wake_at - clock())
            if letters or begun or settled or expired or not busy:
                sessions.publish(desk.stats(), clock(), idle=not busy)
            if plan is not None:
                began = clock()
                if drafter is not None:
                    with pulse:
                        scheduler.speculate(plan, drafter, save_evicted)
                drafting_s = clock() - began
                lost = grammars.write_masks(plan)
                with pulse:
                    result = engine.forward(plan)
                now = clock()
                for request_id, error in lost:
                    scheduler.abort(request_id)
                    sessions.fail(request_id, error)
                sessions.add(scheduler.commit(plan, result, now, moved_s=moved_s, drafting_s=drafting_s))
                sessions.publish(desk.stats(), now, idle=False)


def _make_drafter(config: EngineConfig, loaded: LoadedEngine) -> Drafter | None:
    """Return who guesses next tokens, or None if the engine cannot verify guesses or nobody wants any."""
    engine = loaded.engine
    if config.speculation == "off" or not isinstance(engine, Verifying):
        return None
    most = min(config.draft_tokens, engine.max_draft_tokens)
    if loaded.guesses is None:
        return PromptLookup(most)
    from stoker.worker.drafters import model_drafter  # noqa: PLC0415 - most starts have no need of it

    return model_drafter(
        loaded.guesses,
        engine,
        most,
        step_tokens=config.step_tokens,
        vocab_size=loaded.vocab_size,
        clock=time.monotonic,
    )


def _open_shelf(
    config: EngineConfig, loaded: LoadedEngine, scheduler: Scheduler, nudge: Callable[[], None]
) -> AdapterShelf | None:
    """Return who brings adapters in and out, or None if the engine or the settings have no room for any."""
    if not isinstance(loaded.engine, Adaptable) or not config.max_loras:
        return None
    return AdapterShelf(
        loaded.engine,
        most=config.max_loras,
        max_waiting=config.max_running + config.max_waiting,
        in_use=scheduler.adapters_in_use,
        nudge=nudge,
    )


def _open_tiers(config: EngineConfig, loaded: LoadedEngine, nudge: Callable[[], None]) -> BlockMover | None:
    """Return who moves KV blocks, or None if the engine's cannot be moved or the settings want no tier."""
    engine = loaded.engine
    disk = config.kv_folder is not None and config.kv_disk_bytes > 0
    if not isinstance(engine, MovableBlocks) or not (loaded.kv_host_bytes or disk):
        return None
    books = make_books(block_bytes=engine.kv_block_bytes, host_bytes=loaded.kv_host_bytes, disk=disk)
    if not books.n_slots:
        return None
    folder = None
    if config.kv_folder is not None and disk:
        folder = KVFolder(config.kv_folder, loaded.kv_root, config.kv_disk_bytes)
    return BlockMover(books, engine, folder, nudge)


def _nothing() -> None:
    """There are no tiers to save anything to."""


def _move(tiers: BlockMover, pulse: AbstractContextManager[object]) -> float:
    """Move blocks before a forward; return the seconds that copying them took."""
    if not tiers.copies:
        tiers.move()
        return 0.0
    began = time.monotonic()
    with pulse:
        tiers.move()
    return time.monotonic() - began


def warm_up(engine: StepEngine) -> None:
    """Compute a short prompt and one token after it, so that the first request finds everything ready."""
    greedy = SamplingParams(temperature=0.0)
    n_prompt = BLOCK_TOKENS - 1
    for first, n_tokens in ((0, n_prompt), (n_prompt, 1)):
        engine.forward(
            StepPlan(
                request_ids=["warm-up"],
                tokens=[[0] * n_tokens],
                first_positions=[first],
                block_tables=[[0]],
                samples=[True],
                sampling=[greedy],
            )
        )


def _describe(config: EngineConfig, loaded: LoadedEngine) -> EngineInfo:
    limit = config.context_length
    if limit is not None and limit > loaded.context_length:
        raise SettingsError(
            f"context_length is {limit}, but this model was made for {loaded.context_length} tokens;"
            " set it to that or less"
        )
    kv_blocks = loaded.engine.kv_blocks
    no_adapters = not isinstance(loaded.engine, Adaptable) or not config.max_loras
    return EngineInfo(
        model=config.model,
        fingerprint=loaded.engine.fingerprint,
        context_length=min(limit or loaded.context_length, kv_blocks * BLOCK_TOKENS),
        vocab_size=loaded.vocab_size,
        kv_blocks=kv_blocks,
        max_running=config.max_running,
        max_waiting=config.max_waiting,
        kv_block_bytes=loaded.kv_block_bytes,
        engine=loaded.name,
        lacks=loaded.lacks | {Ability.ADAPTERS} if no_adapters else loaded.lacks,
    )
