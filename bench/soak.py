"""Kill a server's engines at random under load and compare every answer with that of an undisturbed one.

    python bench/soak.py --minutes 20 --out bench/results/soak.json

Starts `stoker serve` with the default model in a home of its own, asks every request once, alone, for its
reference, then lets clients ask them again and again (chats and completions, greedy and sampled, several
choices, log-probabilities, stop strings, long and short prompts, shared prefixes; clients that read slowly
and that leave) while engines are killed (`kill -9`), stopped (SIGSTOP) and crashed (SIGSEGV). Every complete
answer must equal its reference: text, finish reasons, usage, log-probabilities to the printed digit. Memory
of both processes is sampled. The exit status is 0 if everything was right.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stoker import __version__
from stoker.models.catalogue import load_catalogue
from stoker.models.library import ModelLibrary
from stoker.testing.server_process import ServerProcess, seed_model_store
from stoker.testing.soak.faults import SIGNALS, FaultPlan
from stoker.testing.soak.run import Seen, SoakPlan, soak
from stoker.testing.soak.verdict import judge, memory, summary

MODEL = "smollm2-135m-instruct"
SERVE = "--kv-memory 200MiB --engine-timeout-s 10"
FAULTS = "kill=0.75,hang=0.1,segv=0.15"


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="load with faults (default: 20)")
    parser.add_argument(
        "--calm-minutes", type=float, default=3.0, help="load after that, without (default: 3)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of requests, clients and faults (default: 1)")
    parser.add_argument("--concurrency", type=int, default=16, help="clients at a time (default: 16)")
    parser.add_argument("--asks", type=int, default=66, help="different requests (default: 66)")
    parser.add_argument(
        "--mean-s", type=float, default=18.0, help="mean time from readiness to the next fault (default: 18)"
    )
    parser.add_argument("--least-s", type=float, default=6.0, help="least such time (default: 6)")
    parser.add_argument(
        "--faults", default=FAULTS, help=f"kinds ({', '.join(SIGNALS)}) and their weights (default: {FAULTS})"
    )
    parser.add_argument("--serve", default=SERVE, help=f"arguments of stoker serve (default: {SERVE})")
    parser.add_argument(
        "--store", type=Path, default=Path("~/.cache/stoker/models"), help="folder of the model store"
    )
    parser.add_argument("--note", default="", help="put into the result, such as what else the machine did")
    parser.add_argument("--out", type=Path, help="write the result here")
    options = parser.parse_args()
    try:
        weights = {
            name: float(weight) for name, _, weight in (f.partition("=") for f in options.faults.split(","))
        }
    except ValueError:
        parser.error("--faults: it should be such as kill=0.75,hang=0.25")
    if not weights.keys() <= SIGNALS.keys():
        parser.error(f"--faults: the kinds are {', '.join(SIGNALS)}")
    options.plan = SoakPlan(
        model=MODEL,
        faults=FaultPlan(weights, options.mean_s, options.least_s, options.seed),
        duration_s=60 * options.minutes,
        calm_s=60 * options.calm_minutes,
        seed=options.seed,
        n_asks=options.asks,
        concurrency=options.concurrency,
    )
    return options


def machine() -> dict[str, Any]:
    """Name the processor and how much of it and of memory there is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / 2**20, 1),
        "load_average": os.getloadavg(),
    }


def commit() -> str:
    """Name the commit that is tried; a changed tree says so."""
    out = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607  # the git on the path
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return out.stdout.strip() or "unknown"


def run(options: argparse.Namespace) -> tuple[Seen, str, str]:
    """Start the server and put it through the plan; return what was seen, its fingerprint and its log."""
    store = options.store.expanduser()
    model = ModelLibrary(store, load_catalogue()).ensure(MODEL).path
    home = Path(tempfile.mkdtemp(prefix="stoker-soak-"))
    try:
        seed_model_store(home, model)
        with ServerProcess(home, *options.serve.split()) as server:
            server.wait_ready()
            seen = asyncio.run(soak(server, options.plan))
        return seen, ", ".join(sorted(map(str, seen.fingerprints))), server.stderr
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main() -> int:
    """Run, print a table and write the result."""
    options = read_arguments()
    started = datetime.now(UTC)
    tried, at_begin = commit(), machine()
    seen, fingerprint, log = run(options)
    verdict = judge(seen)
    report = {
        "stoker": __version__,
        "commit": tried,
        "python": sys.version.split()[0],
        "fingerprint": fingerprint,
        "started": started.isoformat(timespec="seconds"),
        "machine": at_begin,
        "note": options.note,
        "serve": options.serve,
        "plan": asdict(options.plan),
        "seconds": {
            "references": round(seen.references_s, 1),
            "with_faults": round(seen.faults_until_s, 1),
            "load": round(seen.load_s, 1),
        },
        "passed": verdict.passed and "Traceback" not in log,
        "verdict": asdict(verdict),
        "tracebacks_in_log": log.count("Traceback"),
        **summary(seen),
        "memory": memory(seen),
        "fault_list": [asdict(fault) for fault in seen.faults],
    }
    show(report)
    if options.out is not None:
        options.out.write_text(written(report))
    if report["tracebacks_in_log"]:
        print(log[log.index("Traceback") - 200 :][:4000])
    return 0 if report["passed"] else 1


def written(report: dict[str, Any]) -> str:
    """Return the report as JSON with every list of numbers on one line."""
    return (
        re.sub(r"\[[\d\s.,]+\]", lambda found: " ".join(found[0].split()), json.dumps(report, indent=1))
        + "\n"
    )


def show(report: dict[str, Any]) -> None:
    """Print the figures that matter."""
    rows = {
        "seconds": ", ".join(f"{name} {value:g}" for name, value in report["seconds"].items()),
        **{
            name: ", ".join(f"{key} {value}" for key, value in report[name].items()) or "none"
            for name in ("endings", "by_manner", "refusals", "faults")
        },
        **{
            name: report[name]
            for name in (
                "tokens_of_complete_answers",
                "sequences_running_at_faults",
                "restarts",
                "sequences_resumed",
                "quarantined",
                "preemptions",
                "recovery_s",
                "longest_request_s",
                "longest_pause_within_an_answer_s",
                "n_wrong",
                "left_in_flight",
            )
        },
        "gateway RSS, KiB": report["memory"]["gateway_rss"],
        "gateway slope, KiB/min": report["memory"]["gateway_slope"],
        "engine peaks, KiB": report["memory"]["engine_peaks"],
        "last engine's slope": report["memory"]["last_engine_slope"],
        "verdict": report["verdict"],
    }
    for name, value in rows.items():
        print(f"{name:>28}  {value}")
    for line in report["wrong"]:
        print(f"{'WRONG':>28}  {line}")


if __name__ == "__main__":
    sys.exit(main())
