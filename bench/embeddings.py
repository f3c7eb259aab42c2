"""What embeddings cost: ``python bench/embeddings.py --out FILE``.

Steps of the native engine over prompts that are read and nothing more, that are pooled, and that get logits
for one token each, in turns. The times of a kind are compared by their medians.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from array import array
from pathlib import Path

from stoker import __version__
from stoker.config import Settings
from stoker.core.pooling import PoolRun
from stoker.core.sampling import SamplingParams
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.engine.native import NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.models.library import open_library

KINDS = ("read", "mean", "last", "sampled")


def make_plan(kind: str, n_inputs: int, n_tokens: int) -> StepPlan:
    """Return a step over whole prompts, each different."""
    n_blocks = -(-n_tokens // BLOCK_TOKENS)
    first = {"mean": 0, "last": n_tokens - 1}.get(kind)
    return StepPlan(
        request_ids=[str(index) for index in range(n_inputs)],
        tokens=[[100 + (index * 7 + at) % 9000 for at in range(n_tokens)] for index in range(n_inputs)],
        first_positions=[0] * n_inputs,
        block_tables=[list(range(index * n_blocks, (index + 1) * n_blocks)) for index in range(n_inputs)],
        samples=[kind == "sampled"] * n_inputs,
        sampling=[SamplingParams(temperature=0.0)] * n_inputs,
        pooling={} if first is None else {row: PoolRun(first, array("d")) for row in range(n_inputs)},
    )


def main() -> int:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    path = open_library(Settings()).ensure(arguments.model).path
    rows = []
    with open_model(path) as model:
        engine = load_engine(model, NativeEngineSettings(threads=arguments.threads, context_length=1024))
        for n_inputs, n_tokens in ((1, 512), (8, 64), (32, 16)):
            seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
            for at in range(arguments.rounds + 2):
                for kind in KINDS:
                    plan = make_plan(kind, n_inputs, n_tokens)
                    began = time.perf_counter()
                    engine.forward(plan)
                    if at >= 2:  # noqa: PLR2004 - rounds to warm up
                        seconds[kind].append(time.perf_counter() - began)
            medians = {kind: statistics.median(values) for kind, values in seconds.items()}
            rows.append({"inputs": n_inputs, "tokens": n_tokens, "median_s": medians, "seconds": seconds})
            sys.stdout.write(f"{n_inputs} x {n_tokens} tokens:")
            for kind, median in medians.items():
                sys.stdout.write(f"  {kind} {n_inputs * n_tokens / median:,.0f} tokens/s")
            sys.stdout.write("\n")
        engine.close()
    result = {"version": __version__, "machine": platform.machine(), "model": arguments.model, "rows": rows}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
