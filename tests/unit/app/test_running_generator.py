"""A start that fails in two places at once."""

import asyncio
import gc
from pathlib import Path

import pytest

from stoker.app import LocalModel, running_generator
from stoker.app.local_model import local_model
from stoker.config import Settings
from stoker.core.errors import CorruptFileError, OutOfMemoryError, SettingsError, UnknownModelError
from stoker.models.library import LocatedModel
from stoker.testing.gguf_files import write_tiny_llama
from stoker.text import LocalGenerator
from stoker.worker.supervisor import EngineSupervisor


async def test_of_two_failures_one_is_raised_and_none_is_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(_: EngineSupervisor) -> None:
        await asyncio.sleep(0.1)  # the other failure comes first
        raise OutOfMemoryError("the model does not fit")

    def generator(_: LocalModel) -> LocalGenerator:
        raise CorruptFileError("the tokenizer is damaged")

    monkeypatch.setattr(EngineSupervisor, "start", start)
    monkeypatch.setattr(LocalModel, "generator", generator)
    left_over: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left_over.append(context))
    located = LocatedModel("tiny", write_tiny_llama(tmp_path / "tiny.gguf"))
    with pytest.raises((OutOfMemoryError, CorruptFileError)):
        async with running_generator(Settings(), located):
            pass
    gc.collect()
    assert left_over == []


async def test_a_draft_model_must_be_named_and_be_there(tmp_path: Path) -> None:
    located = LocatedModel("tiny", write_tiny_llama(tmp_path / "tiny.gguf"))
    with pytest.raises(SettingsError, match="draft_model is not set"):
        local_model(Settings(speculation="draft-model"), located)
    missing = Settings(speculation="draft-model", draft_model=str(tmp_path / "missing.gguf"))
    with pytest.raises(UnknownModelError, match=r"missing\.gguf"):
        local_model(missing, located)
    there = Settings(speculation="draft-model", draft_model=str(located.path))
    assert local_model(there, located).supervisor is not None
