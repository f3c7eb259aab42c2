"""Latency against throughput of every way to fill steps: ``python bench/batching.py MODEL.gguf --out FILE``.

1. Steps of many kinds (streams of several lengths, chunks of prompts, both) are measured on the engine.
2. A cost function is fitted to them; how far it is off is in the result.
3. The scheduler itself is run on a clock of its own against that function and its noise, under open-loop
   load: targets, modes and rates are swept in minutes instead of hours.
4. With `--confirm`, some points are run with the engine itself in place of the function.

With `--clock processor` a step's time is the processor time of all threads divided by their number: what
it would take if nothing else ran. So the measurement can be had on a machine that others use, too; it
leaves out what threads wait for each other. `batching_plot.py` draws the result.
"""

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from stoker import __version__
from stoker.core.batching import BatchingPolicy
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, StepPlan, StepResult
from stoker.core.tokens import TokenRequest
from stoker.core.work import StepWork
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.scheduler import Scheduler, SchedulerLimits
from stoker.testing.open_loop import Compute, Trace, poisson, run_open_loop
from stoker.testing.timed_machine import TimedMachine

CONTEXT = 2560
STEP_TOKENS = 512
MAX_RUNNING = 64
KV_BLOCKS = MAX_RUNNING * CONTEXT // BLOCK_TOKENS
VOCABULARY = 49_152
SYSTEM_PROMPTS = 4
N_SYSTEM = 256
GREEDY = SamplingParams(temperature=0.0)
SLO_TTFT_S, SLO_TOKEN_S, SLO_ITL_S = 0.5, 0.001, 0.08
"""A request is good if its first token came within the first two (for each uncached prompt token), and
95 % of the times between its tokens are within the third."""

GOODPUT_SHARE = 0.95
BETWEEN_STEPS_S = 0.0005
"""What sending tokens and taking in requests adds to a step, in the simulation."""

TARGETS_S = (0.02, 0.03, 0.05, 0.07, 0.1, 0.25)
PATIENCE_S = 0.001
CONFIRMED = {"latency 70 ms", "size 512"}


@dataclass(frozen=True)
class Contender:
    """A policy by name."""

    name: str
    policy: BatchingPolicy


def contenders() -> list[Contender]:
    """Return the policies that are compared."""
    found = [
        Contender(
            f"latency {1000 * target_s:g} ms",
            BatchingPolicy(mode="latency", itl_target_s=target_s, prompt_patience_s=PATIENCE_S),
        )
        for target_s in TARGETS_S
    ]
    at = {"mode": "latency", "itl_target_s": 0.07}
    found += [
        Contender(f"latency 70 ms, {name}", BatchingPolicy(**{**at, **change}))  # type: ignore[arg-type]
        for name, change in (
            ("order of arrival", {}),
            ("patience 2 ms", {"prompt_patience_s": 0.002}),
            ("share 0.5", {"prefill_share": 0.5, "prompt_patience_s": PATIENCE_S}),
        )
    ]
    found.append(Contender("size 512", BatchingPolicy(prompt_patience_s=PATIENCE_S)))
    for wait_s in (0.1,):
        policy = BatchingPolicy(mode="time", batch_wait_s=wait_s, prompt_patience_s=PATIENCE_S)
        found.append(Contender(f"time {1000 * wait_s:g} ms", policy))
    return found


def workload(n_requests: int, seed: int) -> list[TokenRequest]:
    """Return prompts of 64 to 2,048 tokens (log-uniform), three quarters behind a shared system prompt where
    they are long enough, with 16 to 256 tokens of output."""  # noqa: D205,D209 - one sentence
    chance = random.Random(seed)  # noqa: S311 - a workload is no secret
    systems = [tuple(chance.randrange(VOCABULARY) for _ in range(N_SYSTEM)) for _ in range(SYSTEM_PROMPTS)]
    requests = []
    for number in range(n_requests):
        n_prompt = round(64 * 32 ** chance.random())
        prompt = tuple(chance.randrange(VOCABULARY) for _ in range(n_prompt))
        if n_prompt > N_SYSTEM and chance.random() < 0.75:  # noqa: PLR2004 - said above
            prompt = systems[chance.randrange(SYSTEM_PROMPTS)] + prompt[N_SYSTEM:]
        requests.append(
            TokenRequest(
                request_id=str(number), prompt=prompt, max_tokens=chance.randint(16, 256), sampling=GREEDY
            )
        )
    return requests


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def is_good(trace: Trace) -> bool:
    """Tell whether a request met its objectives."""
    limit_s = SLO_TTFT_S + SLO_TOKEN_S * (trace.n_prompt - trace.n_cached)
    return trace.ttft_s <= limit_s and quantile(trace.gaps_s, 0.95) <= SLO_ITL_S


def summary(traces: Sequence[Trace], scheduler: Scheduler) -> dict[str, float]:
    """Return what a run came to."""
    gaps = [gap for trace in traces for gap in trace.gaps_s]
    begun = min(trace.at_s for trace in traces)
    ended = max(trace.token_times_s[-1] for trace in traces)
    stats = scheduler.stats()
    figures = {
        "good_share": sum(map(is_good, traces)) / len(traces),
        "tokens_per_s": sum(len(trace.token_times_s) for trace in traces) / (ended - begun),
        "itl_p50_s": quantile(gaps, 0.5),
        "itl_p95_s": quantile(gaps, 0.95),
        "stream_itl_p95_s": quantile([quantile(trace.gaps_s, 0.95) for trace in traces], 0.95),
        "ttft_p50_s": quantile([trace.ttft_s for trace in traces], 0.5),
        "ttft_p95_s": quantile([trace.ttft_s for trace in traces], 0.95),
        "late_share": stats.late_steps_total / max(1, stats.streaming_steps_total),
        "predicted_to_measured": stats.predicted_seconds_total / stats.interval_seconds_total,
    }
    return {name: round(value, 5) for name, value in figures.items()}


def run(
    policy: BatchingPolicy, compute: Compute, rate: float, n_requests: int, *, seed: int, between_s: float
) -> dict[str, float]:
    """Run one policy under one load."""
    limits = SchedulerLimits(
        context_length=CONTEXT,
        max_running=MAX_RUNNING,
        max_waiting=n_requests,
        max_step_tokens=STEP_TOKENS,
    )
    scheduler = Scheduler(limits, KV_BLOCKS, "bench", batching=policy)
    arrivals = poisson(rate, workload(n_requests, seed), seed=seed)
    traces = run_open_loop(scheduler, compute, arrivals, between_s=between_s)
    return summary(list(traces.values()), scheduler)


def simulated(machine: TimedMachine, seed: int) -> Compute:
    """Return a computation that takes the machine's time and samples the same token always."""
    own = replace(machine, seed=seed, now_s=0.0)

    def compute(plan: StepPlan) -> tuple[StepResult, float]:
        result = StepResult([[7] if sampled else [] for sampled in plan.samples], [[] for _ in plan.samples])
        return result, own.step_time(plan)

    return compute


def timed(engine: NativeEngine, clock: Callable[[], float]) -> Compute:
    """Return the engine's computation with its time by a clock."""

    def compute(plan: StepPlan) -> tuple[StepResult, float]:
        started = clock()
        result = engine.forward(plan)
        return result, clock() - started

    return compute


def sample_plans() -> list[list[tuple[int, int]]]:
    """Return steps to be measured, each as first position and tokens of its sequences."""
    streams = [
        [(context, 1)] * n
        for n in (1, 2, 4, 8, 16, 32, MAX_RUNNING)
        for context in (64, 512, 1500)
        if n * context < KV_BLOCKS * BLOCK_TOKENS / 2
    ]
    chunks = [[(first, n)] for first in (0, 512, 1500) for n in (16, 64, 128, 256, 512)]
    mixed = [
        [(context, 1)] * n_streams + [(first, n)]
        for n_streams in (2, 8, 24)
        for context in (200, 800)
        for first, n in ((0, 64), (0, 256), (1024, 128))
    ]
    return [*streams, *chunks, *mixed]


def step_plan(rows: Sequence[tuple[int, int]]) -> StepPlan:
    """Return a plan of these runs, each with blocks of its own."""
    tables, n_blocks = [], 0
    for first, n_tokens in rows:
        n_needed = -(-(first + n_tokens) // BLOCK_TOKENS)
        tables.append(list(range(n_blocks, n_blocks + n_needed)))
        n_blocks += n_needed
    return StepPlan(
        request_ids=[str(row) for row in range(len(rows))],
        tokens=[[(7 * first + i) % VOCABULARY for i in range(n)] for first, n in rows],
        first_positions=[first for first, _ in rows],
        block_tables=tables,
        samples=[True] * len(rows),
        sampling=[GREEDY] * len(rows),
    )


def measure(engine: NativeEngine, clock: Callable[[], float], rounds: int) -> list[dict[str, object]]:
    """Time every step in turn, `rounds` times."""
    samples: list[dict[str, object]] = []
    works: list[tuple[StepPlan, StepWork, list[float]]] = []
    for rows in sample_plans():
        work = StepWork()
        for first, n_tokens in rows:
            work.add_run(first, n_tokens, 1)
        works.append((step_plan(rows), work, []))
    compute = timed(engine, clock)
    for number in range(rounds + 1):
        for plan, _, times in works:
            _, seconds = compute(plan)
            if number:  # the first round warms up
                times.append(seconds)
    for _, work, times in works:
        samples.append({**asdict(work), "seconds": [round(seconds, 6) for seconds in times]})
    return samples


def fit(samples: Sequence[dict[str, object]]) -> tuple[TimedMachine, float]:
    """Return a machine of the samples' costs, none negative, and the largest relative error of a median."""
    rows = np.array(
        [[1, each["rows"], each["pairs"], each["reads"], each["outputs"]] for each in samples], float
    )
    medians = np.array([statistics.median(each["seconds"]) for each in samples])  # type: ignore[arg-type]
    used = list(range(rows.shape[1]))
    while True:
        costs, *_ = np.linalg.lstsq(rows[:, used] / medians[:, None], np.ones(len(medians)), rcond=None)
        if costs.min() >= 0:
            break
        used.pop(int(costs.argmin()))
    whole = np.zeros(rows.shape[1])
    whole[used] = costs
    errors = rows @ whole / medians - 1
    fixed_s, row_s, pair_s, read_s, output_s = map(float, whole)
    machine = TimedMachine(
        fixed_s=fixed_s,
        row_s=row_s,
        pair_s=pair_s,
        read_s=read_s,
        output_s=output_s,
        noise=float(np.std(errors)),
    )
    return machine, float(np.abs(errors).max())


def _costs(machine: TimedMachine) -> dict[str, float]:
    return {name: getattr(machine, name) for name in ("fixed_s", "row_s", "pair_s", "read_s", "output_s")}


def faster(machine: TimedMachine, factor: float) -> TimedMachine:
    """Return a machine that takes less for everything."""
    return replace(machine, **{name: cost / factor for name, cost in _costs(machine).items()})  # type: ignore[arg-type]


def sweep(machine: TimedMachine, rates: Sequence[float], n_requests: int) -> list[dict[str, object]]:
    """Simulate every policy at every rate."""
    cases: list[dict[str, object]] = []
    for contender in contenders():
        points = [
            {
                "rate": rate,
                **run(
                    contender.policy,
                    simulated(machine, seed=1),
                    rate,
                    n_requests,
                    seed=11,
                    between_s=BETWEEN_STEPS_S,
                ),
            }
            for rate in rates
        ]
        shares = ", ".join(f"{point['good_share']:.3f} at {point['rate']:g}/s" for point in points)
        print(f"{contender.name:>32}: {shares}", flush=True)
        cases.append({"name": contender.name, "policy": asdict(contender.policy), "points": points})
    return cases


def processor() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    """Measure, simulate, confirm, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200, help="in each simulated run")
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[0.2, 0.4, 0.7, 1.5],
        help="requests a second",
    )
    parser.add_argument(
        "--faster",
        type=float,
        nargs="+",
        default=[1.0],
        help="also simulate an engine that is so many times as fast, at as many times the rates",
    )
    parser.add_argument("--confirm", type=int, default=0, help="requests of each run with the engine")
    parser.add_argument("--confirm-rate", type=float, default=0.6)
    options = parser.parse_args()
    with open_model(options.model, "none") as source:
        settings = NativeEngineSettings(
            threads=options.threads,
            context_length=CONTEXT,
            max_running=MAX_RUNNING,
            step_tokens=STEP_TOKENS,
            kv_memory_bytes=4 << 30,
        )
        engine = load_engine(source, settings)
    threads = options.threads
    clock = time.perf_counter if options.clock == "wall" else lambda: time.process_time() / threads
    samples = measure(engine, clock, options.rounds)
    machine, worst = fit(samples)
    print(f"costs {_costs(machine)}, noise {machine.noise:.3f}, largest error {worst:.3f}", flush=True)
    report: dict[str, object] = {
        "stoker": __version__,
        "python": sys.version.split()[0],
        "processor": processor(),
        "fingerprint": engine.fingerprint,
        "clock": options.clock,
        "threads": threads,
        "objectives": {"ttft_s": SLO_TTFT_S, "ttft_s_per_token": SLO_TOKEN_S, "itl_p95_s": SLO_ITL_S},
        "requests": options.requests,
        "costs": _costs(machine),
        "noise": machine.noise,
        "largest_error": worst,
        "steps": samples,
        "simulated": [
            {
                "times_as_fast": factor,
                "cases": sweep(
                    faster(machine, factor),
                    [round(rate * factor, 3) for rate in options.rates],
                    options.requests,
                ),
            }
            for factor in options.faster
        ],
    }
    confirmed = []
    for contender in contenders() if options.confirm else []:
        if contender.name in CONFIRMED:
            n = options.confirm
            figures = run(
                contender.policy, timed(engine, clock), options.confirm_rate, n, seed=11, between_s=0.0005
            )
            likewise = run(
                contender.policy, simulated(machine, 1), options.confirm_rate, n, seed=11, between_s=0.0005
            )
            confirmed.append({"name": contender.name, "engine": figures, "simulated": likewise})
            print(contender.name, figures, flush=True)
    report["confirmed"] = {"rate": options.confirm_rate, "requests": options.confirm, "runs": confirmed}
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
