"""What speculation is worth, and that it never costs.

    python bench/speculation.py MODEL.gguf --out bench/results/speculation.json

Two servers, one with ``--speculation off``, answer the same requests in pairs, one after the other, in an
order that turns round each time; the one that waits is stopped. Texts are Python's documentation. ``quoting``
gives a passage and the beginning of its repetition, and the model goes on with it, as an editor or a summary
would; ``writing`` gives the passage alone and samples at temperature 1, which repeats little. Prompts are
cached before, so that what is timed is the answers.

The figure is a server's tokens per second over all streams, from the first token to the last; the ratio is
the median over the pairs with its 95 % confidence interval (bootstrap).
"""

import argparse
import asyncio
import pydoc_data.topics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from harness.machine import cores, heading
from harness.results import write
from harness.server import Server
from harness.servers import stoker_server
from harness.spread import bootstrap_median, quartiles
from harness.streams import stream_all

from stoker.models import open_model
from stoker.testing.server_process import metric_totals
from stoker.text import Tokenizer

PASSAGE = 200
BEGINNING = 24
"""Tokens of the repetition that the prompt has already."""

ANSWER = 128
WIDTHS = (1, 4, 16, 32)
KINDS = ("quoting", "writing")
PLAIN, SPECULATING = "plain", "speculating"


@dataclass(frozen=True, slots=True)
class Load:
    """So many streams of one kind."""

    kind: str
    prompts: list[list[int]]

    @property
    def name(self) -> str:
        """In the result."""
        return f"{self.kind}, {len(self.prompts)}"


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the GGUF file")
    scratch = Path(tempfile.gettempdir()) / "stoker-bench"
    parser.add_argument("--work", type=Path, default=scratch, help="folder for packs and logs")
    parser.add_argument("--pairs", type=int, default=9, help="(default: 9)")
    parser.add_argument("--threads", type=int, default=cores(), help="(default: all processors)")
    parser.add_argument("--note", default="", help="put into the result, such as what else the machine did")
    parser.add_argument("--out", type=Path, help="write the result here")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def make_loads(tokens: list[int], begin: list[int], widths: Sequence[int] = WIDTHS) -> list[Load]:
    """Return loads over passages of a text, each stream's its own."""
    distance = len(tokens) // (max(widths) * len(KINDS))
    if distance < PASSAGE:
        sys.exit(f"the text has {len(tokens)} tokens, too few for passages of {PASSAGE}")
    loads = []
    for number, kind in enumerate(KINDS):
        first = number * max(widths) * distance
        passages = [tokens[first + i * distance :][:PASSAGE] for i in range(max(widths))]
        prompts = [begin + each + (each[:BEGINNING] if kind == "quoting" else []) for each in passages]
        loads += [Load(kind, prompts[:width]) for width in widths]
    return loads


def rate(server: Server, model: str, load: Load, n_tokens: int = ANSWER) -> float:
    """Let a server answer and return its tokens per second, from the first token to the last."""
    temperature = 0.0 if load.kind == "quoting" else 1.0
    server.go_on()
    arrivals = asyncio.run(
        stream_all(server.url, model, load.prompts, n_tokens, temperature=temperature, seed=7)
    )
    server.stop()
    times = sorted((at_s, n) for stream in arrivals for at_s, n in stream)
    if len(times) < 2:  # noqa: PLR2004 - two make a time
        return 0.0
    return sum(n for _, n in times[1:]) / max(1e-9, times[-1][0] - times[0][0])


def acceptance(server: Server) -> tuple[float, float]:
    """Return how many tokens have been drafted, and how many of them were right."""
    server.go_on()
    totals = metric_totals(server.get("/metrics")[1])
    server.stop()
    return totals["stoker_engine_drafted_tokens_total"], totals["stoker_engine_accepted_tokens_total"]


def measure(servers: dict[str, Server], model: str, load: Load, pairs: int) -> dict[str, Any]:
    """Time the pairs of a load."""
    for server in servers.values():
        rate(server, model, load, 1)
        rate(server, model, load)
    rates: dict[str, list[float]] = {way: [] for way in servers}
    drafted, accepted = acceptance(servers[SPECULATING])
    for number in range(pairs):
        for way in list(servers)[:: -1 if number % 2 else 1]:
            rates[way].append(rate(servers[way], model, load))
    after = acceptance(servers[SPECULATING])
    ratios = [fast / plain for fast, plain in zip(rates[SPECULATING], rates[PLAIN], strict=True)]
    n_drafted = after[0] - drafted
    return {
        "tokens_per_s": {way: quartiles(found).to_json() for way, found in rates.items()},
        "ratio": bootstrap_median(ratios).to_json(),
        "drafted_tokens": n_drafted,
        "acceptance": round((after[1] - accepted) / n_drafted, 4) if n_drafted else None,
        "samples": rates,
    }


def documentation_loads(model: Path, widths: Sequence[int] = WIDTHS) -> list[Load]:
    """Return loads over Python's documentation in a model's tokens."""
    with open_model(model) as source:
        spec = source.tokenizer
    text = "\n\n".join(each for _, each in sorted(pydoc_data.topics.topics.items()))
    begin = [spec.bos_token_id] if spec.add_bos and spec.bos_token_id is not None else []
    return make_loads(Tokenizer(spec).encode(text), begin, widths)


@contextmanager
def pair(
    model: Path, settings: Sequence[str], *, threads: int, work: Path
) -> Iterator[tuple[dict[str, Server], str]]:
    """Start a server without drafts and one with these settings, both stopped.

    Yields:
        The servers, and their model's id.
    """
    with ExitStack() as stack:
        servers = {}
        for way, more in ((PLAIN, ("--speculation", "off")), (SPECULATING, settings)):
            entry = replace(stoker_server(model.resolve(), threads, *more), name=f"stoker {way}")
            servers[way] = stack.enter_context(Server(entry, work))
            name = orjson.loads(servers[way].get("/v1/models")[1])["data"][0]["id"]
            servers[way].stop()
        try:
            yield servers, name
        finally:  # who is stopped cannot be told to end
            for server in servers.values():
                server.go_on()


def show(name: str, found: dict[str, Any]) -> None:
    """Print what a load gave."""
    rates = found["tokens_per_s"]
    print(
        f"{name}: {rates[PLAIN][0]:.0f} -> {rates[SPECULATING][0]:.0f} tok/s, {found['ratio'][0]:.3f} "
        f"({found['ratio'][1]:.3f} to {found['ratio'][2]:.3f}), acceptance {found['acceptance']}",
        flush=True,
    )


def main() -> None:
    """Start both servers, time the loads in pairs, write the result."""
    options = read_arguments()
    result = heading("speculation", vars(options))
    result["threads"] = options.threads
    result["loads"] = {}
    loads = documentation_loads(options.model)
    with pair(options.model, (), threads=options.threads, work=options.work) as (servers, model):
        for load in loads:
            found = result["loads"][load.name] = measure(servers, model, load, options.pairs)
            show(load.name, found)
            if options.out:
                write(options.out, result)


if __name__ == "__main__":
    main()
