"""KV blocks that were copied out and back are what was computed, to the last bit."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker.core.errors import EngineError
from stoker.core.step import BLOCK_TOKENS, StepPlan
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.testing.gguf_files import TINY_VOCAB_SIZE, write_tiny_llama
from stoker.testing.workloads import make_tokens

N_BLOCKS = 3
TOKENS = make_tokens("moved", N_BLOCKS * BLOCK_TOKENS + 5, TINY_VOCAB_SIZE)


def load(path: Path, *, float_path: bool, kv_memory_bytes: int = 1 << 20, threads: int = 2) -> NativeEngine:
    settings = NativeEngineSettings(
        threads=threads,
        kv_memory_bytes=kv_memory_bytes,
        context_length=128,
        max_running=2,
        step_tokens=128,
        float_path=float_path,
    )
    with open_model(path) as model:
        return load_engine(model, settings)


def compute(engine: NativeEngine, first: int, table: list[int]) -> NDArray[np.float32]:
    plan = StepPlan(
        request_ids=["moved"],
        tokens=[list(TOKENS[first:])],
        first_positions=[first],
        block_tables=[table],
        samples=[False],
    )
    return engine.logits(plan)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf", n_layers=3, n_heads=4, n_kv_heads=2)


@pytest.mark.parametrize("float_path", [False, True])
def test_moved_blocks_give_the_same_logits_also_in_another_engine(path: Path, *, float_path: bool) -> None:
    engine = load(path, float_path=float_path)
    other = load(path, float_path=float_path, kv_memory_bytes=3 << 20, threads=1)
    assert engine.kv_blocks != other.kv_blocks
    whole = compute(engine, 0, [4, 1, 3, 0])
    memory = memoryview(bytearray(5 * engine.kv_block_bytes))
    engine.save_blocks([4, 1, 3], [2, 0, 4], memory)
    n_kept = N_BLOCKS * BLOCK_TOKENS
    for each, table in ((other, [7, 6, 5, 2]), (engine, [0, 5, 2, 6])):
        each.load_blocks(table[:3], [2, 0, 4], memory)
        np.testing.assert_array_equal(compute(each, n_kept, table), whole[n_kept:])


def test_a_block_is_all_layers_keys_and_values(path: Path) -> None:
    engine = load(path, float_path=False)
    compute(engine, 0, [0, 1, 2, 3])
    size = engine.kv_block_bytes
    memory = memoryview(bytearray(b"\xff" * 3 * size))
    engine.save_blocks([0], [1], memory)
    saved = np.frombuffer(memory[size : 2 * size], np.uint8).reshape(2 * 3, -1)
    assert (saved != 255).any(axis=1).all(), "every layer's keys and values"
    assert len({piece.tobytes() for piece in saved}) == 6
    assert set(bytes(memory[:size])) == set(bytes(memory[2 * size :])) == {255}, "nothing else is written"


@pytest.mark.parametrize(("block", "slot"), [(-1, 0), (10**6, 0), (0, -1), (0, 2)])
def test_a_block_or_slot_that_is_not_there_is_refused(path: Path, block: int, slot: int) -> None:
    engine = load(path, float_path=False)
    memory = memoryview(bytearray(2 * engine.kv_block_bytes + 1))
    for copy in (engine.save_blocks, engine.load_blocks):
        with pytest.raises(EngineError, match="there is no"):
            copy([0, block], [1, slot], memory)
    assert not any(memory)


def test_every_block_needs_a_slot(path: Path) -> None:
    engine = load(path, float_path=False)
    with pytest.raises(EngineError, match="every block must have a slot"):
        engine.save_blocks([0, 1], [0], memoryview(bytearray(engine.kv_block_bytes)))
