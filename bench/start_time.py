"""From the start of a server to the default model's first token: ``python bench/start_time.py --out FILE``.

Each round starts `stoker serve` once in every case, in an order that rotates: with a pack and without
packs, with the files in the page cache and without them (``cold``: the pack and the model file are dropped
from it; Stoker's own code is not). Beside the time of the clock stands the processor time that the server
and its engine took until then, and the load: they tell how busy the machine was with something else.
"""

import argparse
import http.client
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.memory import family
from harness.page_cache import drop_from_cache, models_and_packs

from stoker import __version__
from stoker.config import Settings
from stoker.models.library import open_library
from stoker.testing.server_process import clean_environment, seed_model_store

MODEL = Settings().model
CASES = {
    "pack": (True, False),
    "pack, cold": (True, True),
    "no packs": (False, False),
    "no packs, cold": (False, True),
}
"""By name: whether packs are on, and whether files are dropped from the page cache before the start."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def start_once(home: Path, *, packs: bool) -> dict[str, float]:
    """Start a server, get one token, end it; return seconds since the start of its process."""
    environment = {} if packs else {"STOKER_MAX_PACKS_BYTES": "0"}
    started_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "stoker", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=clean_environment(home, environment),
        cwd=home,
        text=True,
    )
    try:
        line = process.stdout.readline() if process.stdout is not None else ""
        ready_s = time.monotonic() - started_s
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise RuntimeError("the server did not start")
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        body = {"model": MODEL, "prompt": "Once upon a", "max_tokens": 1, "stream": True, "temperature": 0}
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        if b'"text"' not in connection.getresponse().readline():
            raise RuntimeError("no token came")
        first_token_s = time.monotonic() - started_s
        taken_s = sum(map(cpu_s, family(process.pid)))
        connection.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    return {
        "ready_s": round(ready_s, 3),
        "first_token_s": round(first_token_s, 3),
        "cpu_s": round(taken_s, 2),
    }


def main() -> None:
    """Measure and print; write the raw samples if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    stored = open_library(Settings()).pull(MODEL)
    samples: dict[str, list[dict[str, float]]] = {case: [] for case in ("first start", *CASES)}
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        home = Path(folder)
        seed_model_store(home, stored.path)
        start_once(home, packs=False)  # compiles what Python has not compiled yet
        samples["first start"].append(start_once(home, packs=True))
        for number in range(arguments.rounds):
            order = list(CASES)[number % len(CASES) :] + list(CASES)[: number % len(CASES)]
            for case in order:
                packs, cold = CASES[case]
                if cold:
                    drop_from_cache(models_and_packs(home))
                samples[case].append({"load": round(os.getloadavg()[0], 2), **start_once(home, packs=packs)})
    cases = [
        {
            "case": case,
            "median_first_token_s": statistics.median(each["first_token_s"] for each in of_case),
            "median_cpu_s": statistics.median(each["cpu_s"] for each in of_case),
            "samples": of_case,
        }
        for case, of_case in samples.items()
    ]
    for each in cases:
        print(f"{each['case']:<16} {each['median_first_token_s']:.3f} s, {each['median_cpu_s']:.2f} s of CPU")
    if arguments.out is not None:
        result = {
            "stoker": __version__,
            "python": platform.python_version(),
            "processors": len(os.sched_getaffinity(0)),
            "model": MODEL,
            "cases": cases,
        }
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
