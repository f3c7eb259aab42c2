"""The loops that measure the processor, and the times of a forward's phases."""

import time

import numpy as np
import pytest

from stoker import _native
from stoker.testing.native_models import Batch, fill, make_model

MIB = 1 << 20
PHASES = ["other", "normalize", "qkv", "attention", "output", "feed_forward", "logits", "sampling"]


@pytest.mark.parametrize("isa", _native.available_isas())
@pytest.mark.parametrize("n_threads", [1, 2])
def test_every_path_has_limits(isa: str, n_threads: int) -> None:
    limits = _native.measure_limits(
        isa, n_threads=n_threads, memory_bytes=2 * MIB, cache_bytes=MIB, seconds=0.001
    )
    assert list(limits) == ["dot_ops", "fma_ops", "bf16_ops", "memory_bytes", "cache_bytes"]
    assert all(value > 1e6 for name, value in limits.items() if name != "bf16_ops")
    assert limits["bf16_ops"] >= 0


@pytest.mark.parametrize(
    ("isa", "n_threads", "memory_bytes", "cache_bytes", "seconds"),
    [
        ("sse", 1, MIB, MIB, 0.1),
        ("auto", 0, MIB, MIB, 0.1),
        ("auto", 1, MIB - 1, MIB, 0.1),
        ("auto", 1, MIB, 1 << 40, 0.1),
        ("auto", 1, MIB, MIB, 0.0),
        ("auto", 1, MIB, MIB, float("nan")),
    ],
)
def test_arguments_out_of_range_are_refused(
    isa: str, n_threads: int, memory_bytes: int, cache_bytes: int, seconds: float
) -> None:
    with pytest.raises(ValueError, match=r"must be|isa|sse"):
        _native.measure_limits(
            isa, n_threads=n_threads, memory_bytes=memory_bytes, cache_bytes=cache_bytes, seconds=seconds
        )


@pytest.fixture
def model() -> _native.Model:
    filled = make_model(n_threads=2)
    fill(filled)
    filled.finish()
    return filled


def test_phases_are_timed_only_when_asked_for(model: _native.Model) -> None:
    batch = Batch()
    untimed = batch.forward(model)
    assert list(model.phase_times) == PHASES
    assert set(model.phase_times.values()) == {(0.0, 0.0)}
    model.time_phases(on=True)
    began_s = time.perf_counter()
    assert np.array_equal(batch.forward(model), untimed)
    took_s = time.perf_counter() - began_s
    times = model.phase_times
    assert all(wall_s > 0 for wall_s, _ in times.values())
    assert sum(wall_s for wall_s, _ in times.values()) <= took_s
    assert all(0 <= idle_s <= 2 * wall_s for wall_s, idle_s in times.values())
    model.time_phases(on=False)
    batch.forward(model)
    assert set(model.phase_times.values()) == {(0.0, 0.0)}


def test_timing_begins_anew(model: _native.Model) -> None:
    model.time_phases(on=True)
    for _ in range(50):
        Batch().forward(model)
    long = sum(wall_s for wall_s, _ in model.phase_times.values())
    model.time_phases(on=True)
    assert sum(wall_s for wall_s, _ in model.phase_times.values()) == 0
    assert long > 0


def test_a_thread_that_works_alone_leaves_the_others_idle() -> None:
    """Few rows are normalized by the calling thread, so of two threads one is idle all the time."""
    alone = make_model(n_threads=2)
    fill(alone)
    alone.finish()
    alone.time_phases(on=True)
    Batch([1], [0, 1], [0], [0], [0, 1]).forward(alone)
    wall_s, idle_s = alone.phase_times["normalize"]
    assert idle_s == pytest.approx(wall_s)
