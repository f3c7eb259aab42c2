"""What embeddings cost beside prompts that are read and nothing more.

    python bench/embeddings.py MODEL.gguf --out bench/results/embeddings.json

Steps of the native engine over whole prompts, as many as fit one step: read alone, pooled by mean, pooled by
the last token, and with logits for one token each. Each round times all four at each shape, in an order that
rotates. What is reported is by how much a step takes longer than one that reads, as a share of it, as the
median over the rounds with its 95 % confidence interval (bootstrap). No prompt is in the cache.
"""

import argparse
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.machine import cores, heading
from harness.results import write
from harness.spread import bootstrap_median, quartiles

from stoker.core.pooling import PoolRun
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model

KINDS = ("read", "mean", "last", "logits")
SHAPES = ((1, 512), (8, 64), (32, 16))
"""Inputs of a step, and tokens of each."""

N_WARM = 2


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the GGUF file")
    parser.add_argument("--rounds", type=int, default=15, help="after 2 untimed ones (default: 15)")
    parser.add_argument("--threads", type=int, default=cores(), help="(default: all processors)")
    parser.add_argument("--note", default="", help="put into the result, such as what else the machine did")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser.parse_args(arguments)


def make_plan(kind: str, n_inputs: int, n_tokens: int) -> StepPlan:
    """Return a step over whole prompts, each different."""
    n_blocks = -(-n_tokens // BLOCK_TOKENS)
    first = {"mean": 0, "last": n_tokens - 1}.get(kind)
    return StepPlan(
        request_ids=[str(index) for index in range(n_inputs)],
        tokens=[[100 + (index * 7 + at) % 9000 for at in range(n_tokens)] for index in range(n_inputs)],
        first_positions=[0] * n_inputs,
        block_tables=[list(range(index * n_blocks, (index + 1) * n_blocks)) for index in range(n_inputs)],
        samples=[kind == "logits"] * n_inputs,
        sampling=[SamplingParams(temperature=0.0)] * n_inputs,
        pooling={} if first is None else {row: PoolRun(first, array("d")) for row in range(n_inputs)},
    )


def timed(engine: NativeEngine, plan: StepPlan) -> float:
    """Return the seconds of a step."""
    began_s = time.perf_counter()
    engine.forward(plan)
    return time.perf_counter() - began_s


def summarize(seconds: dict[str, list[float]], n_tokens: int) -> dict[str, Any]:
    """Return a shape's times, what each kind adds to reading, and tokens a second."""
    read = seconds["read"]
    return {
        "seconds": {kind: quartiles(of_kind).to_json() for kind, of_kind in seconds.items()},
        "tokens_per_s": {
            kind: quartiles([n_tokens / each for each in of_kind]).to_json()
            for kind, of_kind in seconds.items()
        },
        "added": {
            kind: bootstrap_median([a / b - 1 for a, b in zip(seconds[kind], read, strict=True)]).to_json()
            for kind in KINDS[1:]
        },
        "samples_s": {kind: [round(each, 6) for each in of_kind] for kind, of_kind in seconds.items()},
    }


def main() -> None:
    """Time the rounds, tell what comes out, and write it."""
    options = read_arguments()
    result = heading("embeddings.py", vars(options))
    settings = NativeEngineSettings(
        threads=options.threads,
        context_length=1024,
        max_running=max(n_inputs for n_inputs, _ in SHAPES),
        step_tokens=max(n_inputs * n_tokens for n_inputs, n_tokens in SHAPES),
    )
    with open_model(options.model) as model:
        engine = load_engine(model, settings)
        result["shapes"] = {}
        for n_inputs, n_tokens in SHAPES:
            seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for turn in range(options.rounds + N_WARM):
                for kind in (*KINDS[turn % len(KINDS) :], *KINDS[: turn % len(KINDS)]):
                    took_s = timed(engine, make_plan(kind, n_inputs, n_tokens))
                    if turn >= N_WARM:
                        seconds[kind].append(took_s)
            name = f"{n_inputs}x{n_tokens}"
            found = result["shapes"][name] = summarize(seconds, n_inputs * n_tokens)
            for kind, (rate, _, _) in found["tokens_per_s"].items():
                added = f", {found['added'][kind][0]:+.1%}" if kind in found["added"] else ""
                print(f"{name} {kind}: {rate:,.0f} tokens/s{added}", flush=True)
        engine.close()
    if options.out is not None:
        write(options.out, result)


if __name__ == "__main__":
    main()
