"""Prints what `stoker bench` has measured."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

MAX_CALM_SHARE = 0.25
"""Share of a core from which on the load generator is said to disturb what it measures."""

MAX_CALM_LATE_S = 0.02
"""Lateness (p99) from which on the load is said to be another than was asked for."""

_FRESH_SHARE = 0.05
"""Share of prompt tokens that a server may have cached beyond what the run itself had brought."""


def print_report(result: dict[str, Any]) -> None:
    """Print one table for the session, on standard output."""
    target, trials = result["target"], result["trials"]
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 200
    workload = result["workload"]
    shared = (
        f", {workload['shared_share']:.0%} of them with one of {workload['n_shared']} beginnings of "
        f"{workload['shared_tokens']} tokens"
        if workload["shared_share"]
        else ""
    )
    lines = [
        f"{target['url']}, {target['model']}, {target['api']}, seed {workload['seed']}",
        f"prompts of {workload['prompt']} tokens{shared}; answers of {workload['output']}",
    ]
    with console.capture() as printed:
        console.print(_table(trials))
    lines += [line.rstrip() for line in printed.get().splitlines()]
    lines += _verdict(result)
    lines += _notes(result)
    sys.stdout.write("\n".join(lines) + "\n")


def _table(trials: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("")
    for trial in trials:
        name = f"{trial['clients']} clients" if trial["rate"] is None else f"{trial['rate']:.3g}/s"
        table.add_column(name, justify="right")
    for title, cell in _ROWS:
        cells = [cell(trial["summary"]) for trial in trials]
        if any(cells):
            table.add_row(title, *cells)
    return table


def _ms(name: str, of: str) -> Any:
    def cell(summary: dict[str, Any]) -> str:
        spread = summary[name]
        return "" if spread is None else f"{1e3 * spread[of]:,.1f} ms"

    return cell


def _tokens(name: str) -> Any:
    def cell(summary: dict[str, Any]) -> str:
        spread = summary[name]
        return "" if spread is None else f"{spread['mean']:,.1f}"

    return cell


_ROWS: tuple[tuple[str, Any], ...] = (
    ("complete answers", lambda s: f"{s['n_complete']:,} of {s['n_planned']:,}"),
    ("duration", lambda s: f"{s['duration_s']:,.2f} s"),
    ("output tokens/s", lambda s: f"{s['output_tokens_per_s']:,.1f}"),
    ("input tokens/s", lambda s: f"{s['input_tokens_per_s']:,.1f}"),
    ("requests/s", lambda s: f"{s['requests_per_s']:,.3f}"),
    ("meet the SLO", lambda s: f"{s['share_met']:.1%}"),
    ("goodput, requests/s", lambda s: f"{s['goodput_per_s']:,.3f}"),
    ("TTFT p50", _ms("ttft_s", "p50")),
    ("TTFT p95", _ms("ttft_s", "p95")),
    ("TTFT p99", _ms("ttft_s", "p99")),
    ("inter-token p50", _ms("gap_s", "p50")),
    ("inter-token p95", _ms("gap_s", "p95")),
    ("inter-token p99", _ms("gap_s", "p99")),
    ("time per token, mean", _ms("tpot_s", "mean")),
    ("end to end p50", _ms("e2e_s", "p50")),
    ("end to end p95", _ms("e2e_s", "p95")),
    ("prompt tokens, mean", _tokens("prompt_tokens")),
    ("cached by the server", lambda s: "" if s["cached_tokens"] is None else f"{s['cached_tokens']:,}"),
    ("output tokens, mean", _tokens("output_tokens")),
    (
        "tokens per arrival",
        lambda s: "" if s["tokens_per_arrival"] is None else f"{s['tokens_per_arrival']:.2f}",
    ),
    ("sent late p99", _ms("late_s", "p99")),
    ("load generator", lambda s: f"{s['client_cpu_share']:.1%} of a core"),
    ("errors", lambda s: ", ".join(f"{n} {kind}" for kind, n in s["errors"].items())),
)


def _verdict(result: dict[str, Any]) -> list[str]:
    search = result.get("search")
    if search is None:
        return []
    share = f"{search['share']:.0%} of the requests meet the SLO"
    if search["highest_rate"] is None:
        return [f"at no rate that was tried {share}"]
    bound = (
        "the search ended before a rate was too high"
        if search["lowest_refused_rate"] is None
        else f"{search['lowest_refused_rate']:.3g} was too high"
        + ("" if search["settled"] else "; the search ended before it was settled")
    )
    return [f"highest rate at which {share}: {search['highest_rate']:.3g} requests/s ({bound})"]


def _notes(result: dict[str, Any]) -> list[str]:
    """Say how figures came about, and what makes them doubtful."""
    summaries = [trial["summary"] for trial in result["trials"]]
    notes = []
    if result["calibration"]["counted_by"] != "usage":
        notes.append(
            "the server gives no usage: a word is taken for a prompt token, an event for an output token"
        )
    if not result["target"]["ignore_eos"]:
        notes.append("the server does not take ignore_eos: answers may end sooner than was asked for")
    if n_short := sum(s["n_short"] for s in summaries):
        notes.append(f"{n_short} answers are shorter than was asked for")
    n_prompt = sum(s["prompt_tokens"]["mean"] * s["n_complete"] for s in summaries if s["prompt_tokens"])
    n_cached = sum(s["cached_tokens"] or 0 for s in summaries)
    n_template = result["calibration"]["overhead"] * sum(s["n_complete"] for s in summaries)
    if n_cached > sum(s["known_tokens"] for s in summaries) + n_template + _FRESH_SHARE * n_prompt:
        notes.append(
            "the server had more cached than this run's requests share: it knows them from an earlier run. "
            "Take another --seed, or start the server anew"
        )
    if any(s["client_cpu_share"] > MAX_CALM_SHARE for s in summaries):
        notes.append("the load generator took much of a core, which the server may have wanted")
    if any(s["late_s"] and s["late_s"]["p99"] > MAX_CALM_LATE_S for s in summaries):
        notes.append("requests were sent late: the machine was too busy for this load")
    if any(s["errors"] for s in summaries):
        samples = (s for trial in result["trials"] for s in trial["samples"] if "error" in s)
        details = {s["error"]: s["detail"] for s in samples}
        notes += [f"{kind}: {detail}" for kind, detail in details.items()]
    return [f"note: {note}" for note in notes]
