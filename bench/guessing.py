"""What it is worth to have a model guess next tokens, and that it costs nothing where it is of no use.

    python bench/guessing.py MODEL.gguf --out bench/results/guessing.json

There is no smaller model of the default model's family. So for the case of a fitting pair the served model is
the default one with two layers behind each of its own that take as long to compute and change nothing: 90
layers, for which the default model guesses, or the model itself without the further layers. Both guess nearly
always right, which is the best that these ways can bring where a guess costs about a third of a step. For the
case of no fit the default model guesses for itself, which takes as long as saying it, or without the layers
that ``auto`` leaves out.

Otherwise as ``speculation.py`` does it, with passages that are gone on with at temperature 1.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.machine import cores, heading
from harness.results import write
from speculation import WIDTHS, documentation_loads, measure, pair, show

from stoker.models import open_model
from stoker.testing.gguf_layers import write_layers

FURTHER = 2
"""Layers that change nothing, behind each one of the model's own."""


@dataclass(frozen=True, slots=True)
class Case:
    """A model, and what guesses for it."""

    name: str
    model: Path
    settings: tuple[str, ...]


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the default model's GGUF file")
    scratch = Path(tempfile.gettempdir()) / "stoker-bench"
    parser.add_argument("--work", type=Path, default=scratch, help="folder for models, packs and logs")
    parser.add_argument("--pairs", type=int, default=7, help="(default: 7)")
    parser.add_argument(
        "--widths", type=int, nargs="+", choices=WIDTHS, default=(1, 4, 16), help="streams at a time"
    )
    parser.add_argument("--threads", type=int, default=cores(), help="(default: all processors)")
    parser.add_argument("--note", default="", help="put into the result, such as what else the machine did")
    parser.add_argument("--out", type=Path, help="write the result here")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def make_cases(model: Path, work: Path) -> list[Case]:
    """Return the cases, and write the longer model into `work`."""
    with open_model(model) as source:
        n_layers = source.config.n_layers
    layers = [each for layer in range(n_layers) for each in (layer, *[None] * FURTHER)]
    longer = write_layers(work / f"{model.stem}-longer.gguf", model, layers)
    further = ",".join(str(index) for index, layer in enumerate(layers) if layer is None)
    draft = ("--speculation", "draft-model", "--draft-model", str(model.resolve()))
    skip = ("--speculation", "skip-layers")
    return [
        Case("a draft model of a third", longer, draft),
        Case("without two thirds of the layers", longer, (*skip, "--skip-layers", further)),
        Case("a draft model of the same size", model, draft),
        Case("without a quarter of the layers", model, skip),
    ]


def main() -> None:
    """Time each case in pairs with the same model that has no guesses, write the result."""
    options = read_arguments()
    result = heading("guessing", vars(options))
    result["threads"] = options.threads
    loads = [  # the same texts as there, of which few repeat themselves
        load
        for load in documentation_loads(options.model)
        if load.kind == "writing" and len(load.prompts) in options.widths
    ]
    result["cases"] = {}
    for case in make_cases(options.model, options.work):
        of_case = result["cases"][case.name] = {}
        with pair(case.model, case.settings, threads=options.threads, work=options.work) as (servers, name):
            for load in loads:
                found = of_case[load.name] = measure(servers, name, load, options.pairs)
                show(f"{case.name}, {load.name}", found)
                if options.out:
                    write(options.out, result)


if __name__ == "__main__":
    main()
