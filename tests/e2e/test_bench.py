"""`stoker bench` on the real server, and on the real engine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stoker.testing.server_process import ServerProcess, clean_environment

pytestmark = pytest.mark.e2e


def bench(home: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    out = home / "result.json"
    ended = subprocess.run(
        [sys.executable, "-m", "stoker", "bench", *arguments, "--out", str(out)],
        capture_output=True,
        text=True,
        env=clean_environment(home),
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(out.read_text())
    return ended.stdout, result


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_lengths_are_exact_and_prefixes_are_shared(server: ServerProcess, home: Path, api: str) -> None:
    shared = ["--shared-share", "1", "--shared-tokens", "128"]
    lengths = ["--prompt-tokens", "200", "--output-tokens", "4-9"]
    _, result = bench(home, server.url, "--api", api, "--requests", "6", "--clients", "2", *lengths, *shared)
    (trial,) = result["trials"]
    summary = trial["summary"]
    assert summary["n_complete"] == 6, trial
    assert summary["n_short"] == 0
    assert summary["counted_by"] == "usage"
    assert all(abs(sample["prompt_tokens"] - 200) <= 3 for sample in trial["samples"])
    assert all(sample["output_tokens"] == sample["wanted_tokens"] for sample in trial["samples"])
    assert summary["cached_tokens"] >= 4 * 112  # whole blocks, of those that came after the first two
    assert result["target"]["ignore_eos"] is True


def test_an_open_loop_keeps_its_times(server: ServerProcess, home: Path) -> None:
    lengths = ["--prompt-tokens", "20-60", "--output-tokens", "3"]
    printed, result = bench(home, server.url, "--rate", "5", "--requests", "6", "--seed", "4", *lengths)
    (trial,) = result["trials"]
    assert trial["summary"]["n_complete"] == 6
    # The event loop's clock ticks in milliseconds, so it may wake up that much too soon.
    assert all(sample["late_s"] > -0.005 for sample in trial["samples"])
    assert "5/s" in printed


def test_the_roofline_has_every_phase(home: Path) -> None:
    cases = ["--cases", "80,2x40", "--steps", "2", "--repeats", "1"]
    printed, result = bench(home, "--roofline", *cases, "--threads", "1", "--step-tokens", "64")
    assert result["machine"]["dot_ops"] > 1e9
    prefill, decode = result["cases"]
    # 106.2 million weights in the layers, an embedding of 576 x 49,152 for the token that is sampled.
    matrices = {"qkv", "output", "feed_forward"}
    assert sum(prefill["phases"][name]["work"]["dot_ops"] for name in matrices) == 2 * 80 * 106_168_320
    assert decode["phases"]["logits"]["work"]["dot_ops"] == 2 * 2 * 576 * 49_152
    for case in (prefill, decode):
        for name in (*matrices, "attention", "logits", "step"):
            phase = case["phases"][name]
            assert phase["reached"] > 0, name
            assert phase["wall_s"] > 0
        assert sum(case["phase_s"][0].values()) <= case["total_s"][0]
    assert "feed_forward" in printed
