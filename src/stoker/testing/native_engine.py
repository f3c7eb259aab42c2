"""The native engine over a real model, for tests that look at every position's probabilities."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model

MAX_TOKENS = 512
"""Most tokens of a text."""


def load_for_one_text(path: Path, isa: str, *, float_path: bool, kv_type: str = "auto") -> NativeEngine:
    """Load a model for computing one text at a time."""
    settings = NativeEngineSettings(
        threads=2,
        isa=isa,
        kv_type=kv_type,
        context_length=MAX_TOKENS,
        step_tokens=MAX_TOKENS,
        kv_memory_bytes=64 << 20,
        max_running=1,
        float_path=float_path,
    )
    with open_model(path) as model:
        return load_engine(model, settings)


def token_logprobs(engine: NativeEngine, tokens: list[int]) -> NDArray[np.float32]:
    """Return natural log-probabilities of the token after each of `tokens`, ``[n_tokens, vocab_size]``."""
    plan = StepPlan(
        request_ids=["text"],
        tokens=[tokens],
        first_positions=[0],
        block_tables=[list(range(-(-len(tokens) // BLOCK_TOKENS)))],
        samples=[False],
    )
    logits = engine.logits(plan)
    logits -= logits.max(axis=1, keepdims=True)
    totals = np.exp(logits).sum(axis=1, keepdims=True, dtype=np.float64)
    normalized: NDArray[np.float32] = logits - np.log(totals).astype(np.float32)
    return normalized
