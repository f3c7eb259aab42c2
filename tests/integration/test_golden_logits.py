"""The float path's log-probabilities against those of `transformers` (see tests/golden/logits)."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from stoker import _native
from stoker.engine.native import NativeEngine
from stoker.testing.native_engine import load_for_one_text, token_logprobs

pytestmark = pytest.mark.integration

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "logits" / "golden.npz")
N_PROMPTS = sum(name.startswith("ids_") for name in GOLDEN.files)
LARGEST_DIFFERENCE = 1e-3


FASTEST, *OTHERS = _native.available_isas()
CASES = [(FASTEST, index) for index in range(N_PROMPTS)]
CASES += [(isa, index) for isa in OTHERS for index in range(N_PROMPTS) if len(GOLDEN[f"ids_{index}"]) < 100]
"""The fastest path computes every prompt, the others the short ones."""


@pytest.fixture(scope="module")
def engines(default_model_path: Path) -> Callable[[str], NativeEngine]:
    return cache(lambda isa: load_for_one_text(default_model_path, isa, float_path=True))


def test_there_are_prompts() -> None:
    assert N_PROMPTS >= 6


@pytest.mark.parametrize(("isa", "index"), CASES)
def test_logprobs(
    engines: Callable[[str], NativeEngine],
    isa: str,
    index: int,
    record_property: Callable[[str, object], None],
) -> None:
    ids = GOLDEN[f"ids_{index}"].tolist()
    ours = token_logprobs(engines(isa), ids)[GOLDEN[f"positions_{index}"]]
    theirs = GOLDEN[f"logprobs_{index}"]
    difference = float(np.abs(np.take_along_axis(ours, GOLDEN[f"top_{index}"], axis=1) - theirs).max())
    record_property("max_abs_difference", difference)
    print(f"{isa}, prompt {index}: {len(ids)} tokens, largest difference {difference:.2e}")  # noqa: T201
    assert difference <= LARGEST_DIFFERENCE
    # Nothing that is not among the golden tokens may be more likely than they are.
    least = theirs[:, -1:] + LARGEST_DIFFERENCE
    assert np.all((ours > least).sum(axis=1) <= theirs.shape[1])
