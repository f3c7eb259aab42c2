"""What computing in few bits costs: divergence from the float path, perplexity and top-1 agreement.

    python bench/quality.py MODEL.gguf --peers PYTHON --out bench/results/quality.json

Every engine computes the same windows of token ids, each from an empty cache, and its logits at every
position are compared with those of Stoker's own float path on the same file (dequantized weights, fp32
activations and KV; `tests/golden` compares that path with `transformers`). So the figures say what an
engine loses beside what the file's quantization has lost already. Texts come with Python: the language
reference and other topics of `pydoc`, and sources of the standard library. With `--peers` (see
bench/README.md) llama.cpp runs beside it, and the model is also requantized to other types.

Nothing is timed: the machine may be busy. `bench/quality_page.py` writes docs/quality.md from the result.
"""

import argparse
import json
import os
import pydoc_data.topics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from harness.machine import heading
from numpy.typing import NDArray

from stoker.engine.native.divergence import Divergence, compare
from stoker.models import open_model
from stoker.testing.quality import mean_kl_ratio, summarize
from stoker.text import Tokenizer

CONTENDERS = Path(__file__).parent / "contenders"
SOURCES = ("argparse.py", "asyncio/base_events.py", "dataclasses.py", "typing.py", "tarfile.py")
OTHER_TYPES = ("Q8_0", "BF16", "Q4_K_M")
CHUNK = 4
"""Windows that an engine computes in one process; their logits are on disk meanwhile."""

OWN_KV_TYPES = ("f16", "bf16", "q8")


@dataclass
class Contender:
    """An engine in one setting, and what was found."""

    python: Path
    script: str
    options: dict[str, str]
    settings: dict[str, str] = field(default_factory=dict)
    windows: list[Divergence] = field(default_factory=list)


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="the GGUF file, Q4_1")
    parser.add_argument("--peers", type=Path, help="Python of the peers' environment; else Stoker alone")
    scratch = Path(tempfile.gettempdir()) / "stoker-bench"
    parser.add_argument("--work", type=Path, default=scratch, help="folder for converted models and logits")
    parser.add_argument("--windows", type=int, default=24, help="of each text, for the file itself")
    parser.add_argument("--other-windows", type=int, default=8, help="of each text, for the other types")
    parser.add_argument("--tokens", type=int, default=512, help="of a window")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, help="write the result here, after every file too")
    return parser.parse_args()


def texts() -> dict[str, str]:
    """Return what is read: English prose and code."""
    library = Path(os.__file__).parent
    return {
        "prose": "\n\n".join(text for _, text in sorted(pydoc_data.topics.topics.items())),
        "code": "\n\n".join((library / name).read_text() for name in SOURCES),
    }


def cut(model: Path, text: str, n_windows: int, n_tokens: int) -> list[list[int]]:
    """Tokenize a text and take windows at even distances, each begun as the model wants texts to begin."""
    with open_model(model) as source:
        spec = source.tokenizer
        tokens = Tokenizer(spec).encode(text)
    begin = [spec.bos_token_id] if spec.add_bos and spec.bos_token_id is not None else []
    n_text = n_tokens - len(begin)
    distance = len(tokens) // n_windows
    if distance < n_text:
        sys.exit(f"the text has {len(tokens)} tokens, too few for {n_windows} windows of {n_tokens}")
    return [begin + tokens[i * distance : i * distance + n_text] for i in range(n_windows)]


def compute(
    contender: Contender, model: Path, windows: Sequence[list[int]], arguments: argparse.Namespace, out: Path
) -> NDArray[np.float32]:
    """Let one engine compute logits, ``[windows, tokens, vocabulary]``, in a process of its own."""
    job = {
        "model": str(model.resolve()),
        "threads": arguments.threads,
        "windows": list(windows),
        "out": str(out),
        "options": contender.options,
    }
    command = [contender.python, CONTENDERS / contender.script]
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, check=False, timeout=3600
    )
    if done.returncode != 0:
        sys.exit(f"{contender.script} failed:\n{done.stderr}")
    contender.settings = json.loads(done.stdout.splitlines()[-1])
    logits: NDArray[np.float32] = np.load(out, mmap_mode="r")
    return logits


def own(**options: str) -> Contender:
    """Stoker's engine."""
    return Contender(Path(sys.executable), "quality_stoker.py", options)


def contenders(peers: Path | None) -> dict[str, Contender]:
    """List who is compared with the float path, by name."""
    found = {f"stoker, {kv_type} KV": own(kv_type=kv_type) for kv_type in OWN_KV_TYPES}
    if peers is not None:
        for kv_type in ("f16", "q8_0"):
            found[f"llama.cpp, {kv_type} KV"] = Contender(peers, "quality_llamacpp.py", {"kv_type": kv_type})
    return found


def models(arguments: argparse.Namespace) -> Iterator[tuple[str, Path, int]]:
    """Yield each file's type, the file, and how many windows of each text it gets."""
    yield "Q4_1", arguments.model, arguments.windows
    if arguments.peers is None:
        return
    for kind in OTHER_TYPES:
        target = arguments.work / f"{arguments.model.stem}.{kind}.gguf"
        if not target.exists():
            command = [arguments.peers, CONTENDERS / "requantize.py", arguments.model, target, kind]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        yield kind, target, arguments.other_windows


def measure(
    model: Path, windows: list[list[int]], arguments: argparse.Namespace, scratch: Path
) -> dict[str, Any]:
    """Compare all engines on one file and text."""
    reference = own(float_path="1")
    found = contenders(arguments.peers)
    for first in range(0, len(windows), CHUNK):
        chunk = windows[first : first + CHUNK]
        right = compute(reference, model, chunk, arguments, scratch / "reference.npy")
        for name, contender in found.items():
            wrong = compute(contender, model, chunk, arguments, scratch / "logits.npy")
            contender.windows += [
                compare(right[i], wrong[i], np.array(window, np.int32)) for i, window in enumerate(chunk)
            ]
            print(f"{model.name}: window {first + len(chunk)} of {len(windows)}, {name}", file=sys.stderr)
    rival = found.get("llama.cpp, f16 KV")
    result: dict[str, Any] = {"reference": reference.settings}
    for name, contender in found.items():
        result[name] = {
            "settings": contender.settings,
            **asdict(summarize(contender.windows)),
            "windows": [
                {
                    "mean_kl": float(window.kl.mean()),
                    "top_1_agreement": float(window.same_top.mean()),
                    "nll": float(window.nll.mean()),
                    "reference_nll": float(window.reference_nll.mean()),
                }
                for window in contender.windows
            ],
        }
        if rival is not None and contender is not rival:
            ratio = mean_kl_ratio(contender.windows, rival.windows)
            result[name]["mean_kl_over_llamacpp"] = asdict(ratio)
    return result


def main() -> None:
    """Measure everything; write the result."""
    arguments = read_arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    result = {**heading("quality", vars(arguments)), "files": {}}
    with tempfile.TemporaryDirectory(dir=arguments.work) as scratch:
        for kind, model, n_windows in models(arguments):
            of_file = result["files"].setdefault(kind, {})
            for name, text in texts().items():
                windows = cut(model, text, n_windows, arguments.tokens)
                of_file[name] = measure(model, windows, arguments, Path(scratch))
                print(json.dumps({kind: {name: {k: v.get("mean_kl") for k, v in of_file[name].items()}}}))
                if arguments.out is not None:
                    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
