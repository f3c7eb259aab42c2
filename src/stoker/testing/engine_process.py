"""An engine process without weights: ``python -m stoker.testing.engine_process BEHAVIOUR``.

It is a real engine process in everything but the arithmetic, which is `FakeStepEngine`'s. What a
`Behaviour` adds shows how the gateway takes it.
"""

import os
import signal
import sys
import time
from enum import StrEnum

from stoker.core.errors import OutOfMemoryError
from stoker.testing.step_engine import FakeStepEngine
from stoker.worker.config import EngineConfig
from stoker.worker.loop import LoadedEngine
from stoker.worker.process import engine_main

KV_BLOCKS = 1024
CONTEXT_LENGTH = 4096

POISON = 13
"""A prompt token at which some behaviours strike."""

TOIL_S = 2.5

FORK_S = 20.0


class Behaviour(StrEnum):
    """What the engine process does beside serving."""

    SERVE = "serve"
    """Nothing."""

    REFUSE = "refuse"
    """Loading fails with `OutOfMemoryError`."""

    EXIT = "exit"
    """The process exits with status 3 while loading."""

    HANG = "hang"
    """Loading takes for ever."""

    RAISE = "raise"
    """The step that computes `POISON` raises."""

    DIE = "die"
    """The step that computes `POISON` kills the process, as a fault in native code would."""

    STALL = "stall"
    """The step that computes `POISON` takes for ever."""

    FORK = "fork"
    """The step that computes `POISON` kills the process, whose fork keeps its sockets for `FORK_S`."""

    TOIL = "toil"
    """The step that computes `POISON` takes `TOIL_S` and goes on all the time."""


def engine_command(behaviour: Behaviour) -> tuple[str, ...]:
    """Return the command that starts such a process, for `EngineSupervisor`."""
    return (sys.executable, "-P", "-m", "stoker.testing.engine_process", behaviour)


def _load(behaviour: Behaviour) -> LoadedEngine:
    match behaviour:
        case Behaviour.REFUSE:
            raise OutOfMemoryError("the model needs 9 GiB and 1 GiB is free: choose a smaller one")
        case Behaviour.EXIT:
            os._exit(3)
        case Behaviour.HANG:
            time.sleep(3600)

    def strike(*runs: list[int]) -> None:
        if any(POISON in run for run in runs):
            _strike(behaviour, engine)

    engine = FakeStepEngine(KV_BLOCKS, before_forward=lambda plan: strike(*plan.tokens), before_step=strike)
    return LoadedEngine(
        engine=engine,
        context_length=CONTEXT_LENGTH,
        vocab_size=engine.vocab_size,
        kv_root=engine.fingerprint,
    )


def _strike(behaviour: Behaviour, engine: FakeStepEngine) -> None:
    match behaviour:
        case Behaviour.RAISE:
            raise RuntimeError("the arithmetic went wrong")
        case Behaviour.DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        case Behaviour.FORK:
            if os.fork() == 0:
                time.sleep(FORK_S)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        case Behaviour.STALL:
            time.sleep(3600)
        case Behaviour.TOIL:
            _toil(engine)


def _toil(engine: FakeStepEngine) -> None:
    for _ in range(100):
        time.sleep(TOIL_S / 100)
        engine.progress += 1


if __name__ == "__main__":

    def load(_: EngineConfig) -> LoadedEngine:
        """Load the fake."""
        return _load(Behaviour(sys.argv[1]))

    engine_main(load)
