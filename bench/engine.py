"""Time Stoker's engine beside llama.cpp and OpenVINO, without HTTP: prefill and decode on the default model.

    python bench/engine.py MODEL.gguf --peers PYTHON --out bench/results/NAME.json

Every round starts each contender once, one after the other, in an order that rotates, so that all see
the same drift of the machine. A case's figure is the median over all timed calls of all rounds; decode
steps are timed after a fifth of a second of untimed ones. llama.cpp runs in several settings and counts
with the best of them for each case. `--peers` is a Python whose environment holds llama-cpp-python
(compiled with native flags) and openvino-genai; see bench/README.md.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CONTENDERS = Path(__file__).parent / "contenders"
DECODE = [(1, 128), (1, 2048), (4, 512), (16, 64), (16, 512), (32, 512)]
PREFILL = [512, 2048]

Contender = tuple[Path, Path, Path, dict[str, str]]
"""Python, script, model, options."""


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the GGUF file, Q4_1")
    parser.add_argument(
        "--peers", type=Path, help="Python of the peers' environment; without it only Stoker runs"
    )
    scratch = Path(tempfile.gettempdir()) / "stoker-bench"
    parser.add_argument("--work", type=Path, default=scratch, help="folder for converted models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser.parse_args()


def processor_name() -> str:
    """Name the processor and the instruction sets that matter here."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wanted = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    flags = [flag for flag in wanted if flag in fields.get("flags", "").split()]
    return f"{fields.get('model name', platform.processor())} ({' '.join(flags)})"


def commit() -> str:
    """Name the commit that is measured; a changed tree says so."""
    out = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607  # the git on the path
        cwd=CONTENDERS,
        capture_output=True,
        text=True,
        check=True,
    )
    return out.stdout.strip()


def contenders(arguments: argparse.Namespace) -> dict[str, Contender]:
    """List the contenders by name."""
    found: dict[str, Contender] = {
        "stoker": (Path(sys.executable), CONTENDERS / "stoker_engine.py", arguments.model, {})
    }
    if arguments.peers is None:
        return found
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    q4_0 = work / f"{arguments.model.stem}.Q4_0.gguf"
    if not q4_0.exists():
        command = [arguments.peers, CONTENDERS / "requantize.py", arguments.model, q4_0, "Q4_0"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    for kind, model in (("Q4_1", arguments.model), ("Q4_0", q4_0)):
        for unified in ("0", "1"):
            name = f"llama.cpp {kind}{' unified' if unified == '1' else ''}"
            options = {"unified": unified, "flash": "-1", "ubatch": "512"}
            found[name] = (arguments.peers, CONTENDERS / "peer_llamacpp.py", model, options)
    options = {"folder": str(work / "openvino")}
    found["openvino Q4_0"] = (arguments.peers, CONTENDERS / "peer_openvino.py", q4_0, options)
    return found


def run_once(arguments: argparse.Namespace, contender: Contender) -> dict[str, Any]:
    """Run one contender over all cases."""
    python, script, model, options = contender
    job = {
        "model": str(model.resolve()),
        "threads": arguments.threads,
        "prefill": PREFILL,
        "decode": DECODE,
        "repeats": 3,
        "steps": 24,
        "options": options,
    }
    out = subprocess.run(
        [python, script], input=json.dumps(job), capture_output=True, text=True, check=False, timeout=1200
    )
    if out.returncode != 0:
        sys.exit(f"{script.name} failed:\n{out.stderr}")
    report: dict[str, Any] = json.loads(out.stdout.splitlines()[-1])
    return report


def best_peer(medians: dict[str, dict[str, float]], case: str, engine: str) -> float | None:
    """Return the least median of an engine's settings, in seconds."""
    return min((m[case] for name, m in medians.items() if name.startswith(engine)), default=None)


def print_table(medians: dict[str, dict[str, float]]) -> None:
    """Print every case's median, and the ratio of each peer's best setting to Stoker."""
    for case in medians["stoker"]:
        n_tokens = int(case.split()[1]) if case.startswith("prefill") else None
        own = medians["stoker"][case]
        columns = []
        for name, of_name in medians.items():
            seconds = of_name[case]
            figure = f"{n_tokens / seconds:.0f} tok/s" if n_tokens else f"{1e3 * seconds:.2f} ms"
            columns.append(f"{name} {figure}")
        ratios = [
            f"{engine} {peer / own:.2f}x"
            for engine in ("llama.cpp", "openvino")
            if (peer := best_peer(medians, case, engine)) is not None
        ]
        print(f"{case:14} {' | '.join(columns)}   best peer / stoker: {', '.join(ratios)}")


def main() -> None:
    """Run all rounds, print the table, write the result."""
    arguments = read_arguments()
    measured = commit()
    found = contenders(arguments)
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in found}
    names = list(found)
    for i in range(arguments.rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            reports[name].append(run_once(arguments, found[name]))
            print(f"round {i + 1}: {name}", file=sys.stderr)
    medians = {
        name: {
            case: statistics.median([s for report in of_name for s in report["seconds"][case]])
            for case in of_name[0]["seconds"]
        }
        for name, of_name in reports.items()
    }
    print_table(medians)
    if arguments.out is not None:
        result = {
            "benchmark": "engine",
            "date": datetime.now(UTC).date().isoformat(),
            "commit": measured,
            "processor": processor_name(),
            "threads": arguments.threads,
            "model": arguments.model.name,
            "rounds": arguments.rounds,
            "median_seconds": medians,
            "contenders": {
                name: {
                    "engine": of_name[0]["engine"],
                    "version": of_name[0]["version"],
                    "settings": of_name[0]["settings"],
                    "samples": [report["seconds"] for report in of_name],
                }
                for name, of_name in reports.items()
            },
        }
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
