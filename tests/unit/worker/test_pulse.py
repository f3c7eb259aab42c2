"""Signs of life while engines compute."""

from dataclasses import dataclass
from threading import Event

import pytest

from stoker.worker import pulse as pulse_module
from stoker.worker.pulse import Pulse


@dataclass
class Engine:
    """Counts what it has done."""

    progress: int = 0


def grow_until(beaten: Event, engine: Engine) -> bool:
    for _ in range(500):
        engine.progress += 1
        if beaten.wait(0.01):
            return True
    return False


@pytest.mark.parametrize("busy", [0, 1], ids=["the served model", "a draft model"])
def test_either_engine_s_progress_is_a_sign_of_life(busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse_module, "PULSE_S", 0.02)
    beaten = Event()
    engines = [Engine(), Engine()]
    pulse = Pulse(engines, beaten.set)
    with pulse:
        assert grow_until(beaten, engines[busy])


def test_engines_that_do_nothing_give_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse_module, "PULSE_S", 0.01)
    beaten = Event()
    with Pulse([Engine(), Engine()], beaten.set):
        assert not beaten.wait(0.1)
