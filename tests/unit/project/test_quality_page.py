"""docs/quality.md says what bench/results/quality.json says."""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_page_is_that_of_the_result() -> None:
    script = runpy.run_path(str(ROOT / "bench" / "quality_page.py"))
    result = json.loads((ROOT / "bench" / "results" / "quality.json").read_text())
    assert (ROOT / "docs" / "quality.md").read_text() == script["page"](result), (
        "run python bench/quality_page.py"
    )


def test_the_default_is_within_its_bound() -> None:
    """On the Q4_1 file at most 1.1 times what llama.cpp's defaults cost."""
    files = json.loads((ROOT / "bench" / "results" / "quality.json").read_text())["files"]
    for text, found in files["Q4_1"].items():
        assert found["stoker, f16 KV"]["mean_kl_over_llamacpp"]["high"] <= 1.1, text
