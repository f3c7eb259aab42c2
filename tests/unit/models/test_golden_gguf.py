"""GGUF files of every architecture: read by Stoker, computed in NumPy, against the logits of `transformers`.

See tests/golden/architectures. Whatever the reader gets wrong (a norm, a scale, a window, a frequency) shows.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from stoker.models import open_model
from stoker.models.architectures import FAMILIES
from stoker.testing.reference_forward import ReferenceForward

GOLDEN_DIR = Path(__file__).parents[2] / "golden" / "architectures"
FILES = sorted(GOLDEN_DIR.glob("*.gguf"))
CLOSE = 1e-3
"""Largest difference of logits; they spread over several units."""


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN_DIR / "golden.npz") as arrays:
        return {name: arrays[name] for name in arrays}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_logits_are_those_of_transformers(path: Path) -> None:
    arrays = golden()
    tokens, positions = arrays["tokens"].tolist(), arrays["positions"].tolist()
    expected = arrays.get(f"{path.stem}/gguf", arrays[path.stem])
    with open_model(path) as model:
        logits = ReferenceForward(model.config, model.tensors).logits(tokens)
        assert np.abs(logits[positions] - expected).max() < CLOSE
        assert expected.std() > 0.5
        if f"{path.stem}/short" in arrays:
            expected = arrays[f"{path.stem}/short"]
            n_short = model.config.rotaries[0].original_context
            short = ReferenceForward(model.config, model.tensors, context_length=n_short)
            found = short.logits(tokens[:n_short])[positions[: len(expected)]]
            assert np.abs(found - expected).max() < CLOSE
            assert np.abs(found - logits[positions[: len(expected)]]).max() > 10 * CLOSE


def test_every_architecture_has_a_golden_file() -> None:
    found = set()
    for path in FILES:
        with open_model(path) as model:
            found.add(model.config.architecture)
    assert found == set(FAMILIES) - {"mistral3"}  # to the reader, another name of llama
