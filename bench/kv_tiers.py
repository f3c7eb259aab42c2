"""A conversation of 4,000 tokens that returns, against computing it again: ``bench/kv_tiers.py --out FILE``.

Each round has a conversation of its own (random token ids, the same in every run) and takes the time from the
request to the first token:

- ``computed``: for the first time, by a server that has seen nothing of it;
- ``KV cache``: again at once;
- ``host``: after another one has pushed it out of the KV cache into host memory;
- ``disk``: after the server was restarted, its files in the page cache;
- ``disk, cold``: likewise, its files dropped from the page cache.

Every answer is compared with that of the first time. The cases of a round stand beside each other in time,
and the load beside each sample tells how busy the machine was with something else; so does the processor time
that server and engine took for the first token.
"""

import argparse
import http.client
import json
import os
import platform
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from harness.page_cache import drop_from_cache

from stoker import __version__
from stoker.config import Settings
from stoker.core.step import BLOCK_TOKENS
from stoker.models.library import open_library
from stoker.testing.server_process import ServerProcess, seed_model_store

MODEL = Settings().model
N_TOKENS, N_NEW = 4000, 16
CONTEXT = 4096
OPTIONS = (
    *("--context-length", str(CONTEXT), "--kv-memory", "92MiB"),
    *("--kv-host-memory", "1GiB", "--max-kv-disk-bytes", "4GiB"),
)
CASES = ("computed", "KV cache", "host", "disk", "disk, cold")


def conversation(seed: str) -> list[int]:
    """Return token ids that no other conversation begins with."""
    random_ = random.Random(seed)  # noqa: S311 - repeatable, not secret
    return [random_.randrange(1000, 40_000) for _ in range(N_TOKENS)]


class Asked(NamedTuple):
    """What came of a request.

    Attributes:
        first_s: Seconds to the first token.
        cpu_s: Seconds of processor time that server and engine took until then.
        text: The answer.
        cached: Tokens of the prompt that were cached.
    """

    first_s: float
    cpu_s: float
    text: str
    cached: int


def cpu_s(server: ServerProcess) -> float:
    """Return the processor time that a server and its engine have taken."""
    ticks = 0
    for pid in (server.process.pid, *server.children()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def ask(server: ServerProcess, prompt: list[int]) -> Asked:
    """Send a request and read its stream."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=600)
    body = {
        "model": MODEL,
        "prompt": prompt,
        "max_tokens": N_NEW,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    content = json.dumps(body)
    began_cpu_s, began_s = cpu_s(server), time.monotonic()
    connection.request("POST", "/v1/completions", content, {"content-type": "application/json"})
    response = connection.getresponse()
    first_s, taken_s, text, cached = 0.0, 0.0, "", 0
    for line in response:
        data = line.removeprefix(b"data: ").strip()
        if not data or data == b"[DONE]":
            continue
        chunk = json.loads(data)
        if chunk["choices"]:
            if not first_s:
                first_s, taken_s = time.monotonic() - began_s, cpu_s(server) - began_cpu_s
            text += chunk["choices"][0]["text"]
        if chunk.get("usage"):
            cached = chunk["usage"]["prompt_tokens_details"]["cached_tokens"]
    connection.close()
    return Asked(first_s, taken_s, text, cached)


class Rounds:
    """Asks, notes and compares.

    Attributes:
        samples: By case, what was measured.
    """

    def __init__(self) -> None:
        self.samples: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
        self._answers: dict[int, str] = {}

    def ask(self, server: ServerProcess, case: str, number: int) -> None:
        """Ask for a round's conversation and note how long its first token took."""
        asked = ask(server, conversation(f"round {number}"))
        if asked.text != self._answers.setdefault(number, asked.text):
            raise RuntimeError(f"round {number}, {case}: the answer is not that of the first time")
        expected = 0 if case == "computed" else (N_TOKENS - 1) // BLOCK_TOKENS * BLOCK_TOKENS
        if asked.cached != expected:
            raise RuntimeError(f"round {number}, {case}: {asked.cached} tokens were cached, not {expected}")
        self.samples[case].append(
            {
                "round": number,
                "first_token_s": round(asked.first_s, 4),
                "cpu_s": round(asked.cpu_s, 2),
                "load": round(os.getloadavg()[0], 2),
            }
        )

    def run(self, home: Path, number: int) -> None:
        """Run one round."""
        with ServerProcess(home, *OPTIONS) as server:
            server.wait_ready()
            ask(server, conversation(f"warm {number}")[:100])
            self.ask(server, "computed", number)
            self.ask(server, "KV cache", number)
            ask(server, conversation(f"other {number}"))
            self.ask(server, "host", number)
            n_blocks = (100 + 2 * N_TOKENS + 3 * (N_NEW - 1)) // BLOCK_TOKENS - 2
            deadline_s = time.monotonic() + 60
            while server.metrics()["stoker_kv_disk_writes_total"] < n_blocks:
                if time.monotonic() > deadline_s:
                    raise RuntimeError("the blocks were not written")
                time.sleep(0.1)
        for case in ("disk", "disk, cold"):
            if case == "disk, cold":
                drop_from_cache(home.glob("kv/*/*/*.kv"))
            with ServerProcess(home, *OPTIONS) as server:
                server.wait_ready()
                ask(server, conversation(f"warm {number}")[:100])
                self.ask(server, case, number)


def report(samples: dict[str, list[dict[str, float]]]) -> list[dict[str, object]]:
    """Return per case the median, and how much sooner than computing it was, by rounds."""
    computed = {each["round"]: each["first_token_s"] for each in samples["computed"]}
    return [
        {
            "case": case,
            "median_first_token_s": statistics.median(each["first_token_s"] for each in of_case),
            "median_times_sooner": round(
                statistics.median(computed[each["round"]] / each["first_token_s"] for each in of_case), 2
            ),
            "median_cpu_s": statistics.median(each["cpu_s"] for each in of_case),
            "samples": of_case,
        }
        for case, of_case in samples.items()
    ]


def main() -> None:
    """Measure and print; write the raw samples if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    stored = open_library(Settings()).pull(MODEL)
    rounds = Rounds()
    with tempfile.TemporaryDirectory(prefix="stoker-bench-") as folder:
        home = Path(folder)
        seed_model_store(home, stored.path)
        for number in range(arguments.rounds):
            rounds.run(home, number)
    cases = report(rounds.samples)
    for each in cases:
        sooner = f"{each['median_times_sooner']:.1f} times sooner"
        print(f"{each['case']:<12} {each['median_first_token_s']:.3f} s, {sooner}")
    loads = [each["load"] for of_case in rounds.samples.values() for each in of_case]
    if arguments.out is not None:
        git = ["git", "describe", "--always", "--dirty"]
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
        result = {
            "stoker": __version__,
            "commit": commit,
            "python": platform.python_version(),
            "processors": len(os.sched_getaffinity(0)),
            "model": MODEL,
            "options": list(OPTIONS),
            "prompt_tokens": N_TOKENS,
            "load": {"least": min(loads), "median": statistics.median(loads), "most": max(loads)},
            "answers": "every answer equals that of its first time",
            "cases": cases,
        }
        arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
