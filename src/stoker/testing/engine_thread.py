"""An engine process's sockets and loop in threads of this process, for tests of its protocol."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from stoker.core.abilities import Ability
from stoker.core.protocols import StepEngine
from stoker.core.step import StepPlan
from stoker.grammar.compiler import GrammarCompiler
from stoker.testing.step_engine import DEFAULT_VOCAB_SIZE, FakeStepEngine
from stoker.worker.config import EngineConfig
from stoker.worker.loop import EngineLoop, LoadedEngine
from stoker.worker.peer import MAX_UNREAD_BYTES
from stoker.worker.server import Server

INCARNATION = 7
KV_BLOCK_BYTES = 1000


class EngineThread:
    """Serves a `StepEngine` on a Unix socket while the context lasts.

    Args:
        socket_path: Where to listen.
        engine: Computes the steps; closed at the end.
        config: Settings; the socket's path in them is not read.
        vocab_size: Token ids are below this.
        max_unread_bytes: As `Server`'s.
        lacks: What the engine cannot do.
        grammars: Compiles grammars; None where there are none.
    """

    def __init__(
        self,
        socket_path: Path,
        engine: StepEngine,
        *,
        config: EngineConfig | None = None,
        vocab_size: int = DEFAULT_VOCAB_SIZE,
        max_unread_bytes: int = MAX_UNREAD_BYTES,
        lacks: frozenset[Ability] = frozenset(),
        grammars: GrammarCompiler | None = None,
    ) -> None:
        self._loaded = LoadedEngine(
            engine=engine,
            context_length=4096,
            vocab_size=vocab_size,
            kv_root=engine.fingerprint,
            kv_block_bytes=KV_BLOCK_BYTES,
            lacks=lacks,
            grammars=grammars,
        )
        config = config or EngineConfig(model_path=Path("fake"), model="fake")
        self._stop = Event()
        self._server = Server(socket_path, INCARNATION, max_unread_bytes=max_unread_bytes)
        loop = EngineLoop(config, self._server.mailbox, INCARNATION)
        self._threads = (
            Thread(target=self._server.run, args=(self._stop.is_set,)),
            Thread(target=loop.run, args=(lambda _: self._loaded,)),
        )

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    @property
    def n_letters(self) -> int:
        """How many letters the engine has not read."""
        return len(self._server.mailbox)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.mailbox.close()
        self._stop.set()
        self._server.wake()
        for thread in self._threads:
            thread.join()
        self._server.close()


class Gate:
    """Holds an engine before its first step until it is opened.

    Attributes:
        reached: Set as soon as the engine waits.
        n_letters: Returns how many letters have come meanwhile, which are read before the next step.
    """

    def __init__(self) -> None:
        self._open = Event()
        self.reached = Event()
        self.n_letters: Callable[[], int] = lambda: 0

    def __call__(self, plan: StepPlan) -> None:
        """Wait, unless this is the engine's own warm-up."""
        if plan.request_ids != ["warm-up"]:
            self.reached.set()
            self._open.wait(20)

    def open(self) -> None:
        """Let this step and all further ones through."""
        self._open.set()


@contextmanager
def gated_engine(socket_path: Path, config: EngineConfig | None = None) -> Iterator[Gate]:
    """Serve a fake engine behind a gate, which is opened at the end at the latest."""
    gate = Gate()
    with EngineThread(socket_path, FakeStepEngine(512, before_forward=gate), config=config) as engine:
        gate.n_letters = lambda: engine.n_letters
        try:
            yield gate
        finally:
            gate.open()
