"""Logits with adapters, in every format, against those of `peft` and of `adapters`.

The adapters and their golden logits are in tests/golden/adapters and tests/golden/bottlenecks, their models
in tests/golden/architectures.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker import _native
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.core.tokens import AdapterRef
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.models.adapters import AdapterLimits
from stoker.models.adapters.reading import adapter_digest

Floats = NDArray[np.float32]

GOLDEN = Path(__file__).parents[2] / "golden"
FOLDERS = (GOLDEN / "adapters", GOLDEN / "bottlenecks")
ARRAYS = {
    key if key in ("tokens", "positions") else f"{folder.name}/{key}": array
    for folder in FOLDERS
    for key, array in np.load(folder / "golden.npz").items()
}
TOKENS = ARRAYS["tokens"].tolist()
CASES = sorted(name.removesuffix("/base") for name in ARRAYS if name.endswith("/base"))

FLOAT_ERROR = 3e-4
"""Largest difference in the float path, as of models without adapters; 5.2e-5 was measured."""

# Root of the mean square of the errors, relative to the logits', in the path that serves.

UNCODED_ERROR = 4e-3
"""With weights of single floats and KV in fp16; 0.0025 was measured."""

UNCODED_BF16_ERROR = 0.04
"""With weights of single floats and attention in bf16; 0.024 was measured."""

CODED_ERROR = 0.04
"""With quantized weights; 0.024 was measured."""

EXPERTS_ERROR = 0.12
"""Where a little more or less sends a token to another expert; 0.094 was measured."""


@dataclass(frozen=True)
class Golden:
    """One adapter in one format, over its model in one format."""

    name: str
    adapter: Path
    base: Path

    @property
    def label(self) -> str:
        formats = ("gguf" if path.is_file() else "folder" for path in (self.adapter, self.base))
        return f"{self.name.replace('/', '-')}-{'-over-'.join(formats)}"


def with_and_without_suffix(path: Path) -> list[Path]:
    return [path, path.with_name(f"{path.name}.gguf")]


PAIRS = [
    Golden(name, adapter, base)
    for name in CASES
    for adapter in with_and_without_suffix(GOLDEN / name)
    for base in with_and_without_suffix(GOLDEN / "architectures" / str(ARRAYS[f"{name}/base"]))
    if adapter.exists()
]


def found_logits(golden: Golden, isa: str, *, float_path: bool, with_adapter: bool = True) -> Floats:
    with open_model(golden.base) as model:
        settings = NativeEngineSettings(
            threads=1,
            isa=isa,
            kv_memory_bytes=1 << 22,
            context_length=128,
            max_running=2,
            step_tokens=128,
            float_path=float_path,
            max_adapters=1,
        )
        engine = load_engine(model, settings)
    digest = placed(engine, golden.adapter) if with_adapter else ""
    plan = StepPlan(
        request_ids=["golden"],
        tokens=[TOKENS],
        first_positions=[0],
        block_tables=[list(range(-(-len(TOKENS) // BLOCK_TOKENS)))],
        samples=[False],
        adapters={0: digest} if digest else {},
    )
    logits: Floats = engine.logits(plan)[ARRAYS["positions"]]
    return logits


def placed(engine: NativeEngine, path: Path) -> str:
    digest = adapter_digest(path, AdapterLimits())
    engine.place_adapter(digest, engine.read_adapter(AdapterRef(str(path), digest)))
    return digest


def relative_error(found: Floats, expected: Floats) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def test_every_kind_of_adapter_is_there() -> None:
    low_rank = ["all-linear", "bfloat16", "fused", "one-layer", "patterns", "plain", "ranks", "rslora"]
    bottlenecks = ["gelu", "houlsby", "one-layer", "pfeiffer", "post-norms", "post-norms-gelu"]
    assert [
        *(f"adapters/{name}" for name in low_rank),
        *(f"bottlenecks/{name}" for name in bottlenecks),
    ] == CASES
    assert len({pair.adapter for pair in PAIRS}) == 20


@pytest.mark.parametrize("golden", PAIRS, ids=lambda golden: golden.label)
def test_the_float_path(isa: str, golden: Golden) -> None:
    found = found_logits(golden, isa, float_path=True)
    assert np.abs(found - ARRAYS[golden.name]).max() <= FLOAT_ERROR


@pytest.mark.parametrize("golden", PAIRS, ids=lambda golden: golden.label)
def test_the_path_that_serves(isa: str, golden: Golden) -> None:
    found = found_logits(golden, isa, float_path=False)
    if golden.base.stem == "mixtral":
        bound = EXPERTS_ERROR
    elif golden.base.is_file():
        bound = CODED_ERROR
    else:
        bound = UNCODED_BF16_ERROR if _native.fastest_kv_type(isa) == "bf16" else UNCODED_ERROR
    assert relative_error(found, ARRAYS[golden.name]) <= bound


@pytest.mark.parametrize("golden", PAIRS[::2], ids=lambda golden: golden.label)
def test_the_golden_logits_need_the_adapter(golden: Golden) -> None:
    found = found_logits(golden, "auto", float_path=True, with_adapter=False)
    assert np.abs(found - ARRAYS[golden.name]).mean() > 0.5


@pytest.mark.parametrize("name", ["all-linear", "ranks", "one-layer", "plain", "bfloat16"])
def test_both_formats_give_the_same_bits(isa: str, name: str) -> None:
    results = {
        pair.adapter.suffix: found_logits(pair, isa, float_path=False).tobytes()
        for pair in PAIRS
        if pair.name == f"adapters/{name}" and pair.base.is_file()
    }
    assert results[""] == results[".gguf"]
