"""What is kept of servers' answers, and how servers are compared."""

import importlib
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stoker.measure.sample import Sample
from stoker.measure.summary import Trial


@pytest.fixture(scope="module")
def scenarios() -> ModuleType:
    return importlib.import_module("harness.scenarios")


def sample(index: int, error: str | None = None) -> Sample:
    return Sample(
        index=index,
        sent_s=0.5,
        late_s=None,
        ttft_s=None if error else 0.25,
        duration_s=2.0,
        gaps_s=() if error else (0.01, 0.02, 0.03),
        n_events=4,
        prompt_tokens=480,
        known_tokens=0,
        cached_tokens=None,
        output_tokens=0 if error else 96,
        wanted_tokens=96,
        counted_by="usage",
        error=error,
    )


def trial(*samples: Sample) -> Trial:
    return Trial(
        number=0, rate=None, clients=2, n_planned=len(samples), n_given_up=0, duration_s=4.0,
        client_cpu_s=0.1, samples=samples,
    )  # fmt: skip


def test_a_record_has_a_row_for_each_request(scenarios: ModuleType) -> None:
    record = scenarios.record(trial(sample(0), sample(1, "cut_off")))
    assert record["summary"]["output_tokens_per_s"] == 24.0
    rows = [dict(zip(record["columns"], row, strict=True)) for row in record["requests"]]
    assert rows[0]["ttft_s"] == 0.25
    assert (rows[0]["gap_p50_s"], rows[0]["gap_max_s"], rows[0]["error"]) == (0.02, 0.03, None)
    assert (rows[1]["gap_p95_s"], rows[1]["error"]) == (None, "cut_off")


def test_servers_are_compared_round_by_round(scenarios: ModuleType) -> None:
    servers = importlib.import_module("servers")
    fast, slow = scenarios.record(trial(sample(0), sample(1))), scenarios.record(trial(sample(0)))
    records: dict[str, dict[str, list[Any]]] = {
        "16 clients": {
            "engine alone": [{"tokens_per_s": 60.0}, {"tokens_per_s": 64.0}],
            "stoker": [fast, fast],
            "peer": [slow, fast],
        }
    }
    of_case = servers.summarize_closed(records)["16 clients"]
    assert of_case["stoker"]["tokens_per_s"] == [48.0, 48.0, 48.0]
    assert of_case["peer"]["stoker_by_this"] == [1.5, 1.0, 2.0]
    assert of_case["engine alone"] == {
        "tokens_per_s": [62.0, 61.0, 63.0],
        "stoker_by_this": [0.775, 0.75, 0.8],
    }
    assert of_case["stoker"]["duration_s"] == [4.0, 4.0, 4.0]


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"fine")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_server_is_started_stopped_and_ended(tmp_path: Path) -> None:
    server = importlib.import_module("harness.server")
    entry = server.ServerEntry(name="a server", command=[sys.executable, "-c", SERVER, "{port}"])
    with server.Server(entry, tmp_path) as running:
        assert running.get("/x") == (200, "fine")
        running.stop()
        while state(running.pid) != "T":  # once the kernel has got to it
            time.sleep(0.01)
        running.go_on()
        assert running.get("/x") == (200, "fine")
        pid = running.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_server_that_ends_is_told_of_with_what_it_said(tmp_path: Path) -> None:
    server = importlib.import_module("harness.server")
    entry = server.ServerEntry(name="broken", command=[sys.executable, "-c", "raise SystemExit('no model')"])
    with pytest.raises(SystemExit, match=r"(?s)broken ended with 1 .*no model"):
        server.Server(entry, tmp_path)


def test_memory_is_that_of_a_process_and_its_children() -> None:
    memory = importlib.import_module("harness.memory")
    command = ["sh", "-c", "sleep 60 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        family = list(memory.family(process.pid))
        sizes = memory.resident_bytes(child)
        os.kill(child, signal.SIGKILL)
    assert family == [process.pid, child]
    assert 0 < sizes["pss"] <= sizes["rss"]


def test_the_largest_mapping_of_no_file_is_found() -> None:
    memory = importlib.import_module("harness.memory")
    before = memory.largest_private_mapping(os.getpid())
    with mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapping:
        mapping.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(100):
            mapping[page << 12] = 1
        found = memory.largest_private_mapping(os.getpid())
    assert 100 << 12 <= found < before + (200 << 12)
