"""Time Stoker's engine beside llama.cpp and OpenVINO, without HTTP: prefill and decode.

    python bench/engine.py MODEL.gguf --peers PYTHON --out bench/results/NAME.json

First llama.cpp's settings are tried at every case (`harness/sweep.py`), and the best ones taken. Then all
contenders stay loaded, and every round times each of them at each case, one after the other, in an order that
rotates; who waits is stopped. A case's figure is the median over all timed calls of all rounds with its
quartiles; a ratio is the median over the rounds, with the least and the greatest. Each round measures the
processor's limits too. `--peers` is a Python whose environment holds llama-cpp-python (compiled with native
flags) and openvino-genai; see bench/README.md.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.contender import Case, Contender, Entry, case_name
from harness.lineup import (
    CASES,
    OUR_8_BIT,
    SHAPE_CASES,
    entries_beside,
    file_type,
    model_files,
    our_entries,
    parse_case,
    peer_entries,
)
from harness.machine import cores, heading
from harness.results import write
from harness.spread import paired_ratio, quartiles
from harness.sweep import LlamaSweep
from harness.work import Limits, measure_limits, work_of

OURS = "stoker"
Samples = dict[str, dict[str, list[list[float]]]]
"""Seconds, ``[round][call]``, by contender and case."""


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the GGUF file; of a Q4_1 one llama.cpp makes the others")
    parser.add_argument(
        "--peers", type=Path, help="Python of the peers' environment; without it only Stoker runs"
    )
    scratch = Path(tempfile.gettempdir()) / "stoker-bench"
    parser.add_argument("--work", type=Path, default=scratch, help="folder for converted models and packs")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument(
        "--repeats", type=int, default=1, help="timed prompts of a case in a round (default: 1)"
    )
    parser.add_argument(
        "--steps", type=int, default=8, help="timed steps of a case in a round, at most 32 (default: 8)"
    )
    parser.add_argument("--threads", type=int, default=cores(), help="(default: all processors)")
    parser.add_argument("--shape", action="store_true", help="the cases of larger shapes (bench/shapes.py)")
    parser.add_argument(
        "--case",
        type=parse_case,
        action="append",
        dest="cases",
        help="time this case instead, such as 'prefill 512' or 'decode 16x512'; may be repeated",
    )
    parser.add_argument("--without-openvino", action="store_true", help="leave OpenVINO out")
    parser.add_argument("--note", default="", help="put into the result, such as what else the machine did")
    parser.add_argument("--out", type=Path, help="write the result here")
    options = parser.parse_args(arguments)
    if options.cases is None:
        options.cases = list(SHAPE_CASES if options.shape else CASES)
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def find_entries(options: argparse.Namespace, cases: tuple[Case, ...]) -> tuple[list[Entry], list[Any]]:
    """Return who takes part, and what the sweep tried."""
    ours = our_entries(options.model, cases, options.work)
    if options.peers is None:
        return ours, []
    files = model_files(options.model, options.peers, options.work)
    swept = {kind: file for kind, file in files.items() if kind != "Q4_K_M" or len(files) == 1}
    sweep = LlamaSweep(options.peers, swept, cases, options.threads)
    started_s = time.monotonic()
    sweep.run()
    print(f"swept llama.cpp's settings in {time.monotonic() - started_s:.0f} s", file=sys.stderr)
    peers = peer_entries(swept, cases, options.peers, options.work, sweep)
    beside = entries_beside(files, cases, options.peers, options.work, sweep)
    entries = [*ours, *peers, *beside]
    if options.without_openvino:
        entries = [entry for entry in entries if not entry.name.startswith("openvino")]
    return entries, sweep.tried


def rounds(
    options: argparse.Namespace, contenders: Sequence[Contender], cases: Sequence[Case]
) -> Iterator[tuple[Limits, dict[str, dict[str, list[float]]]]]:
    """Run the rounds, and yield of each the limits and all seconds by contender and case."""
    for number in range(options.rounds):
        started_s = time.monotonic()
        limits = measure_limits(options.threads)
        seconds: dict[str, dict[str, list[float]]] = {each.entry.name: {} for each in contenders}
        for i, case in enumerate(cases):
            first = (number + i) % len(contenders)
            for contender in (*contenders[first:], *contenders[:first]):
                if case in contender.entry.cases:
                    seconds[contender.entry.name][case_name(case)] = contender.time(
                        case, repeats=options.repeats, steps=options.steps
                    )
        print(f"round {number + 1}: {time.monotonic() - started_s:.0f} s", file=sys.stderr)
        yield limits, seconds


def summarize(samples: Samples) -> dict[str, dict[str, list[float]]]:
    """Return [median, lower quartile, upper quartile] in seconds, by case and contender."""
    summary: dict[str, dict[str, list[float]]] = {}
    for name, of_name in samples.items():
        for case, by_round in of_name.items():
            times = [seconds for one in by_round for seconds in one]
            summary.setdefault(case, {})[name] = quartiles(times).to_json()
    return summary


def ratios(samples: Samples) -> dict[str, dict[str, list[float]]]:
    """Return how many times as long as Stoker another one takes: [median, least, greatest] over the rounds.

    What runs the Q4_K_M file is compared with Stoker on that file; OpenVINO, whose KV is in 8 bits, also with
    Stoker's 8-bit KV, by the name ``openvino by 8-bit KV``.
    """
    medians = {
        name: {case: [statistics.median(one) for one in by_round] for case, by_round in of_name.items()}
        for name, of_name in samples.items()
    }
    found: dict[str, dict[str, list[float]]] = {}
    for name, of_name in medians.items():
        ours = "stoker Q4_K_M" if name.endswith("Q4_K_M") and "stoker Q4_K_M" in medians else OURS
        for case, times in of_name.items():
            if name != ours and case in medians[ours]:
                found.setdefault(case, {})[name] = paired_ratio(times, medians[ours][case]).to_json()
            if name == "openvino" and case in medians.get(OUR_8_BIT, {}):
                both = paired_ratio(times, medians[OUR_8_BIT][case]).to_json()
                found.setdefault(case, {})["openvino by 8-bit KV"] = both
    return found


def print_table(result: dict[str, Any]) -> None:
    """Print every case's medians and ratios."""
    for case, of_case in result["summary_s"].items():
        print(case)
        for name, (median, low, high) in of_case.items():
            ratio = result["ratios"].get(case, {}).get(name)
            beside = f"   {ratio[0]:.2f}x ({ratio[1]:.2f} to {ratio[2]:.2f})" if ratio else ""
            print(f"  {name:<20} {1e3 * median:9.2f} ms ({1e3 * low:.2f} to {1e3 * high:.2f}){beside}")


def main() -> None:
    """Sweep, run the rounds, print the table, write the result."""
    options = read_arguments()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    cases: tuple[Case, ...] = tuple(options.cases)
    result = heading("engine", {**vars(options), "cases": [case_name(case) for case in cases]})
    result["model"] = {"file": options.model.name, "type": file_type(options.model)}
    result["threads"] = options.threads
    entries, tried = find_entries(options, cases)
    with ExitStack() as stack:
        contenders = []
        for entry in entries:
            contenders.append(stack.enter_context(Contender(entry, options.threads)))
            print(f"{entry.name} is ready", file=sys.stderr)
        for contender in contenders:  # fill KV caches and warm up, untimed
            for case in contender.entry.cases:
                contender.time(case, repeats=1, steps=1, warm_s=0.0)
            print(f"{contender.entry.name} is warm", file=sys.stderr)
        done = list(rounds(options, contenders, cases))
        hellos = {contender.entry.name: contender.hello for contender in contenders}
    samples: Samples = {
        entry.name: {
            case_name(case): [seconds[entry.name][case_name(case)] for _, seconds in done]
            for case in entry.cases
        }
        for entry in entries
    }
    work = work_of(options.model, cases, options.work)
    result |= {
        "work": {case_name(case): each for case, each in zip(cases, work, strict=True)},
        "limits": [limits for limits, _ in done],
        "summary_s": summarize(samples),
        "ratios": ratios(samples),
        "contenders": {
            entry.name: {
                **hellos[entry.name],
                "file": entry.model.name,
                "options": entry.order,
                "seconds": samples[entry.name],
            }
            for entry in entries
        },
        "sweep": tried,
    }
    print_table(result)
    if options.out is not None:
        write(options.out, result)


if __name__ == "__main__":
    main()
