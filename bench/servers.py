"""Compare servers over HTTP: ours, llama-server and vLLM on the CPU.

    python bench/servers.py MODEL.gguf --llama-server PROGRAM --peers PYTHON --vllm PYTHON --out FILE

All servers are started by this script on the same processors and stay up; those that wait are stopped. In
each round every server is asked every closed loop, one after the other, in an order that rotates: 16 and 32
clients that stream answers of 96 tokens to prompts of 480, and 64 requests that share their first 1,450
tokens, 8 at a time. Then each is put under the open loop, for the highest rate at which 95 % of the requests
meet the service level. llama-server runs once for each number of slots; the best number counts, scenario by
scenario. Beside Stoker's server stands what its engine alone would do: the same prompts and steps without
HTTP.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.contender import Contender
from harness.lineup import file_type, model_files, our_entries
from harness.machine import cores, heading
from harness.results import write
from harness.scenarios import CLOSED, SHARE, SLO, STREAM_OUTPUT, STREAM_PROMPT, Asker, Closed
from harness.server import Server, ServerEntry
from harness.servers import llama_server, stoker_server, to_bf16, vllm_server
from harness.spread import paired_ratio, quartiles

OURS = "stoker"


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the GGUF file; llama-server gets it as Q4_0 if it is Q4_1")
    parser.add_argument("--llama-server", type=Path, help="the program, compiled with native flags")
    parser.add_argument("--peers", type=Path, help="Python with llama-cpp-python, which writes the Q4_0 file")
    parser.add_argument(
        "--slots", type=int, nargs="+", default=[8, 16, 32], help="of llama-server (default: 8 16 32)"
    )
    parser.add_argument("--vllm", type=Path, help="Python of vLLM's environment")
    scratch = Path(tempfile.gettempdir()) / "stoker-bench"
    parser.add_argument("--work", type=Path, default=scratch, help="folder for converted models and logs")
    parser.add_argument("--rounds", type=int, default=3, help="of the closed loops (default: 3)")
    parser.add_argument(
        "--trial-s", type=float, default=60.0, help="length of a trial of the open loop (default: 60)"
    )
    parser.add_argument(
        "--start-rate", type=float, default=0.5, help="first rate tried, in requests/s (default: 0.5)"
    )
    parser.add_argument(
        "--search-s", type=float, default=900, help="no trial of a search begins after it (default: 900)"
    )
    parser.add_argument("--closed-only", action="store_true", help="leave the open loop out")
    parser.add_argument(
        "--requests", type=int, help="requests of each closed loop, instead of the scenario's"
    )
    parser.add_argument("--threads", type=int, default=cores(), help="(default: all processors)")
    parser.add_argument("--note", default="", help="put into the result, such as what else the machine did")
    parser.add_argument("--out", type=Path, help="write the result here")
    options = parser.parse_args(arguments)
    if options.llama_server is not None and options.peers is None:
        parser.error("--llama-server needs --peers, which writes the Q4_0 file")
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def find_entries(options: argparse.Namespace) -> list[ServerEntry]:
    """Return who takes part."""
    entries = [stoker_server(options.model.resolve(), options.threads)]
    if options.llama_server is not None:
        files = model_files(options.model, options.peers, options.work)
        model = files.get("Q4_0", options.model).resolve()
        entries += [
            llama_server(options.llama_server, model, options.threads, slots) for slots in options.slots
        ]
    if options.vllm is not None:
        folder = to_bf16(options.vllm, options.model, options.work)
        entries.append(vllm_server(options.vllm, folder.resolve(), options.threads))
    return entries


def engine_rate(engine: Contender, clients: int) -> float:
    """Return the tokens a second of the engine alone: prompts one by one, then steps of all sequences."""
    prompt_s = min(engine.time(("prefill", 1, STREAM_PROMPT), repeats=2, steps=0))
    middle = STREAM_PROMPT + STREAM_OUTPUT // 2
    steps = sorted(engine.time(("decode", clients, middle), repeats=0, steps=16))
    step_s = steps[len(steps) // 2]
    return clients * STREAM_OUTPUT / (clients * prompt_s + (STREAM_OUTPUT - 1) * step_s)


def closed_rounds(
    options: argparse.Namespace, servers: dict[str, Server], askers: dict[str, Asker], engine: Contender
) -> dict[str, dict[str, list[Any]]]:
    """Run the closed loops; returns records by scenario and server, and the engine's own rate by scenario."""
    records: dict[str, dict[str, list[Any]]] = {scenario.name: {} for scenario in CLOSED}
    names = list(servers)
    for number in range(options.rounds):
        for i, planned in enumerate(CLOSED):
            n_requests = options.requests or planned.requests
            scenario = Closed(
                name=planned.name,
                workload=planned.workload,
                clients=min(planned.clients, n_requests),
                requests=n_requests,
            )
            if "clients" in scenario.name:
                alone = engine_rate(engine, planned.clients)
                records[scenario.name].setdefault("engine alone", []).append({"tokens_per_s": alone})
            first = (number + i) % len(names)
            for name in (*names[first:], *names[:first]):
                servers[name].go_on()
                began_s = time.monotonic()
                records[scenario.name].setdefault(name, []).append(askers[name].closed(scenario))
                print(
                    f"round {number + 1}, {scenario.name}, {name}: {time.monotonic() - began_s:.0f} s",
                    file=sys.stderr,
                )
                servers[name].stop()
    return records


def open_loop(
    options: argparse.Namespace, servers: dict[str, Server], askers: dict[str, Asker]
) -> dict[str, Any]:
    """Find each server's highest rate; of llama-server with the slots that did best at the first rate."""
    screening = {}
    slotted = [name for name in servers if name.startswith("llama-server")]
    for name in slotted if len(slotted) > 1 else []:
        servers[name].go_on()
        screening[name] = askers[name].open(options.start_rate, options.trial_s)
        servers[name].stop()
    best = max(screening, key=lambda name: screening[name]["summary"]["share_met"], default=None)
    found: dict[str, Any] = {}
    for name, server in servers.items():
        if name in screening and name != best:
            continue
        print(f"open loop: {name}", file=sys.stderr)
        server.go_on()
        highest, trials = askers[name].find_rate(
            options.start_rate, trial_s=options.trial_s, search_s=options.search_s
        )
        server.stop()
        found[name] = {"highest_rate": highest, "trials": trials}
    return {"screening": screening, "servers": found}


def summarize_closed(records: dict[str, dict[str, list[Any]]]) -> dict[str, dict[str, Any]]:
    """Return tokens a second and durations, and their ratios to Stoker's, by scenario and server."""
    summary: dict[str, dict[str, Any]] = {}
    for scenario, of_scenario in records.items():
        rates = {
            name: [each.get("tokens_per_s") or each["summary"]["output_tokens_per_s"] for each in of_name]
            for name, of_name in of_scenario.items()
        }
        summary[scenario] = {
            name: {
                "tokens_per_s": quartiles(rates[name]).to_json(),
                "stoker_by_this": paired_ratio(rates[OURS], rates[name]).to_json(),
                **_times(of_name),
            }
            for name, of_name in of_scenario.items()
        }
    return summary


def _times(of_name: list[Any]) -> dict[str, Any]:
    if "summary" not in of_name[0]:
        return {}
    ttfts = [each["summary"]["ttft_s"]["p50"] for each in of_name if each["summary"]["ttft_s"]]
    cached = [each["summary"]["cached_tokens"] for each in of_name]
    return {
        "duration_s": quartiles([each["summary"]["duration_s"] for each in of_name]).to_json(),
        "ttft_p50_s": quartiles(ttfts).to_json() if ttfts else None,
        "failed": sum(sum(each["summary"]["errors"].values()) for each in of_name),
        "cached_tokens": cached,
    }


def print_table(result: dict[str, Any]) -> None:
    """Print every scenario's figures."""
    for scenario, of_scenario in result["closed_summary"].items():
        print(scenario)
        for name, figures in of_scenario.items():
            took = f", {figures['duration_s'][0]:.1f} s" if "duration_s" in figures else ""
            by = figures["stoker_by_this"][0]
            print(f"  {name:<24} {figures['tokens_per_s'][0]:8.0f} tokens/s{took}   stoker/this {by:.2f}")
    for name, found in result.get("open", {}).get("servers", {}).items():
        print(f"open loop, {name}: {found['highest_rate']} requests/s")


def main() -> None:
    """Start all, run the rounds and the open loop, print the table, write the result."""
    options = read_arguments()
    result = heading("servers", vars(options))
    result["model"] = {"file": options.model.name, "type": file_type(options.model)}
    result["threads"] = options.threads
    result["slo"] = {"ttft_s": SLO.ttft_s, "ttft_per_token_s": SLO.ttft_per_token_s, "itl_s": SLO.itl_s}
    result["slo"]["share"] = SHARE
    entries = find_entries(options)
    wide = max(scenario.clients for scenario in CLOSED)
    middle = STREAM_PROMPT + STREAM_OUTPUT // 2
    cases = (("prefill", 1, STREAM_PROMPT), ("decode", 16, middle), ("decode", wide, middle))
    with ExitStack() as stack:
        servers, askers = {}, {}
        for entry in entries:
            server = stack.enter_context(Server(entry, options.work))
            servers[entry.name], askers[entry.name] = server, Asker(server.url)
            print(f"{entry.name}: ready in {server.started_s:.1f} s", file=sys.stderr)
            server.stop()
        engine = stack.enter_context(
            Contender(our_entries(options.model, cases, options.work)[0], options.threads)
        )
        records = closed_rounds(options, servers, askers, engine)
        if not options.closed_only:
            result["open"] = open_loop(options, servers, askers)
        ready_s = {name: round(server.started_s, 2) for name, server in servers.items()}
    result |= {
        "closed_summary": summarize_closed(records),
        "servers": {
            entry.name: {
                "version": entry.version,
                "note": entry.note,
                "arguments": [Path(part).name if part.startswith("/") else part for part in entry.command],
                "environment": dict(entry.environment),
                "ready_s": ready_s[entry.name],
            }
            for entry in entries
        },
        "closed": records,
    }
    print_table(result)
    if options.out is not None:
        write(options.out, result)


if __name__ == "__main__":
    main()
