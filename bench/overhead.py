"""What scheduler, worker and gateway add to a step, and what they keep in memory.

    python bench/overhead.py MODEL.gguf --out bench/results/overhead.json

Three ways of the same steps are timed in pairs, one after the other, in an order that turns round each time:
the engine alone in a loop, with plans made before; the engine under the scheduler, in one process; and a real
server, whose gateway streams every sequence to a client over HTTP. What is reported is by how much a step of
the second and third takes longer than one of the first, as a share of it, as the median over the pairs with
its 95 % confidence interval (bootstrap). What the clients take for themselves on the same processors is part
of the third, and told beside it.

Memory is that of gateway and engine under the widest load, less the weights (the pack) and the KV blocks that
were written.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from harness.contender import Case, Contender, Entry
from harness.machine import cores, heading
from harness.memory import family, largest_private_mapping, resident_bytes
from harness.results import write
from harness.server import Server
from harness.servers import stoker_server
from harness.spread import bootstrap_median, quartiles
from harness.streams import Step, steady_step, stream_all

from stoker.testing.server_process import metric_totals

WARM_S = 0.2
SPARE_STEPS = 24
"""Tokens of a stream beside those that are timed: the first ones, while others begin, are not."""


@dataclass(frozen=True, slots=True)
class Width:
    """So many sequences of so many tokens each, and how many steps are timed in each pair."""

    sequences: int
    context: int
    steps: int


WIDTHS = (Width(1, 128, 112), Width(32, 512, 48))


def token_ids(sequence: int, n_tokens: int) -> list[int]:
    """Return a synthetic prompt, different for every sequence."""
    return [(100 + sequence * 31 + i * 7) % 30_000 for i in range(n_tokens)]


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the GGUF file")
    scratch = Path(tempfile.gettempdir()) / "stoker-bench"
    parser.add_argument("--work", type=Path, default=scratch, help="folder for packs and logs")
    parser.add_argument("--pairs", type=int, default=15, help="(default: 15)")
    parser.add_argument("--kv-memory", default="640MiB", help="of the server (default: 640MiB)")
    parser.add_argument("--threads", type=int, default=cores(), help="(default: all processors)")
    parser.add_argument("--note", default="", help="put into the result, such as what else the machine did")
    parser.add_argument("--out", type=Path, help="write the result here")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    return options


class Ways:
    """The three ways of one width.

    Args:
        engine: A `stoker_scheduler.py`.
        server: A running server.
        model: Name that it knows the model by.
        width: What is computed.
    """

    def __init__(self, engine: Contender, server: Server, model: str, width: Width) -> None:
        self._engine = engine
        self._server = server
        self._model = model
        self._width = width
        self._prompts = [token_ids(sequence, width.context) for sequence in range(width.sequences)]

    def prepare(self) -> None:
        """Have every prompt computed and cached, so that streams of the pairs begin together."""
        self._server.go_on()
        asyncio.run(stream_all(self._server.url, self._model, self._prompts, 1))
        self._server.stop()
        for way in ("engine", "scheduler"):
            self._in_process(way)

    def pair(self, number: int) -> dict[str, float]:
        """Time each way once; returns seconds of a step by way, and the clients' own."""
        found: dict[str, float] = {}
        for way in ("engine", "scheduler", "server")[:: -1 if number % 2 else 1]:
            if way == "server":
                step = self._over_http()
                found["server"], found["clients"] = step.seconds, step.client_cpu_s
            else:
                found[way] = self._in_process(way)
        return found

    def _in_process(self, way: str) -> float:
        case: Case = ("decode", self._width.sequences, self._width.context)
        options = {"through": way}
        times = self._engine.time(case, repeats=0, steps=self._width.steps, warm_s=WARM_S, options=options)
        return sum(times) / len(times)

    def _over_http(self) -> Step:
        self._server.go_on()
        before_s = time.process_time()
        n_tokens = self._width.steps + SPARE_STEPS
        arrivals = asyncio.run(stream_all(self._server.url, self._model, self._prompts, n_tokens))
        step = steady_step(arrivals, time.process_time() - before_s)
        self._server.stop()
        return step


def summarize(pairs: list[dict[str, float]]) -> dict[str, Any]:
    """Return steps' times and what two of the ways add, in shares of the engine's own step."""
    times = {way: quartiles([pair[way] for pair in pairs]).to_json() for way in pairs[0]}
    added = {
        way: bootstrap_median([pair[way] / pair["engine"] - 1 for pair in pairs]).to_json()
        for way in ("scheduler", "server")
    }
    return {"step_s": times, "added_share": added, "pairs": pairs}


def memory_of(server: Server, model: Path, packs: Path) -> dict[str, Any]:
    """Return what gateway and engine keep, and what of it is neither weights nor KV blocks.

    Blocks stay resident when what was in them is given up.
    """
    totals = metric_totals(server.get("/metrics")[1])
    gateway, *engines = family(server.pid)
    sizes = {"gateway": resident_bytes(gateway)} | {
        f"engine {i + 1}": resident_bytes(pid) for i, pid in enumerate(engines)
    }
    weights = sum(pack.stat().st_size for pack in packs.glob("*.pack"))
    written = totals["stoker_engine_kv_bytes_used"] + totals["stoker_engine_kv_bytes_cached"]
    reserved = totals["stoker_engine_kv_bytes"]
    kv_blocks = min(reserved, sum(largest_private_mapping(pid) for pid in engines))
    resident = sum(size["rss"] for size in sizes.values())
    return {
        "file_bytes": model.stat().st_size,
        "processes": sizes,
        "weight_bytes": weights,
        "kv_bytes_written": written,
        "kv_bytes_resident": kv_blocks,
        "kv_bytes_reserved": reserved,
        "beside_bytes": resident - weights - kv_blocks,
    }


def print_table(result: dict[str, Any]) -> None:
    """Print what is added."""
    for name, of_width in result["widths"].items():
        step_ms = 1e3 * of_width["step_s"]["engine"][0]
        for way, (median, low, high) in of_width["added_share"].items():
            print(f"{name}: a step of {step_ms:.2f} ms, {way} {median:+.1%} ({low:+.1%} to {high:+.1%})")
    print(f"memory beside weights and KV: {result['memory']['beside_bytes'] / 1e6:.0f} MB")


def main() -> None:
    """Start engine and server, time the pairs, look at the memory, write the result."""
    options = read_arguments()
    result = heading("overhead", vars(options))
    result["threads"] = options.threads
    cases: tuple[Case, ...] = tuple(("decode", width.sequences, width.context) for width in WIDTHS)
    entry = Entry(
        name="stoker",
        python=Path(sys.executable),
        script="stoker_scheduler.py",
        model=options.model,
        cases=cases,
        process={"packs": str(options.work / "packs")},
    )
    serving = stoker_server(options.model.resolve(), options.threads, "--kv-memory", options.kv_memory)
    widths: dict[str, Any] = {}
    with ExitStack() as stack:
        server = stack.enter_context(Server(serving, options.work))
        name = orjson.loads(server.get("/v1/models")[1])["data"][0]["id"]
        server.stop()
        engine = stack.enter_context(Contender(entry, options.threads))
        for width in WIDTHS:
            ways = Ways(engine, server, name, width)
            ways.prepare()
            pairs = [ways.pair(number) for number in range(options.pairs)]
            widths[f"{width.sequences}x{width.context}"] = summarize(pairs)
        server.go_on()
        result["memory"] = memory_of(server, options.model, server.home / "packs")
    result["widths"] = widths
    print_table(result)
    if options.out is not None:
        write(options.out, result)


if __name__ == "__main__":
    main()
