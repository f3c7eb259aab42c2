"""Streams hold their target despite noise, drift and disturbances, simulated on a clock of their own."""

import random
from dataclasses import replace

import pytest

from stoker.core.batching import BatchingPolicy
from stoker.core.step import StepPlan, StepResult
from stoker.scheduler import Scheduler, SchedulerLimits
from stoker.testing.open_loop import Trace, poisson, run_open_loop
from stoker.testing.timed_machine import TimedMachine
from stoker.testing.workloads import make_request

TARGET_S = 0.05
TOLERANCE = 1.1
N_REQUESTS = 120
RATE = 0.6


def slower_after_a_minute(now_s: float) -> float:
    return 1.0 if now_s < 60 else 1.6


MACHINES = {
    "steady": TimedMachine(),
    "noise": TimedMachine(noise=0.2),
    "spikes": TimedMachine(noise=0.05, spike_share=0.03),
    "drift": TimedMachine(noise=0.05, slowness=lambda now_s: 1.0 + min(1.0, now_s / 300)),
    "step": TimedMachine(noise=0.05, slowness=slower_after_a_minute),
    "costly attention": TimedMachine(noise=0.1, row_s=2e-4, pair_s=5e-7, read_s=1e-6),
    "costly weights": TimedMachine(noise=0.1, fixed_s=1.2e-2, row_s=1e-4),
}


def simulate(machine: TimedMachine, batching: BatchingPolicy, *, rate: float = RATE) -> list[Trace]:
    chance = random.Random(5)
    requests = [
        make_request(
            str(number),
            prompt=[chance.randrange(50_000) for _ in range(chance.randint(64, 2048))],
            max_tokens=chance.randint(16, 256),
        )
        for number in range(N_REQUESTS)
    ]
    limits = SchedulerLimits(context_length=4096, max_waiting=N_REQUESTS)
    scheduler = Scheduler(limits, 20_000, "r", batching=batching)

    def compute(plan: StepPlan) -> tuple[StepResult, float]:
        result = StepResult([[7] if sampled else [] for sampled in plan.samples], [[] for _ in plan.samples])
        return result, machine.step_time(plan)

    traces = run_open_loop(scheduler, compute, poisson(rate, requests, seed=3))
    assert all(trace.ended for trace in traces.values())
    return list(traces.values())


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * len(values))]


@pytest.mark.parametrize("name", MACHINES)
def test_the_target_is_held_and_what_it_allows_is_used(name: str) -> None:
    traces = simulate(replace(MACHINES[name]), BatchingPolicy(mode="latency", itl_target_s=TARGET_S))
    filled = simulate(replace(MACHINES[name]), BatchingPolicy(mode="size"))
    # 95 % of the streams have 95 % of their own tokens in time.
    assert p95([p95(trace.gaps_s) for trace in traces]) <= TOLERANCE * TARGET_S
    assert p95([p95(trace.gaps_s) for trace in filled]) > 1.5 * TARGET_S
    # A small budget for everything would hold the target, too, and let prompts wait for ever.
    assert p95([trace.ttft_s for trace in traces]) < 1.5 * p95([trace.ttft_s for trace in filled]) + 1.0


def test_a_higher_target_brings_first_tokens_sooner() -> None:
    waits = [
        sum(
            trace.ttft_s
            for trace in simulate(
                TimedMachine(noise=0.1), BatchingPolicy(mode="latency", itl_target_s=target_s)
            )
        )
        for target_s in (0.02, 0.06, 0.2)
    ]
    assert waits[0] > waits[1] > waits[2]
