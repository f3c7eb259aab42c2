"""Layers that are left out: which, and that nothing else is computed otherwise."""

from dataclasses import replace
from pathlib import Path

import pytest

from stoker.core.errors import EngineError, SettingsError
from stoker.core.sampling import SamplingParams
from stoker.core.step import StepPlan
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.engine.native.skipping import choose_skipped
from stoker.models import open_model
from stoker.testing.gguf_files import write_tiny_llama
from stoker.testing.gguf_layers import write_layers
from stoker.testing.workloads import make_tokens

PROMPT = list(make_tokens("skipping", 40, vocab_size=60))


def load(path: Path, isa: str = "auto") -> NativeEngine:
    settings = NativeEngineSettings(
        threads=2, isa=isa, kv_memory_bytes=1 << 20, context_length=64, max_running=2, step_tokens=64
    )
    with open_model(path) as model:
        return load_engine(model, settings)


def plan(tokens: list[int] = PROMPT, first: int = 0) -> StepPlan:
    return StepPlan(
        request_ids=["a"],
        tokens=[tokens],
        first_positions=[first],
        block_tables=[[0, 1, 2, 3]],
        samples=[True],
        sampling=[SamplingParams(temperature=0.0, logprobs=5)],
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf", n_layers=5)


def test_the_result_is_that_of_a_model_without_the_layers(path: Path, tmp_path: Path, isa: str) -> None:
    smaller = load(write_layers(tmp_path / "smaller.gguf", path, [0, 3, 4]), isa)
    engine = load(path, isa)
    skipping = engine.forward(replace(plan(), skipped_layers=(1, 2)))
    assert skipping.logprobs == smaller.forward(plan()).logprobs
    whole = engine.forward(plan())
    assert whole.logprobs != skipping.logprobs
    assert whole.logprobs == load(path, isa).forward(plan()).logprobs, "what was left in the blocks is gone"


def test_layers_that_add_nothing_can_be_skipped_or_not(path: Path, tmp_path: Path) -> None:
    longer = load(write_layers(tmp_path / "longer.gguf", path, [0, None, 1, 2, None, 3, 4]))
    expected = load(path).forward(plan()).logprobs
    assert longer.forward(plan()).logprobs == expected
    assert longer.forward(replace(plan(), skipped_layers=(1, 4))).logprobs == expected


def test_a_layer_that_is_not_there_is_refused(path: Path) -> None:
    engine = load(path)
    with pytest.raises(EngineError, match="refused a step"):
        engine.forward(replace(plan(), skipped_layers=(5,)))


@pytest.mark.parametrize(
    ("setting", "n_layers", "skipped"),
    [
        ("auto", 30, tuple(range(10, 18))),
        ("auto", 4, (1,)),
        ("3", 5, (3,)),
        ("0-2, 4", 6, (0, 1, 2, 4)),
        ("4,1-2,2", 6, (1, 2, 4)),
    ],
)
def test_which_layers_are_skipped(setting: str, n_layers: int, skipped: tuple[int, ...]) -> None:
    assert choose_skipped(setting, n_layers) == skipped


@pytest.mark.parametrize(
    ("setting", "n_layers", "message"),
    [
        ("auto", 2, "2 layers, too few"),
        ("0-3", 4, "all layers of the model"),
        ("4", 4, "layers are 0 to 3"),
        ("3-1", 4, "layers are 0 to 3"),
        ("1-", 4, "expected auto, or layers"),
        ("a", 4, "expected auto, or layers"),
        ("1,,2", 4, "expected auto, or layers"),
    ],
)
def test_layers_that_cannot_be_skipped(setting: str, n_layers: int, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        choose_skipped(setting, n_layers)
