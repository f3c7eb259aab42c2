"""What int8 activations and fp16 KV cost: the path that serves against the float path, on real text."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker import _native
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.text import Tokenizer

pytestmark = pytest.mark.integration

Floats = NDArray[np.float32]

TEXT = Path(__file__).parent.parent / "data" / "public_text.txt"
WINDOW = 400
N_WINDOWS = 5

LEAST_AGREEMENT = 0.97
LARGEST_DIVERGENCE = 0.005


def load(path: Path, isa: str, *, float_path: bool = False) -> NativeEngine:
    settings = NativeEngineSettings(
        threads=2,
        isa=isa,
        context_length=512,
        kv_memory_bytes=64 << 20,
        max_running=1,
        float_path=float_path,
    )
    with open_model(path) as model:
        return load_engine(model, settings)


def logprobs(engine: NativeEngine, tokens: list[int]) -> Floats:
    """Log-probabilities of the token after each, ``[n_tokens, vocab_size]``."""
    plan = StepPlan(
        request_ids=["quality"],
        tokens=[tokens],
        first_positions=[0],
        block_tables=[list(range(-(-len(tokens) // BLOCK_TOKENS)))],
        samples=[False],
    )
    logits = engine.logits(plan)
    logits -= logits.max(axis=1, keepdims=True)
    totals = np.exp(logits).sum(axis=1, keepdims=True, dtype=np.float64)
    normalized: Floats = logits - np.log(totals).astype(np.float32)
    return normalized


@pytest.fixture(scope="module")
def windows(default_model_path: Path) -> list[list[int]]:
    with open_model(default_model_path) as model:
        tokens = Tokenizer(model.tokenizer).encode(TEXT.read_text())
    assert len(tokens) >= WINDOW * N_WINDOWS
    return [tokens[i * WINDOW : (i + 1) * WINDOW] for i in range(N_WINDOWS)]


@pytest.fixture(scope="module")
def references(default_model_path: Path, windows: list[list[int]]) -> list[Floats]:
    engine = load(default_model_path, "auto", float_path=True)
    return [logprobs(engine, window) for window in windows]


@pytest.mark.parametrize("isa", _native.available_isas())
def test_quantized_against_float(
    default_model_path: Path,
    windows: list[list[int]],
    references: list[Floats],
    isa: str,
    record_property: Callable[[str, object], None],
) -> None:
    engine = load(default_model_path, isa)
    n_windows = 1 if isa == "portable" else N_WINDOWS  # it is slow
    agreements, divergences = [], []
    for window, reference in zip(windows[:n_windows], references, strict=False):
        served = logprobs(engine, window)
        agreements.append(served.argmax(axis=1) == reference.argmax(axis=1))
        terms = np.exp(reference) * (reference - served)
        divergences.append(terms.sum(axis=1, dtype=np.float64))
    agreement = float(np.mean(np.concatenate(agreements)))
    divergence = float(np.mean(np.concatenate(divergences)))
    record_property("n_tokens", n_windows * WINDOW)
    record_property("top_1_agreement", agreement)
    record_property("mean_kl_divergence", divergence)
    print(  # noqa: T201
        f"{isa}, {n_windows * WINDOW} tokens: top-1 agreement {agreement:.2%}, mean KL {divergence:.5f} nats"
    )
    assert agreement >= LEAST_AGREEMENT
    assert divergence <= LARGEST_DIVERGENCE
