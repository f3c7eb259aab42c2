"""Weights of any bytes, in every stored type: they load and compute, or the file is called corrupt."""

import random
from pathlib import Path

import pytest

from stoker.core.errors import CorruptFileError
from stoker.core.sampling import SamplingParams
from stoker.core.step import StepPlan
from stoker.engine.native import NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.models.opened import open_gguf
from stoker.testing.gguf_blocks import TYPE_NUMBERS
from stoker.testing.gguf_files import write_tiny_llama


def load_and_sample(path: Path) -> int:
    """Load a model and return the token after a short prompt."""
    settings = NativeEngineSettings(
        threads=1, context_length=64, step_tokens=64, kv_memory_bytes=1 << 22, max_running=1
    )
    with open_model(path) as model:
        engine = load_engine(model, settings)
        vocab_size = model.config.vocab_size
    plan = StepPlan(
        request_ids=["a"],
        tokens=[[5, 6, 7]],
        first_positions=[0],
        block_tables=[[0]],
        samples=[True],
        sampling=[SamplingParams(temperature=0.0)],
    )
    token = engine.forward(plan).token_ids[0][0]
    assert 0 <= token < vocab_size
    return token


@pytest.mark.parametrize("dtype", sorted(TYPE_NUMBERS))
def test_damaged_tensors_load_or_are_told(dtype: str, tmp_path: Path) -> None:
    path = write_tiny_llama(
        tmp_path / "tiny.gguf",
        n_layers=1, width=256, n_heads=2, n_kv_heads=1, head_size=128, ffn_width=256, dtype=dtype,
    )  # fmt: skip
    load_and_sample(path)
    whole = path.read_bytes()
    with open_gguf(path) as model:
        starts = {info.start: info.size_bytes for info in model.tensor_infos.values()}
    chance = random.Random(dtype)
    for fill in (b"\x00", b"\xff", b"\x7f", b"\x80", b"random", b"random"):
        damaged = bytearray(whole)
        for start, size in starts.items():
            length = min(size, 600)
            noise = chance.randbytes(length) if fill == b"random" else fill * length
            damaged[start : start + length] = noise
        path.write_bytes(damaged)
        try:
            load_and_sample(path)
        except CorruptFileError as error:
            told = str(error)
            assert "tensor" in told or "norm" in told
