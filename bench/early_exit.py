"""What answers without generating cost: ``python bench/early_exit.py URL --out FILE``.

Asks a running server with prompts that are all different, in turns: for one of some choices by scoring them,
for the same by generating with a grammar, and to classify with as many labels. The choices are of one token
each, which need the prompt alone, or of several with different beginnings, which need a sequence each.
Medians are compared.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
from harness.machine import heading
from harness.results import write

CHOICES = (
    " sport", " politics", " science", " weather", " music", " finance", " travel", " food", " health", " law"
)  # fmt: skip
LONG_CHOICES = (
    " cycling or another sport", " world politics", " natural science", " tomorrow's weather",
    " classical music", " personal finance", " travel by train", " healthy food", " public health",
    " criminal law"
)  # fmt: skip
CASES = ((CHOICES[:2], ""), (CHOICES, ""), (LONG_CHOICES, " of several tokens"))
WARM_UP = 2


def bodies(model: str, prompt: str, choices: list[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the requests of one round: path and body."""
    return {
        "choices": ("/v1/completions", {"model": model, "prompt": f"a.{prompt}", "choices": choices}),
        "grammar": (
            "/v1/completions",
            {"model": model, "prompt": f"b.{prompt}", "guided_choice": choices, "temperature": 0},
        ),
        "classify": (
            "/v1/classify",
            {"model": model, "input": f"c.{prompt}", "labels": choices, "prompt": "{input}"},
        ),
    }


def main() -> int:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    rows = []
    for n_words in (16, 256):
        for of_case, (choices, which) in enumerate(CASES):
            seconds: dict[str, list[float]] = {}
            for at in range(arguments.rounds + WARM_UP):
                # It begins with a letter and numbers of its own, so that nothing is in the prefix cache.
                prompt = f"{n_words}.{of_case}.{at}: " + "some words of a text " * (n_words // 5)
                for kind, (path, body) in bodies(arguments.model, prompt, list(choices)).items():
                    began = time.perf_counter()
                    answer = httpx2.post(f"{arguments.url}{path}", json=body, timeout=120)
                    answer.raise_for_status()
                    if at >= WARM_UP:
                        seconds.setdefault(kind, []).append(time.perf_counter() - began)
            medians = {kind: statistics.median(values) for kind, values in seconds.items()}
            rows.append(
                {
                    "words": n_words,
                    "choices": len(choices),
                    "which": which,
                    "median_s": medians,
                    "seconds": seconds,
                }
            )
            told = "  ".join(f"{kind} {1000 * median:.1f} ms" for kind, median in medians.items())
            sys.stdout.write(f"{n_words} words, {len(choices)} choices{which}:  {told}\n")
    write(arguments.out, {**heading("early_exit", vars(arguments)), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
