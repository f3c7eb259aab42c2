"""What adapters cost a decode step: 16 sequences with 16 adapters of rank 16, beside the same without.

    python bench/lora.py MODEL.gguf --out bench/results/lora.json

One engine has all the adapters, random ones, in memory. Each pair times a step without any adapter and one in
which every sequence has another one, in an order that turns round each time. What is reported is by how much
the second takes longer, as a share of the first, as the median over the pairs with its 95 % confidence
interval (bootstrap).

Then the same sequences, without adapters, while others are loaded: 20 of all linear layers, one after the
other, are read in a thread and placed between two steps, as the engine process does. What is reported is the
time from one token of a sequence to its next, beside the same while nothing is loaded, and how long a load
takes.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import orjson
from harness.machine import cores, heading
from harness.results import write
from harness.spread import bootstrap_median, quartiles

from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.core.tokens import AdapterRef
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.models.adapters import AdapterLimits
from stoker.models.adapters.reading import adapter_digest
from stoker.models.config import ModelConfig
from stoker.testing.adapters import (
    ALL,
    ATTENTION,
    adapter_weights,
    bottleneck_weights,
    write_adapter,
    write_bottlenecks,
)

MODULES = {"q, k, v, o": ATTENTION, "all linear layers": ALL, "bottlenecks": ()}
"""Low-rank adapters of these, and of none: bottlenecks of the rank's size behind both halves of layers."""


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the GGUF file")
    parser.add_argument("--pairs", type=int, default=60, help="(default: 60)")
    parser.add_argument("--sequences", type=int, default=16, help="each with its own adapter (default: 16)")
    parser.add_argument("--context", type=int, default=128, help="tokens of each (default: 128)")
    parser.add_argument("--rank", type=int, default=16, help="(default: 16)")
    parser.add_argument("--loads", type=int, default=20, help="adapters loaded beside steps (default: 20)")
    parser.add_argument("--threads", type=int, default=cores(), help="(default: all processors)")
    parser.add_argument("--note", default="", help="put into the result, such as what else the machine did")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser.parse_args(arguments)


def place(engine: NativeEngine, config: ModelConfig, folder: Path, options: argparse.Namespace) -> list[str]:
    """Bring as many adapters as there are sequences into memory and return their digests."""
    digests = []
    for name, modules in MODULES.items():
        for seed in range(options.sequences):
            path = folder / f"{len(modules)}-{seed}"
            if modules:
                weights = adapter_weights(config, rank=options.rank, modules=modules, seed=seed, strength=0.1)
                write_adapter(path, weights, rank=options.rank, dtype="BF16")
            else:
                weights = bottleneck_weights(config, size=options.rank, seed=seed)
                write_bottlenecks(path, weights, dtype="BF16", scaling=0.1)
            digest = adapter_digest(path, AdapterLimits(max_rank=options.rank))
            engine.place_adapter(digest, engine.read_adapter(AdapterRef(str(path), digest)))
            digests.append(digest)
        print(f"{options.sequences} adapters of {name}", flush=True)
    return digests


def step_of(options: argparse.Namespace, digests: Sequence[str]) -> StepPlan:
    """Return a step in which every sequence has one token, and its adapter if there are any."""
    n, per_table = options.sequences, options.context // BLOCK_TOKENS + 1
    return StepPlan(
        request_ids=[str(row) for row in range(n)],
        tokens=[[100 + row] for row in range(n)],
        first_positions=[options.context] * n,
        block_tables=[list(range(row * per_table, (row + 1) * per_table)) for row in range(n)],
        samples=[True] * n,
        sampling=[SamplingParams(temperature=0.0)] * n,
        adapters=dict(enumerate(digests)),
    )


def timed(engine: NativeEngine, plan: StepPlan) -> float:
    """Return the milliseconds of a step."""
    began = time.perf_counter()
    engine.forward(plan)
    return (time.perf_counter() - began) * 1e3


def gaps(engine: NativeEngine, plan: StepPlan, done: Callable[[], bool]) -> list[float]:
    """Return the milliseconds from step to step, until told to end; one at least."""
    found: list[float] = []
    before = time.perf_counter()
    while not (found and done()):
        engine.forward(plan)
        now = time.perf_counter()
        found.append((now - before) * 1e3)
        before = now
    return found


def described(samples: Sequence[float]) -> dict[str, object]:
    """Return what the result says of gaps."""
    in_order = sorted(samples)
    return {
        "median_ms": quartiles(samples).to_json(),
        "p99_ms": round(in_order[int(0.99 * (len(in_order) - 1))], 4),
        "most_ms": round(in_order[-1], 4),
        "steps": len(in_order),
    }


def while_loading(
    engine: NativeEngine, config: ModelConfig, folder: Path, options: argparse.Namespace
) -> dict[str, object]:
    """Time steps without and with adapters that are loaded beside them."""
    limits = AdapterLimits(max_rank=options.rank)
    refs = []
    for seed in range(options.loads):
        weights = adapter_weights(config, rank=options.rank, seed=1000 + seed, strength=0.1)
        path = write_adapter(folder / f"loaded-{seed}", weights, rank=options.rank, dtype="BF16")
        refs.append(AdapterRef(str(path), adapter_digest(path, limits)))
    plan = step_of(options, ())
    counted = count(1)
    quiet = gaps(engine, plan, lambda: next(counted) == 5 * options.pairs)
    loading: list[float] = []
    loads: list[float] = []
    with ThreadPoolExecutor(1) as reader:
        for ref in refs:
            began = time.perf_counter()
            reading = reader.submit(engine.read_adapter, ref)
            loading += gaps(engine, plan, reading.done)
            placing = time.perf_counter()
            engine.place_adapter(ref.digest, reading.result())
            engine.drop_adapter(ref.digest)
            ended = time.perf_counter()
            loading[-1] += (ended - placing) * 1e3
            loads.append((ended - began) * 1e3)
    return {
        "alone": described(quiet),
        "while loading": described(loading),
        "load_ms": quartiles(loads).to_json(),
    }


def main() -> None:
    """Time the pairs, tell what comes out, and write it."""
    options = read_arguments()
    with open_model(options.model) as model, tempfile.TemporaryDirectory() as scratch:
        settings = NativeEngineSettings(
            threads=options.threads,
            context_length=options.context + BLOCK_TOKENS,
            max_running=options.sequences,
            step_tokens=256,
            max_adapters=len(MODULES) * options.sequences + 1,
            adapter_limits=AdapterLimits(max_rank=options.rank),
        )
        engine = load_engine(model, settings)
        digests = place(engine, model.config, Path(scratch), options)
        loading = while_loading(engine, model.config, Path(scratch), options)
        print("loads", orjson.dumps(loading).decode(), flush=True)
    plain = step_of(options, ())
    cases: dict[str, object] = {}
    for index, name in enumerate(MODULES):
        first = index * options.sequences
        adapted = step_of(options, digests[first : first + options.sequences])
        pairs = []
        for turn in range(options.pairs + 5):
            order = (plain, adapted) if turn % 2 else (adapted, plain)
            times = {id(plan): timed(engine, plan) for plan in order}
            pairs.append((times[id(plain)], times[id(adapted)]))
        pairs = pairs[5:]
        added = [after / before - 1 for before, after in pairs]
        cases[name] = {
            "plain_ms": quartiles([before for before, _ in pairs]).to_json(),
            "adapted_ms": quartiles([after for _, after in pairs]).to_json(),
            "added": bootstrap_median(added).to_json(),
        }
        print(name, orjson.dumps(cases[name]).decode(), flush=True)
    if options.out is not None:
        write(options.out, {**heading("lora.py", vars(options)), "cases": cases, "loading": loading})


if __name__ == "__main__":
    main()
