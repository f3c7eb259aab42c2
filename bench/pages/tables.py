"""The tables, in Markdown, and the paragraphs between them."""

from collections.abc import Iterable, Sequence
from typing import Any

from pages.figures import (
    ENGINES,
    NOTHING,
    OURS,
    TIMES,
    Figure,
    Result,
    best,
    engines_of,
    figure,
    is_beside,
    speed,
    spoken,
    three_digits,
    times,
)
from pages.plots import shares

SCENARIOS = {
    "16 clients": "16 clients, prompts of 480 tokens, answers of 96",
    "32 clients": "32 clients, prompts of 480 tokens, answers of 96",
    "one prefix": "64 requests over one prefix of 1,450 tokens, 8 at a time",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def told(*words: str) -> str:
    """Return a paragraph."""
    return " ".join(words)


def engine_table(result: Result) -> str:
    """Return the engines' table for people in a hurry: medians, and peers' times by ours."""
    engines = engines_of(result)

    def row(case: str) -> list[str]:
        ours = figure(result, case, OURS)
        peers = [best(result, case, engine) for engine in engines]
        return [
            spoken(case).capitalize(),
            f"**{speed(case, ours.seconds[0])}**",
            *(
                f"{speed(case, each.seconds[0])} ({times(_ratio(each))})" if each else NOTHING
                for each in peers
            ),
        ]

    return table(["", "Stoker", *(ENGINES[engine] for engine in engines)], map(row, result["summary_s"]))


def spread_table(result: Result) -> str:
    """Return every contender at every case: median, quartiles, ratio with its spread."""

    def rows() -> Iterable[list[str]]:
        for case, of_case in result["summary_s"].items():
            for name in of_case:
                each = figure(result, case, name)
                median, low, high = (1e3 * seconds for seconds in each.seconds)
                yield [
                    spoken(case),
                    name,
                    speed(case, each.seconds[0]),
                    f"{three_digits(median)} ({three_digits(low)} to {three_digits(high)})",
                    _spread(each),
                    _options(result, name, case),
                ]

    head = [
        "case",
        "contender",
        "speed",
        "ms: median (quartiles)",
        "its time by ours (least to greatest)",
        "set to",
    ]
    return table(head, rows())


def eight_bit_table(result: Result) -> str | None:
    """Return Stoker with 8-bit KV beside OpenVINO, whose KV has 8 bits too; None if it was not measured."""
    name = "openvino by 8-bit KV"
    rows = [
        [
            spoken(case),
            speed(case, figure(result, case, "stoker 8-bit KV").seconds[0]),
            speed(case, figure(result, case, "openvino").seconds[0]),
            "{:.2f} ({:.2f} to {:.2f})".format(*ratios[name]),
        ]
        for case, ratios in result["ratios"].items()
        if name in ratios
    ]
    return table(["case", "Stoker", ENGINES["openvino"], "its time by ours"], rows) if rows else None


def beside_names(result: Result) -> list[str]:
    """Return the contenders that are reported beside the others."""
    return [name for name in result["contenders"] if is_beside(name)]


def share_table(result: Result) -> str:
    """Return what was reached of the processor's limits."""
    found = shares(result)
    head = ["case", "Stoker", *(ENGINES[engine] for engine in engines_of(result))]

    def row(case: str, of_case: dict[str, float]) -> list[str]:
        names = [OURS, *engines_of(result)]
        return [spoken(case), *(f"{of_case[name]:.0%}" if name in of_case else NOTHING for name in names)]

    return table(head, (row(case, of_case) for case, of_case in found.items()))


def best_server(result: Result, scenario: str, prefix: str) -> str | None:
    """Return which of a server's variants did best in a scenario."""
    figures = result["closed_summary"][scenario]
    names = [name for name in figures if name.startswith(prefix)]
    return max(names, key=lambda name: figures[name]["tokens_per_s"][0], default=None)


def server_table(result: Result, servers: dict[str, str]) -> str:
    """Return the servers' table for people in a hurry."""
    present = [prefix for prefix in servers if any(name.startswith(prefix) for name in result["servers"])]

    def rows() -> Iterable[list[str]]:
        for scenario, figures in result["closed_summary"].items():
            cells = [f"**{_scenario_figure(scenario, figures[OURS])}**"]
            for prefix in present:
                name = best_server(result, scenario, prefix)
                by = figures[name]["stoker_by_this"][0] if name else 0.0
                cells.append(
                    f"{_scenario_figure(scenario, figures[name])} ({times(by)})" if name else NOTHING
                )
            yield [SCENARIOS[scenario], *cells]
        if "open" in result:
            yield ["Highest rate with 95 % of requests in time", *_rates(result, present)]

    return table(["", "Stoker", *(servers[prefix] for prefix in present)], rows())


def _rates(result: Result, present: Sequence[str]) -> Iterable[str]:
    found = result["open"]["servers"]
    ours = found[OURS]["highest_rate"]
    yield f"**{ours:.2f} requests/s**" if ours else "**none**"
    for prefix in present:
        rate = next((each["highest_rate"] for name, each in found.items() if name.startswith(prefix)), None)
        by = f" ({times(ours / rate)})" if ours and rate else ""
        yield f"{rate:.2f} requests/s{by}" if rate else "none"


def _scenario_figure(scenario: str, figures: dict[str, Any]) -> str:
    if "clients" in scenario:
        return f"{figures['tokens_per_s'][0]:,.0f} tok/s"
    return f"{figures['duration_s'][0]:.1f} s"


def server_spread_table(result: Result) -> str:
    """Return every server in every closed loop."""

    def rows() -> Iterable[list[str]]:
        for scenario, of_scenario in result["closed_summary"].items():
            for name, figures in of_scenario.items():
                low, high = figures["tokens_per_s"][1:]
                by = figures["stoker_by_this"]
                yield [
                    scenario,
                    name,
                    f"{figures['tokens_per_s'][0]:,.0f} ({low:,.0f} to {high:,.0f})",
                    f"{by[0]:.2f} ({by[1]:.2f} to {by[2]:.2f})",
                    f"{figures['duration_s'][0]:.1f}" if "duration_s" in figures else NOTHING,
                    f"{figures['ttft_p50_s'][0]:.2f}" if figures.get("ttft_p50_s") else NOTHING,
                    str(figures.get("failed", NOTHING)),
                ]

    head = [
        "scenario",
        "server",
        "tok/s (quartiles)",
        "Stoker's by this",
        "s in all",
        "TTFT p50, s",
        "failed",
    ]
    return table(head, rows())


def overhead_table(result: Result) -> str:
    """Return what scheduler and server add to a step."""

    def rows() -> Iterable[list[str]]:
        for width, of_width in result["widths"].items():
            sequences, _, context = width.partition("x")
            added = of_width["added_share"]
            yield [
                f"{sequences} {TIMES} {int(context):,}",
                f"{three_digits(1e3 * of_width['step_s']['engine'][0])} ms",
                *(f"{m:+.1%} ({low:+.1%} to {high:+.1%})" for m, low, high in added.values()),
                f"{three_digits(1e6 * of_width['step_s']['clients'][0])} µs",
            ]

    return table(["sequences", "engine alone", "with scheduler", "with server", "clients' own"], rows())


def _ratio(each: Figure) -> float:
    return each.ratio[0] if each.ratio else 1.0


def _spread(each: Figure) -> str:
    if each.ratio is None:
        return NOTHING
    median, low, high = each.ratio
    return f"{median:.2f} ({low:.2f} to {high:.2f})"


def _options(result: Result, name: str, case: str) -> str:
    options = result["contenders"][name]["options"].get(case, {})
    return ", ".join(f"{key} {value}" for key, value in options.items()) or NOTHING
