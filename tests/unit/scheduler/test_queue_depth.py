"""What a step costs does not depend on how many requests wait: counted, not timed."""

import gc
import math
import sys
from collections.abc import Callable
from functools import total_ordering
from types import FrameType
from typing import Any

import pytest

from stoker.scheduler import Scheduler, SchedulerLimits
from stoker.scheduler.sequence import SequenceState
from stoker.scheduler.waiting import SequenceHeap
from stoker.testing.step_engine import FakeStepEngine
from stoker.testing.workloads import make_request

DEPTHS = (10, 100, 1_000, 10_000)


def count_bytecodes(action: Callable[[], object]) -> int:
    """Return how many bytecodes of Python an action takes, every turn of a loop included."""
    n_bytecodes = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal n_bytecodes
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        n_bytecodes += event == "opcode"
        return trace

    before = sys.gettrace()
    gc.disable()  # what others do when garbage is collected is no part of the action
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
        gc.enable()
    return n_bytecodes


def full_scheduler(n_waiting: int, **options: Any) -> tuple[Scheduler, FakeStepEngine]:
    limits = SchedulerLimits(context_length=1000, max_running=4, max_waiting=n_waiting)
    engine = FakeStepEngine(64)
    scheduler = Scheduler(limits, 64, root="r")
    for number in range(4):
        scheduler.submit(make_request(f"running-{number}", n_prompt=4, max_tokens=30), 0.0)
    for number in range(n_waiting):
        request = make_request(
            f"{number}", prompt=(1 + number % 7, 2), max_tokens=3, priority=-(number % 3), **options
        )
        scheduler.submit(request, 0.0)
    return scheduler, engine


def step(scheduler: Scheduler, engine: FakeStepEngine, now: float) -> int:
    """Take a step and return what it costs beside the computing."""
    n_expire = count_bytecodes(lambda: scheduler.expire(now))
    plans = []
    n_schedule = count_bytecodes(lambda: plans.append(scheduler.schedule(now)))
    (plan,) = plans
    assert plan is not None
    result = engine.forward(plan)
    n_commit = count_bytecodes(lambda: scheduler.commit(plan, result, now))
    return n_expire + n_schedule + n_commit + count_bytecodes(scheduler.stats)


def test_steps_under_a_full_queue_cost_the_same_at_every_depth() -> None:
    costs = []
    for depth in DEPTHS:
        scheduler, engine = full_scheduler(depth, queue_timeout_s=60.0, timeout_s=60.0)
        step(scheduler, engine, 0.0)
        costs.append([step(scheduler, engine, 0.001 * number) for number in range(8)])
        assert scheduler.stats().waiting == depth
    assert min(costs[0]) > 1000, "bytecodes are counted"
    assert costs[0] == costs[1] == costs[2] == costs[3]


def test_a_walk_through_the_queue_would_be_seen() -> None:
    short, long = [sequence(0)] * 10, [sequence(0)] * 1000
    short_walk = count_bytecodes(lambda: [each.table for each in short])
    long_walk = count_bytecodes(lambda: [each.table for each in long])
    assert long_walk > short_walk + 2 * 990


def test_a_full_run_costs_the_same_per_request_at_every_depth() -> None:
    shallow, deep = (cost_of_all(depth) / depth for depth in (100, 1_000))
    assert deep < 1.2 * shallow


def cost_of_all(depth: int) -> int:
    scheduler, engine = full_scheduler(depth, timeout_s=1e6)
    n_bytecodes = 0
    while scheduler.stats().running or scheduler.stats().waiting:
        n_bytecodes += step(scheduler, engine, 0.0)
    return n_bytecodes


@total_ordering
class CountedTime:
    """A time that counts how often it is compared with another."""

    n_compared = 0

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __eq__(self, other: object) -> bool:
        CountedTime.n_compared += 1
        return isinstance(other, CountedTime) and self.seconds == other.seconds

    def __lt__(self, other: "CountedTime") -> bool:
        CountedTime.n_compared += 1
        return self.seconds < other.seconds

    def __hash__(self) -> int:
        return hash(self.seconds)


def sequence(number: int) -> SequenceState:
    return SequenceState.of(make_request(str(number), prompt=(1,)), arrival=number, root="r", now=0.0)


@pytest.mark.parametrize("n", [100, 10_000])
def test_coming_going_and_being_first_take_comparisons_as_the_logarithm(n: int) -> None:
    heap = SequenceHeap()
    keys: list[Any] = [(CountedTime((number * 7919) % n), number) for number in range(n)]
    waiting = sequence(0)
    CountedTime.n_compared = 0
    for key in keys:
        heap.add(key, waiting)
    for key in keys[::2]:
        heap.discard(key)
    left: list[Any] = []
    while (first := heap.first()) is not None:
        left.append(first[0])
        heap.discard(first[0])
    assert [key[0].seconds for key in left] == sorted(key[0].seconds for key in keys[1::2])
    assert CountedTime.n_compared < 15 * n * math.log2(n)


def test_those_that_left_are_cleared_out() -> None:
    heap = SequenceHeap()
    stays = sequence(0)
    heap.add((0.0, 0), stays)
    for number in range(1, 10_000):
        heap.add((1.0, number), sequence(number))
        heap.discard((1.0, number))
    assert heap.in_order() == [stays]
    assert len(heap._keys) < 100
