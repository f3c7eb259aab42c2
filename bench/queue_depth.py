"""What a step of the scheduler costs while many requests wait: ``python bench/queue_depth.py --out FILE``.

The engine computes nothing here: what is timed is planning a step and taking in its result, with every
running place taken by a decode and a queue of the given depth behind them, each with a priority and two time
limits.
"""

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from pathlib import Path

from stoker import __version__
from stoker.core.step import StepPlan, StepResult
from stoker.core.tokens import TokenRequest
from stoker.scheduler import Scheduler, SchedulerLimits

N_RUNNING = 64
N_PROMPT = 64
N_WARM_UP = 200
KV_BLOCKS = 64_000
CONTEXT_LENGTH = 100_000
STEP_S = 0.005
"""What a step takes by the clock that the scheduler is told."""


def full_scheduler(depth: int, n_steps: int) -> Scheduler:
    """Return a scheduler whose running sequences outlast the measurement, and `depth` that wait."""
    limits = SchedulerLimits(
        context_length=CONTEXT_LENGTH, max_running=N_RUNNING, max_waiting=depth, max_step_tokens=8192
    )
    scheduler = Scheduler(limits, KV_BLOCKS, "bench")
    for number in range(N_RUNNING + depth):
        runs = number < N_RUNNING
        scheduler.submit(
            TokenRequest(
                request_id=str(number),
                prompt=tuple((number * N_PROMPT + position) % 49_152 for position in range(N_PROMPT)),
                max_tokens=n_steps if runs else 16,
                priority=1 if runs else -(number % 8),
                queue_timeout_s=None if runs else 600.0 + number % 13,
                timeout_s=3600.0,
            ),
            0.0,
        )
    return scheduler


def step(scheduler: Scheduler, now: float) -> float:
    """Take one step and return the seconds that the scheduler took for it."""
    started = time.perf_counter()
    scheduler.expire(now)
    plan = scheduler.schedule(now)
    planned = time.perf_counter() - started
    if plan is None:
        raise RuntimeError("nothing runs")
    result = answer(plan)
    started = time.perf_counter()
    scheduler.commit(plan, result, now + STEP_S)
    scheduler.stats()
    return planned + time.perf_counter() - started


def answer(plan: StepPlan) -> StepResult:
    """Return what an engine might have computed."""
    return StepResult(
        token_ids=[[7] if sampled else [] for sampled in plan.samples], logprobs=[[] for _ in plan.samples]
    )


def measure(depth: int, n_steps: int) -> dict[str, object]:
    """Time `n_steps` steps behind a queue of `depth`."""
    scheduler = full_scheduler(depth, N_WARM_UP + n_steps + 2)
    for number in range(N_WARM_UP):
        step(scheduler, number * STEP_S)
    gc.collect()
    gc.freeze()
    samples_us = [1e6 * step(scheduler, (N_WARM_UP + number) * STEP_S) for number in range(n_steps)]
    gc.unfreeze()
    if scheduler.stats().waiting != depth:
        raise RuntimeError(f"{scheduler.stats().waiting} wait, not {depth}")
    return {
        "waiting": depth,
        "median_us": round(statistics.median(samples_us), 1),
        "p99_us": round(statistics.quantiles(samples_us, n=100)[98], 1),
        "samples_us": [round(sample, 1) for sample in samples_us],
    }


def processor() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    """Measure every depth, print a table and write the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    cases = [measure(depth, options.steps) for depth in options.depths]
    for case in cases:
        print(f"{case['waiting']:>7} waiting: {case['median_us']:>7} us a step, p99 {case['p99_us']} us")
    report = {
        "stoker": __version__,
        "python": sys.version.split()[0],
        "processor": processor(),
        "running": N_RUNNING,
        "prompt_tokens": N_PROMPT,
        "cases": cases,
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
