"""What int8 activations and fp16 KV cost: the path that serves against the float path, on real text."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker import _native
from stoker.models import open_model
from stoker.testing.native_engine import load_for_one_text, token_logprobs
from stoker.text import Tokenizer

pytestmark = pytest.mark.integration

Floats = NDArray[np.float32]

TEXT = Path(__file__).parent.parent / "data" / "public_text.txt"
WINDOW = 400
N_WINDOWS = 5

LEAST_AGREEMENT = 0.97
LARGEST_DIVERGENCE = 0.005


@pytest.fixture(scope="module")
def windows(default_model_path: Path) -> list[list[int]]:
    with open_model(default_model_path) as model:
        tokens = Tokenizer(model.tokenizer).encode(TEXT.read_text())
    assert len(tokens) >= WINDOW * N_WINDOWS
    return [tokens[i * WINDOW : (i + 1) * WINDOW] for i in range(N_WINDOWS)]


@pytest.fixture(scope="module")
def references(default_model_path: Path, windows: list[list[int]]) -> list[Floats]:
    engine = load_for_one_text(default_model_path, "auto", float_path=True)
    return [token_logprobs(engine, window) for window in windows]


@pytest.mark.parametrize("isa", _native.available_isas())
def test_quantized_against_float(
    default_model_path: Path,
    windows: list[list[int]],
    references: list[Floats],
    isa: str,
    record_property: Callable[[str, object], None],
) -> None:
    engine = load_for_one_text(default_model_path, isa, float_path=False)
    n_windows = 1 if isa == "portable" else N_WINDOWS  # it is slow
    agreements, divergences = [], []
    for window, reference in zip(windows[:n_windows], references, strict=False):
        served = token_logprobs(engine, window)
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
