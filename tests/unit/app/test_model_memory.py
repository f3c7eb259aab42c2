"""What a model needs is known before its engine starts, and is what its loader takes."""

from pathlib import Path
from typing import Any

import pytest

from stoker.app.model_memory import PASSING_BYTES, PROCESS_BYTES, model_memory
from stoker.config import Settings
from stoker.core.errors import SettingsError
from stoker.core.step import BLOCK_TOKENS
from stoker.models.library import LocatedModel
from stoker.testing.gguf_files import write_tiny_llama
from stoker.worker.config import EngineConfig
from stoker.worker.native import load_native

BUDGET = 4 * 2**30


@pytest.fixture
def located(tmp_path: Path) -> LocatedModel:
    write_tiny_llama(tmp_path / "tiny.gguf")
    return LocatedModel("tiny", tmp_path / "tiny.gguf")


def settings(**given: Any) -> Settings:
    return Settings.model_validate({"threads": 1, "max_running": 2, **given})


def test_the_engine_gets_the_kv_cache_that_was_counted(located: LocatedModel) -> None:
    memory = model_memory(settings(), located, "native", BUDGET)
    assert memory.kv_bytes is not None
    loaded = load_native(
        EngineConfig(
            model_path=located.path,
            model="tiny",
            n_threads=1,
            max_running=2,
            kv_memory_bytes=memory.kv_bytes,
        )
    )
    try:
        assert loaded.engine.kv_blocks * loaded.kv_block_bytes == memory.kv_bytes
        assert loaded.kv_host_bytes <= memory.kv_bytes // 2
    finally:
        loaded.engine.close()
    assert memory.need_bytes > memory.kv_bytes * 3 // 2 + PROCESS_BYTES


def test_a_draft_model_shares_the_memory_for_kv(located: LocatedModel, tmp_path: Path) -> None:
    draft = write_tiny_llama(tmp_path / "draft.gguf", n_layers=1)
    alone = model_memory(settings(), located, "native", BUDGET)
    memory = model_memory(settings(), located, "native", BUDGET, draft_path=draft)
    assert memory.kv_bytes is not None
    assert alone.kv_bytes is not None
    assert memory.kv_bytes == alone.kv_bytes * 3 // 2, "one layer beside two"
    assert memory.need_bytes - alone.need_bytes > memory.kv_bytes - alone.kv_bytes
    loaded = load_native(
        EngineConfig(
            model_path=located.path,
            model="tiny",
            n_threads=1,
            max_running=2,
            speculation="draft-model",
            draft_path=draft,
            kv_memory_bytes=memory.kv_bytes,
        )
    )
    try:
        assert loaded.guesses is not None
        assert [each.kv_blocks for each in loaded.engines] == [loaded.engine.kv_blocks] * 2
        assert loaded.engine.kv_blocks * loaded.kv_block_bytes == alone.kv_bytes
        assert 0.0 < loaded.guesses.cost < 1.0
    finally:
        loaded.close()


def test_an_unset_kv_cache_has_a_context_at_least_and_no_more_than_is_of_use(located: LocatedModel) -> None:
    small, large = (model_memory(settings(), located, "native", budget) for budget in (1, BUDGET))
    assert small.kv_bytes is not None
    assert large.kv_bytes == 2 * small.kv_bytes, "two places, of a context each"
    half = model_memory(settings(context_length=4 * BLOCK_TOKENS), located, "native", 1)
    assert half.kv_bytes is not None
    assert half.kv_bytes <= small.kv_bytes


def test_what_is_set_counts_as_it_is_set(located: LocatedModel) -> None:
    def need(**given: Any) -> int:
        return model_memory(settings(**given), located, "native", BUDGET).need_bytes

    bare = need(kv_memory=2**20, kv_host_memory=0)
    assert need(kv_memory=2**21, kv_host_memory=0) == bare + 2**20
    assert need(kv_memory=2**20) == bare + 2**19
    assert need(kv_memory=2**20, kv_host_memory=2**22) == bare + 2**22
    assert need(kv_memory=2**20, kv_host_memory=0, max_kv_disk_bytes=1) == bare + PASSING_BYTES
    assert need(kv_memory=2**20, kv_host_memory=0, step_tokens=1024) > bare


def test_a_path_that_this_processor_has_not(located: LocatedModel) -> None:
    with pytest.raises(SettingsError, match="neon"):
        model_memory(settings(isa="neon"), located, "native", BUDGET)


def test_llama_cpp_counts_its_file_and_its_contexts(located: LocatedModel) -> None:
    memory = model_memory(settings(), located, "llamacpp", BUDGET)
    assert memory.kv_bytes is not None
    assert memory.need_bytes > memory.kv_bytes + located.path.stat().st_size + PROCESS_BYTES
