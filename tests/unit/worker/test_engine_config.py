import asyncio
import json
import os
from pathlib import Path

import msgspec
import pytest

from stoker.core.batching import BatchingPolicy
from stoker.core.errors import SettingsError
from stoker.testing.engine_process import Behaviour, engine_command
from stoker.worker.config import EngineConfig
from stoker.worker.llamacpp import load_llamacpp
from stoker.worker.processors import available_processors


class SizeWithUnits(int):
    """An integer of a settings library's own class."""


def test_a_configuration_survives_its_line_with_a_path_that_is_not_unicode() -> None:
    config = EngineConfig(
        model_path=Path(os.fsdecode(b"/models/\xff.gguf")),
        model="model",
        kv_memory_bytes=SizeWithUnits(2**30),
        isa="portable",
        packs_dir=Path(os.fsdecode(b"/packs/\xff")),
        max_packs_bytes=SizeWithUnits(2**36),
        parent_pid=7,
        batching=BatchingPolicy(mode="time", batch_wait_s=0.25),
    )
    line = config.to_line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert EngineConfig.from_line(line) == config


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"model_path":3,"model":"m"}',
        b'{"modell":1}',
        b'{"model_path":"m","model":"m","batching":{"mode":"fast"}}',
    ],
)
def test_a_line_that_is_no_configuration_is_refused(line: bytes) -> None:
    with pytest.raises(SettingsError, match="one line of JSON"):
        EngineConfig.from_line(line)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 1000),
        ({"cpu.max": "max 100000"}, 1000),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 1000),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_processors_are_those_of_affinity_and_quota(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1000)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_processors(tmp_path) == expected


async def test_an_engine_writes_the_log_format_it_is_told(tmp_path: Path) -> None:
    config = EngineConfig(
        model_path=Path("fake"), model="fake", socket_path=tmp_path / "e.sock", log_format="json"
    )
    process = await asyncio.create_subprocess_exec(
        *engine_command(Behaviour.REFUSE), stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, logged = await process.communicate(config.to_line())
    assert json.loads(logged)["process"] == "engine"
    assert "9 GiB" in json.loads(logged)["event"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("isa", "portable"), ("kv_type", "q8"), ("speculation", "skip-layers"), ("speculation", "draft-model")],
)
def test_llama_cpp_refuses_settings_of_the_native_engine(setting: str, value: str) -> None:
    config = msgspec.structs.replace(
        EngineConfig(model_path=Path("model.gguf"), model="model"), **{setting: value}
    )
    advice = "set it to off" if setting == "speculation" else "leave it auto"
    with pytest.raises(SettingsError, match=rf"{setting} is '{value}', but llama.cpp.*; {advice}"):
        load_llamacpp(config)
