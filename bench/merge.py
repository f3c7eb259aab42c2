"""What merging an adapter into a quantized model loses, beside the same adapter at run time.

    python bench/merge.py MODEL.gguf --out bench/results/merge.json

A random adapter is put on all linear layers. For a text (the language reference that comes with Python), the
divergence of next-token distributions from those of model and adapter in fp32 is reported, as the mean over
its tokens, in nats: of model and adapter as they are served, and of the merged model in each type.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import orjson
from harness.machine import cores, heading
from harness.results import write
from numpy.typing import NDArray

from stoker.app.merging import Merge, merge_adapter
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.core.tokens import AdapterRef
from stoker.engine.native import NativeEngineSettings, load_engine
from stoker.engine.native.merging import MergedType
from stoker.models import open_model
from stoker.models.adapters import AdapterLimits
from stoker.models.adapters.reading import adapter_digest
from stoker.models.library import ModelLibrary
from stoker.testing.adapters import adapter_weights, write_adapter
from stoker.text import Tokenizer

TYPES: tuple[MergedType, ...] = ("q8_0", "bf16")
FIRST_TOKEN = 3000  # behind the alphabetical beginning, which is all operators

Floats = NDArray[np.float64]


def read_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the GGUF file")
    parser.add_argument("--tokens", type=int, default=500, help="of the text (default: 500)")
    parser.add_argument("--rank", type=int, default=16, help="(default: 16)")
    parser.add_argument(
        "--strength", type=float, default=0.05, help="of what the adapter adds (default: 0.05)"
    )
    parser.add_argument("--out", type=Path, help="write the result here")
    return parser.parse_args(arguments)


def logprobs(path: Path, tokens: list[int], adapter: Path | None = None, *, exact: bool = False) -> Floats:
    """Return the log-probabilities after each token, in fp32 if `exact`, else as served."""
    settings = NativeEngineSettings(
        threads=cores(),
        context_length=len(tokens) + BLOCK_TOKENS,
        step_tokens=len(tokens),
        max_running=1,
        float_path=exact,
        max_adapters=1,
    )
    with open_model(path) as model:
        engine = load_engine(model, settings)
    adapters = {}
    if adapter is not None:
        digest = adapter_digest(adapter, AdapterLimits())
        engine.place_adapter(digest, engine.read_adapter(AdapterRef(str(adapter), digest)))
        adapters[0] = digest
    plan = StepPlan(
        request_ids=["text"],
        tokens=[tokens],
        first_positions=[0],
        block_tables=[list(range(-(-len(tokens) // BLOCK_TOKENS)))],
        samples=[False],
        adapters=adapters,
    )
    logits = engine.logits(plan).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    whole: Floats = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return whole


def divergence(expected: Floats, found: Floats) -> float:
    """Return the mean divergence in nats."""
    return float((np.exp(expected) * (expected - found)).sum(axis=1).mean())


def main() -> None:
    """Measure, tell what comes out, and write it."""
    options = read_arguments()
    with open_model(options.model) as model:
        text = "\n\n".join(topics[name] for name in sorted(topics))
        tokens = Tokenizer(model.tokenizer).encode(text)[FIRST_TOKEN : FIRST_TOKEN + options.tokens]
        weights = adapter_weights(model.config, rank=options.rank, strength=options.strength)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        adapter = write_adapter(
            folder / "adapter", weights, rank=options.rank, alpha=options.rank, dtype="BF16"
        )
        expected = logprobs(options.model, tokens, adapter, exact=True)
        cases = {
            "without the adapter": divergence(expected, logprobs(options.model, tokens)),
            "at run time": divergence(expected, logprobs(options.model, tokens, adapter)),
        }
        sizes = {"model": options.model.stat().st_size}
        library = ModelLibrary(folder / "models", {})
        base = library.ensure(str(options.model))
        for dtype in TYPES:
            limits = AdapterLimits(max_rank=options.rank)
            wanted = Merge(
                base=base, adapter=adapter, name=dtype.replace("_", "-"), dtype=dtype, limits=limits
            )
            stored = merge_adapter(library, wanted)
            cases[f"merged to {dtype}"] = divergence(expected, logprobs(stored.path, tokens))
            sizes[f"merged to {dtype}"] = stored.size_bytes
    result = {"divergence": cases, "bytes": sizes}
    print(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
    if options.out is not None:
        write(options.out, {**heading("merge.py", vars(options)), **result})


if __name__ == "__main__":
    main()
