"""What it costs to hold streams to grammars.

    python bench/grammars.py MODEL.gguf --out bench/results/grammars.json

The native engine decodes 16 sequences under its scheduler, as the engine process's loop does: free ones, and
ones held to a grammar, one way after the other in an order that turns round in each pair, with the same
prompts, lengths and sampling. What is reported is by how much a token of the held ones takes longer, as the
median over the pairs with its 95 % confidence interval (bootstrap), and which part of that is the masks. The
grammars do not end within the tokens that are timed.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.machine import cores, heading
from harness.results import write
from harness.spread import bootstrap_median, quartiles

from stoker.core.grammar import Grammar, GrammarKind
from stoker.core.sampling import SamplingParams
from stoker.core.tokens import TokenRequest
from stoker.scheduler import Scheduler, SchedulerLimits
from stoker.worker.config import EngineConfig
from stoker.worker.grammars import Grammars, Preparation
from stoker.worker.loop import LoadedEngine
from stoker.worker.native import load_native

N_PROMPT = 64
N_WARM = 8
"""Steps before those that are timed: prompts, and the first tokens."""

_PERSON = (
    '{"type":"object","properties":{"name":{"type":"string"},"born":{"type":"string","format":"date"},'
    '"score":{"type":"number"},"tags":{"type":"array","items":{"enum":["red","green","blue"]}}},'
    '"required":["name","born","score","tags"],"additionalProperties":false}'
)
GRAMMARS = {
    "schema": Grammar(
        GrammarKind.JSON_SCHEMA, f'{{"type":"array","items":{_PERSON},"minItems":1000}}', "guided_json"
    ),
    "any JSON": Grammar(
        GrammarKind.JSON_SCHEMA, '{"type":"array","minItems":1000,"items":{}}', "guided_json"
    ),
    "regex": Grammar(GrammarKind.REGEX, "([A-Z][a-z]{2,9} [0-9]+\\. ){1000}", "guided_regex"),
}


@dataclass(slots=True)
class Timing:
    """Seconds for a token of every sequence, and what of them the masks took."""

    token_s: float
    mask_s: float


class Bench:
    """An engine and what drives it.

    Args:
        loaded: The engine.
        n_sequences: How many run together.
        n_steps: Tokens of each that are timed.
    """

    def __init__(self, loaded: LoadedEngine, n_sequences: int, n_steps: int) -> None:
        self._engine = loaded.engine
        self._grammars = Grammars(loaded.grammars, 60.0, lambda: None)
        self._n_sequences, self._n_steps = n_sequences, n_steps
        limits = SchedulerLimits(
            context_length=loaded.context_length, max_running=n_sequences, max_call_steps=4
        )
        self._scheduler = Scheduler(limits, self._engine.kv_blocks, "bench")
        self._n_rounds = 0

    def time(self, grammar: Grammar | None) -> Timing:
        """Time one way once."""
        self._n_rounds += 1
        requests = [
            TokenRequest(
                request_id=f"{self._n_rounds}.{index}",
                prompt=tuple((100 + index * 31 + i * 7) % 30_000 for i in range(N_PROMPT)),
                max_tokens=N_WARM + self._n_steps + 16,
                sampling=SamplingParams(seed=index),
                grammar=grammar,
            )
            for index in range(self._n_sequences)
        ]
        if grammar is None:
            for request in requests:
                self._scheduler.submit(request, time.monotonic())
        else:
            for prepared in self._prepare(requests):
                self._scheduler.submit(prepared.request, time.monotonic(), prepared.constraint)
        self._run(N_WARM)
        mask_s = self._grammars.mask_seconds
        began = time.perf_counter()
        n_tokens = self._run(self._n_steps)
        seconds = time.perf_counter() - began
        for request in requests:
            self._scheduler.abort(request.request_id)
        return Timing(seconds / n_tokens, (self._grammars.mask_seconds - mask_s) / n_tokens)

    def _prepare(self, requests: Sequence[TokenRequest]) -> list[Preparation]:
        for request in requests:
            self._grammars.prepare(request, time.monotonic())
        ready: list[Preparation] = []
        while len(ready) < len(requests):
            ready += self._grammars.take_ready(time.monotonic())
            time.sleep(0.001)
        return ready

    def _run(self, n_tokens: int) -> int:
        """Run steps as the loop does until each sequence has so many tokens more; return how many it has."""
        done = 0
        while done < n_tokens:
            now = time.monotonic()
            self._scheduler.expire(now)
            plan = self._scheduler.schedule(now)
            if plan is None:
                raise RuntimeError("nothing is left to run; the grammar has ended")
            if self._grammars.write_masks(plan):
                raise RuntimeError("a grammar was lost")
            result = self._engine.forward(plan)
            events = self._scheduler.commit(plan, result, time.monotonic())
            self._grammars.count(self._scheduler.stats())
            if len(events) == self._n_sequences:
                done += len(events[0].token_ids)
        return done


def summarize(pairs: list[dict[str, Timing]], name: str) -> dict[str, Any]:
    """Return a grammar's times and what it adds, in shares of a free token."""
    free = [pair["free"].token_s for pair in pairs]
    held = [pair[name].token_s for pair in pairs]
    masks = [pair[name].mask_s for pair in pairs]
    added = [a / b - 1 for a, b in zip(held, free, strict=True)]
    return {
        "free_s": quartiles(free).to_json(),
        "held_s": quartiles(held).to_json(),
        "masks_s": quartiles(masks).to_json(),
        "added_share": bootstrap_median(added).to_json(),
        "free": free,
        "held": held,
        "masks": masks,
    }


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the GGUF file")
    scratch = Path(tempfile.gettempdir()) / "stoker-bench"
    parser.add_argument("--work", type=Path, default=scratch, help="folder for packs")
    parser.add_argument("--sequences", type=int, default=16, help="(default: 16)")
    parser.add_argument("--steps", type=int, default=64, help="tokens that are timed (default: 64)")
    parser.add_argument("--pairs", type=int, default=15, help="(default: 15)")
    parser.add_argument("--threads", type=int, default=cores(), help="(default: all processors)")
    parser.add_argument("--note", default="", help="put into the result, such as what else the machine did")
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser.parse_args(arguments)


def main() -> None:
    """Load the engine, time the pairs, write the result."""
    options = read_arguments()
    config = EngineConfig(
        model_path=options.model.absolute(),
        model="bench",
        n_threads=options.threads,
        max_running=options.sequences,
        packs_dir=options.work / "packs",
        max_packs_bytes=2**34,
    )
    result = heading("grammars", vars(options))
    loaded = load_native(config)
    bench = Bench(loaded, options.sequences, options.steps)
    ways: dict[str, Grammar | None] = {"free": None, **GRAMMARS}
    for grammar in ways.values():  # prompts are cached, grammars compiled
        bench.time(grammar)
    pairs = []
    for number in range(options.pairs):
        order = list(ways)[:: -1 if number % 2 else 1]
        pairs.append({name: bench.time(ways[name]) for name in order})
    result["grammars"] = {name: summarize(pairs, name) for name in GRAMMARS}
    for name, each in result["grammars"].items():
        median, low, high = each["added_share"]
        step_ms, masks_ms = 1e3 * each["free_s"][0], 1e3 * each["masks_s"][0]
        print(
            f"{name}: {median:+.1%} ({low:+.1%} to {high:+.1%}) of {step_ms:.2f} ms for a token of each of "
            f"{options.sequences}; masks {masks_ms:.2f} ms"
        )
    if options.out is not None:
        write(options.out, result)


if __name__ == "__main__":
    main()
