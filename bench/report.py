"""Write the README's benchmarks, docs/benchmarks.md and the plots: ``python bench/report.py``.

Read are ``engine.json``, ``shape-NAME.json``, ``servers.json``, ``overhead.json``, and of the abilities
``wake.json``, ``lora.json``, ``grammars.json`` and ``embeddings.json``, in bench/results; all but the first
may be missing. With `--check` nothing is written: the exit status tells whether pages and results agree.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.results import read
from pages.documents import BEGIN, END, PLOTS, Results, benchmarks_page, plots, readme_part

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
ABILITIES = ("speculation", "guessing", "wake", "lora", "grammars", "embeddings", "early_exit")


def load(folder: Path) -> Results:
    """Read the results of a folder."""

    def optional(name: str) -> dict[str, object] | None:
        path = folder / name
        return read(path) if path.exists() else None

    shapes = sorted(folder.glob("shape-*.json"))
    return Results(
        engine=read(folder / "engine.json"),
        shapes={path.stem.removeprefix("shape-"): read(path) for path in shapes},
        servers=optional("servers.json"),
        overhead=optional("overhead.json"),
        abilities={name: found for name in ABILITIES if (found := optional(f"{name}.json"))},
    )


def pages(results: Results, readme: str) -> dict[str, str]:
    """Return all that is written, by path below the root.

    Args:
        results: What has been measured.
        readme: The README as it is.
    """
    before, found_begin, rest = readme.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not found_begin or not found_end:
        sys.exit(f"README.md lacks the lines {BEGIN} and {END}, between which its benchmarks stand")
    return {
        "README.md": before + readme_part(results).rstrip("\n") + after,
        "docs/benchmarks.md": benchmarks_page(results),
        **{f"{PLOTS}/{name}": text for name, text in plots(results).items()},
    }


def differing(written: Mapping[str, str], root: Path) -> list[str]:
    """Return which files are not as they should be, plots that should not be there among them."""
    wrong = [
        name
        for name, text in written.items()
        if not (root / name).exists() or (root / name).read_text(encoding="utf-8") != text
    ]
    others = {str(path.relative_to(root)) for path in (root / PLOTS).glob("*.svg")} - written.keys()
    return [*wrong, *sorted(others)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something differs")
    options = parser.parse_args(arguments)
    written = pages(load(RESULTS), (ROOT / "README.md").read_text(encoding="utf-8"))
    wrong = differing(written, ROOT)
    if options.check:
        for name in wrong:
            print(f"{name} is not what the results say: run python bench/report.py")
        return 1 if wrong else 0
    (ROOT / PLOTS).mkdir(parents=True, exist_ok=True)
    for name in wrong:
        if name in written:
            (ROOT / name).write_text(written[name], encoding="utf-8")
        else:
            (ROOT / name).unlink()
        print(f"{name}: {'written' if name in written else 'removed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
