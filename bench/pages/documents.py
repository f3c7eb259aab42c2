"""The pages: the README's part, docs/benchmarks.md and the plots that both show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pages.abilities import ability_aims, ability_parts
from pages.aims import aims_table, engine_aims, overhead_aims, server_aims, shape_aims
from pages.figures import ENGINES, SERVERS, TIMES, Result, where
from pages.plots import goodput_plot, limits_of, limits_plot, shares, speed_plot
from pages.tables import (
    beside_names,
    eight_bit_table,
    engine_table,
    overhead_table,
    server_spread_table,
    server_table,
    share_table,
    spread_table,
    told,
)

BEGIN, END = "<!-- benchmarks: written by bench/report.py -->", "<!-- end of benchmarks -->"
PLOTS = "docs/benchmarks"
UNMET = Path(__file__).with_name("unmet.md")
"""Of aims that are not met: where the time goes and what comes next. To be written anew with new results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What has been measured.

    Attributes:
        engine: Of `bench/engine.py` with the default model.
        shapes: The same of larger shapes, by name.
        servers: Of `bench/servers.py`, or None.
        overhead: Of `bench/overhead.py`, or None.
        abilities: Of the benchmarks of abilities, by the names of their files.
    """

    engine: Result
    shapes: Mapping[str, Result] = field(default_factory=dict)
    servers: Result | None = None
    overhead: Result | None = None
    abilities: Mapping[str, Result] = field(default_factory=dict)


def plots(results: Results) -> dict[str, str]:
    """Return the plots by file name."""
    found = {"speed.svg": speed_plot(results.engine)}
    limits = limits_plot({"135M": results.engine, **results.shapes})
    if limits is not None:
        found["limits.svg"] = limits
    if results.servers is not None and "open" in results.servers:
        found["goodput.svg"] = goodput_plot(results.servers)
    return found


def readme_part(results: Results) -> str:
    """Return what stands between the README's markers."""
    parts = [
        BEGIN,
        told(
            f"Decode n {TIMES} c: one step of n sequences, each with c tokens of context. In brackets: how",
            f"many times as long as Stoker another engine takes. {_models(results.engine)}, medians of",
            f"{_rounds(results.engine)} on {where(results.engine)}.",
        ),
        engine_table(results.engine),
        f"![How many times as long as Stoker other engines take]({PLOTS}/speed.svg)",
    ]
    if results.servers is not None:
        parts += [
            f"Over HTTP, on {where(results.servers)}; in brackets Stoker's advantage:",
            server_table(results.servers, SERVERS),
        ]
        if "open" in results.servers:
            parts.append(f"![Requests within the service level, by load]({PLOTS}/goodput.svg)")
    parts += [
        "[All figures, settings and spreads](docs/benchmarks.md); [how they are taken](bench/README.md).",
        END,
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def benchmarks_page(results: Results) -> str:
    """Return docs/benchmarks.md."""
    engine = results.engine
    parts = [
        "# Benchmarks",
        "<!-- Written by bench/report.py from bench/results/; do not edit. -->",
        told(
            "A speed is a ratio inside one run: figures of different runs or machines must not be compared.",
            "How they are taken: [bench/README.md](../bench/README.md). Raw samples: `bench/results/`.",
        ),
        "## Engines",
        f"{_models(engine)}. Measured on {where(engine)}; {_rounds(engine)}.",
        engine_table(engine),
        "![How many times as long as Stoker other engines take](benchmarks/speed.svg)",
        *_limits(results),
        *_eight_bits(engine),
        "### Spread and settings",
        spread_table(engine),
        *_contenders(engine),
    ]
    for name, shape in results.shapes.items():
        parts += [
            f"## Llama's shape of {name}, random weights",
            f"{_models(shape)}. Measured on {where(shape)}; {_rounds(shape)}.",
            engine_table(shape),
            *([share_table(shape)] if shares(shape) else []),
            spread_table(shape),
        ]
    parts += [*_servers(results.servers), *_overhead(results.overhead)]
    parts += [*ability_parts(results.abilities), *_aims(results)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _models(result: Result) -> str:
    return f"`{result['model']['file']}` ({result['model']['type']})"


def _rounds(result: Result) -> str:
    n_rounds = result["arguments"]["rounds"]
    return f"{n_rounds} round{'s' if n_rounds > 1 else ''}"


def _limits(results: Results) -> list[str]:
    limits = limits_of(results.engine)
    if limits is None:
        return []
    isa = results.engine["limits"][0]["isa"]
    return [
        "### The processor's limits",
        told(
            f"Measured in each round: {limits['dot_ops_per_s'] / 1e9:,.0f} GOPS of dot products (`{isa}`),",
            f"{limits['read_bytes_per_s'] / 1e9:.1f} GB/s read. In prefill the share is that of the matrix",
            "products' operations, with all else that takes time counted in; in decode of one sequence it is",
            "that of the weights' and the KV's bytes as Stoker holds them.",
        ),
        share_table(results.engine),
        "![What was reached of what the processor allows](benchmarks/limits.svg)",
    ]


def _eight_bits(result: Result) -> list[str]:
    found = eight_bit_table(result)
    return [] if found is None else ["### 8-bit KV on both sides", found]


def _contenders(result: Result) -> list[str]:
    beside = set(beside_names(result))
    lines = []
    for name, each in result["contenders"].items():
        settings = ", ".join(f"{key} `{value}`" for key, value in each["settings"].items())
        told = "; reported beside the others" if name in beside else ""
        lines.append(f"- {name}: {each['engine']} {each['version']}, `{each['file']}`{told}; {settings}")
    tried = (
        f" llama.cpp's settings are the best of {len(result['sweep'])} that were tried."
        if result["sweep"]
        else ""
    )
    return [
        f"Of {' and '.join(ENGINES.values())}, what was quickest at a case stands in the first table.{tried}",
        "\n".join(lines),
    ]


def _servers(result: Result | None) -> list[str]:
    if result is None:
        return []
    slo = result["slo"]
    parts = [
        "## Servers over HTTP",
        f"{_models(result)}. Measured on {where(result)}; {_rounds(result)}.",
        server_table(result, SERVERS),
        server_spread_table(result),
    ]
    if "open" in result:
        parts += [
            told(
                f"A request is in time if its first text comes within {slo['ttft_s']} s and",
                f"{1e3 * slo['ttft_per_token_s']:g} ms for each prompt token that no earlier one brought,",
                f"and the p95 of the times between its texts is at most {1e3 * slo['itl_s']:g} ms. Requests",
                "arrive at random times (Poisson), with prompts of 64 to 2,048 tokens, most of them short,",
                "half of them behind one of four shared system prompts, and answers of 16 to 256.",
            ),
            "![Requests within the service level, by load](benchmarks/goodput.svg)",
        ]
    lines = [
        f"- {name}: {each['version']}, ready after {each['ready_s']:.1f} s; `{' '.join(each['arguments'])}`"
        f"{'; ' + each['note'] if each['note'] else ''}"
        for name, each in result["servers"].items()
    ]
    return [*parts, "\n".join(lines)]


def _overhead(result: Result | None) -> list[str]:
    if result is None:
        return []
    memory = result["memory"]
    return [
        "## What Python adds to a step",
        f"Paired, with 95 % confidence intervals. Measured on {where(result)}.",
        overhead_table(result),
        told(
            f"Memory of gateway and engine beside weights and KV: {memory['beside_bytes'] / 1e6:,.0f} MB,",
            f"with {memory['weight_bytes'] / 1e6:,.0f} MB of weights and",
            f"{memory['kv_bytes_resident'] / 1e6:,.0f} MB of KV blocks in memory.",
        ),
    ]


def _aims(results: Results) -> list[str]:
    aims = [*engine_aims(results.engine)]
    for name, shape in results.shapes.items():
        aims += shape_aims(name, shape)
    if results.servers is not None:
        aims += server_aims(results.servers)
    if results.overhead is not None:
        aims += overhead_aims(results.overhead)
    aims += ability_aims(results.abilities)
    return ["## What is aimed at", aims_table(aims), UNMET.read_text(encoding="utf-8")]
