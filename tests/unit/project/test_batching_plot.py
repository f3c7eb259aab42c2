"""The plot of docs/batching.md is the one of the committed result."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_plot_is_drawn_from_the_result(tmp_path: Path) -> None:
    drawn = tmp_path / "batching.svg"
    command = [sys.executable, "bench/batching_plot.py", "bench/results/batching.json", "--out", str(drawn)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert drawn.read_text() == (ROOT / "docs" / "batching.svg").read_text(), "run bench/batching_plot.py"
