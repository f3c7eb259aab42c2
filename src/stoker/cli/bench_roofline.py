"""``stoker bench --roofline``: its flags, what is done with them, and its tables."""

import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table

from stoker import app
from stoker.cli.progress import pull_progress
from stoker.config import Settings
from stoker.measure.cases import DEFAULT_CASES, Case
from stoker.measure.engine_run import EngineOptions, EngineRunner, Timed
from stoker.measure.machine import Machine
from stoker.measure.roofline import Reach, reach
from stoker.models.packs import PackFolder
from stoker.worker.processors import available_processors

FORMAT = 1

_ROOFLINE = Group("Roofline", sort_key=6)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineFlags:
    """Flags about what the engine runs.

    Attributes:
        cases: What is timed, with commas between: `512` is a prefill of a prompt of so many tokens, `16x512`
            a step of 16 sequences that have 512 tokens of context each.
        repeats: How often a prefill is timed.
        steps: How many steps of a decode are timed.
    """

    cases: Annotated[str, Parameter(group=_ROOFLINE)] = DEFAULT_CASES
    repeats: Annotated[int, Parameter(group=_ROOFLINE, validator=Number(gte=1, lte=1000))] = 3
    steps: Annotated[int, Parameter(group=_ROOFLINE, validator=Number(gte=1, lte=10_000))] = 24


def run_roofline(settings: Settings, model: str, flags: RooflineFlags) -> dict[str, Any]:
    """Measure the machine, then the engine on it, and return the result."""
    cases = Case.parse(flags.cases)
    console = Console(stderr=True, markup=False, highlight=False)
    with pull_progress(model) as report:
        located = app.model_library(settings).ensure(model, report)
    options = EngineOptions(
        threads=settings.threads or available_processors(),
        isa=settings.isa,
        kv_type=settings.kv_type,
        quantize=settings.quantize,
        step_tokens=settings.step_tokens,
        n_repeats=flags.repeats,
        n_steps=flags.steps,
    )
    packs = PackFolder(settings.packs_dir, settings.max_packs_bytes) if settings.max_packs_bytes else None
    runner = EngineRunner(located.path, options, cases, packs)
    console.print("measuring what the machine allows")
    machine = Machine.measure(runner.engine.isa, runner.engine.n_threads)
    results = []
    for case in cases:
        console.print(f"running the {case}")
        timed = runner.run(case)
        results.append(_result(timed, reach(runner.work(timed), machine, timed.wall_s, timed.idle_s)))
    return {
        "benchmark": "roofline",
        "format": FORMAT,
        "stoker": version("stoker"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": located.model_id,
        "fingerprint": runner.engine.fingerprint,
        "step_tokens": options.step_tokens,
        "machine": asdict(machine),
        "cases": results,
    }


def _result(timed: Timed, reached: dict[str, Reach]) -> dict[str, Any]:
    n_tokens = timed.case.n_seqs or timed.case.n_tokens
    wall_s = reached["step"].wall_s
    return {
        "case": str(timed.case),
        "n_seqs": timed.case.n_seqs,
        "n_tokens": timed.case.n_tokens,
        "tokens_per_s": n_tokens / wall_s,
        "phases": {name: {**asdict(each), "reached": each.reached} for name, each in reached.items()},
        "total_s": timed.total_s,
        "phase_s": timed.wall_s,
        "phase_idle_s": timed.idle_s,
    }


def print_roofline(result: dict[str, Any]) -> None:
    """Print the machine's limits and a table for each case, on standard output."""
    machine = result["machine"]
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 200
    limits = [
        f"integer products {machine['dot_ops'] / 1e9:,.0f} GOPS",
        f"fp32 {machine['fma_ops'] / 1e9:,.0f} GFLOPS",
        f"bf16 {machine['bf16_ops'] / 1e9:,.0f} GFLOPS",
        f"memory {machine['memory_bytes'] / 1e9:,.1f} GB/s",
        f"last cache level {machine['cache_bytes'] / 1e9:,.1f} GB/s",
    ]
    lines = [
        f"{result['model']} ({result['fingerprint']}), {machine['n_threads']} threads",
        f"limits: {', '.join(limits)}",
    ]
    for case in result["cases"]:
        with console.capture() as printed:
            console.print(_table(case))
        lines += ["", f"{case['case']}: {case['tokens_per_s']:,.0f} tokens/s"]
        lines += [line.rstrip() for line in printed.get().splitlines()]
    sys.stdout.write("\n".join(lines) + "\n")


def _table(case: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("phase")
    for title in (
        "time",
        "share",
        "idle",
        "operations",
        "rate",
        "read",
        "rate",
        "limit",
        "reached",
        "bound by",
    ):
        table.add_column(title, justify="right")
    whole_s = case["phases"]["step"]["wall_s"]
    for name, phase in case["phases"].items():
        wall_s, work = phase["wall_s"], phase["work"]
        ops = work["dot_ops"] + work["float_ops"]
        table.add_row(
            name,
            f"{1e3 * wall_s:,.2f} ms",
            f"{wall_s / whole_s:.1%}",
            f"{phase['idle_s'] / wall_s:.0%}" if wall_s else "",
            f"{ops / 1e9:,.2f} G" if ops else "",
            f"{ops / wall_s / 1e9:,.0f} G/s" if ops else "",
            f"{work['size_bytes'] / 1e6:,.1f} MB" if ops else "",
            f"{work['size_bytes'] / wall_s / 1e9:,.1f} GB/s" if ops else "",
            f"{1e3 * phase['limit_s']:,.2f} ms" if ops else "",
            f"{phase['reached']:.0%}" if ops else "",
            phase["bound"],
        )
    return table
