"""Write docs/quality.md from bench/results/quality.json.

python bench/quality_page.py
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench" / "results" / "quality.json"
PAGE = ROOT / "docs" / "quality.md"

COLUMNS = (
    "engine",
    "mean divergence",
    "over llama.cpp's",
    "99th percentile",
    "same top token",
    "perplexity",
)

HEAD = """\
# What computing in few bits costs

Weights are served in the bits that the file stores them in, but activations are rounded to 8 bits (16 where
that would cost too much), and keys and values to what the KV cache holds. This page says what that costs
beside the file's own quantization: next-token distributions are compared with those of the float path on
the same file (dequantized weights, fp32 activations, keys and values), which the golden tests compare with
`transformers`.

Mean and 99th percentile of the Kullback-Leibler divergence from the float path in nats, how often the most
likely token is the same, and perplexity over the float path's. Intervals are 95 % by bootstrap over
windows. llama.cpp computes the same token ids from the same files with its defaults, and is compared with
the same reference. Nothing here depends on how fast or busy a machine is; instruction-set paths differ in
the last bits.
"""

TAIL = """\
## What a model of your own loses

`stoker quality MODEL` measures what the 8-bit activations of each matrix cost alone, and says which ones to
keep at 16 bits so that all others together cost at most 0.0016 nats. The setting `precise` takes its answer;
without it, values and the output product have 16 bits ([ADR 7](adr/0007-asymmetric-activations.md)). The
choice is a matter of settings, never of the machine, and part of `system_fingerprint`.
"""


def _percent(estimate: dict[str, float], digits: int) -> str:
    return f"{100 * estimate['value']:.{digits}f} %"


def _rows(of_text: dict[str, Any]) -> Iterator[str]:
    for name, found in of_text.items():
        if name == "reference":
            continue
        kl = found["mean_kl"]
        ratio = found.get("mean_kl_over_llamacpp")
        beside = "" if ratio is None else f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        change = 100 * (found["perplexity_ratio"]["value"] - 1)
        yield (
            f"| {name} | {kl['value']:.5f} ({kl['low']:.5f} to {kl['high']:.5f}) | {beside} |"
            f" {found['p99_kl']['value']:.4f} | {_percent(found['top_1_agreement'], 2)} | {change:+.2f} % |"
        )


def _tables(files: dict[str, Any]) -> Iterator[str]:
    for kind, texts in files.items():
        for text, of_text in texts.items():
            n_tokens = next(found["n_tokens"] for name, found in of_text.items() if name != "reference")
            yield f"### {kind}, {text}, {n_tokens:,} tokens"
            yield ""
            yield "| " + " | ".join(COLUMNS) + " |"
            yield "| --- | --- | --- | --- | --- | --- |"
            yield from _rows(of_text)
            yield ""


def page(result: dict[str, Any]) -> str:
    """Return the page that a result makes."""
    arguments = result["arguments"]
    measured = (
        f"Measured on {result['date']} at commit {result['commit']} on {result['processor']}:"
        f" {arguments['model']} and requantizations of it, windows of {arguments['tokens']} tokens of"
        " Python's own documentation (prose) and sources (code)."
    )
    return "\n".join([HEAD, measured, "", *_tables(result["files"]), TAIL])


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
