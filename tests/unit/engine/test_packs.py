"""Weights out of a pack: the same bits as repacked ones, shared, and never the cause of a failed start."""

import json
import logging
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker import _native
from stoker.core.errors import OutOfMemoryError
from stoker.core.step import StepPlan
from stoker.engine.native import NativeEngine, NativeEngineSettings, load_engine, loader, packing
from stoker.engine.native.sizing import RESERVE_BYTES
from stoker.models import open_model
from stoker.models.opened import open_gguf
from stoker.models.packs import PackFolder
from stoker.testing.gguf_blocks import TYPE_NUMBERS
from stoker.testing.gguf_files import write_tiny_llama
from stoker.testing.native_shapes import CONTEXT, RANDOM
from stoker.testing.random_source import random_source

TOKENS = list(range(5, 25))


def load(path: Path, packs: PackFolder | None, *, float_path: bool = False) -> NativeEngine:
    settings = NativeEngineSettings(
        threads=2,
        context_length=64,
        step_tokens=64,
        kv_memory_bytes=1 << 22,
        max_running=1,
        float_path=float_path,
    )
    with open_model(path) as model:
        return load_engine(model, settings, packs)


def logits(engine: NativeEngine) -> NDArray[np.float32]:
    plan = StepPlan(
        request_ids=["a"], tokens=[TOKENS], first_positions=[0], block_tables=[[0, 1]], samples=[False]
    )
    return engine.logits(plan)


def mapped_packs(pid: int | str = "self") -> list[str]:
    return [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if ".pack" in line]


def only_pack(packs: PackFolder) -> Path:
    (path,) = packs.folder.glob("*.pack")
    return path


@pytest.fixture
def packs(tmp_path: Path) -> PackFolder:
    return PackFolder(tmp_path / "packs", 1 << 30)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf", tied=False)


@pytest.mark.parametrize("dtype", sorted(TYPE_NUMBERS))
@pytest.mark.parametrize("float_path", [False, True])
def test_the_bits_are_those_of_repacked_weights(
    packs: PackFolder, tmp_path: Path, dtype: str, *, float_path: bool
) -> None:
    path = write_tiny_llama(
        tmp_path / "tiny.gguf",
        n_layers=1, width=256, n_heads=2, n_kv_heads=1, head_size=128, ffn_width=256, dtype=dtype,
    )  # fmt: skip
    expected = load(path, None, float_path=float_path)
    first = load(path, packs, float_path=float_path)
    written = only_pack(packs).stat().st_ino
    second = load(path, packs, float_path=float_path)
    assert only_pack(packs).stat().st_ino == written, "not written anew"
    assert len(mapped_packs()) == 2
    for engine in (first, second):
        np.testing.assert_array_equal(logits(engine), logits(expected))
        assert engine.fingerprint == expected.fingerprint


@pytest.mark.parametrize("name", RANDOM)
def test_every_part_of_every_architecture_goes_through_a_pack(packs: PackFolder, name: str) -> None:
    source = random_source(RANDOM[name], dtype="Q8_0")
    settings = NativeEngineSettings(
        threads=1, kv_memory_bytes=1 << 24, context_length=CONTEXT, max_running=1, step_tokens=64
    )
    expected = logits(load_engine(source, settings))
    for _ in range(2):
        engine = load_engine(source, settings, packs)
        np.testing.assert_array_equal(logits(engine), expected)
        assert len(mapped_packs()) == 1
        engine.close()


def test_the_second_start_touches_no_tensor(
    packs: PackFolder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(path, packs)

    def never(*_: object) -> None:
        raise AssertionError("repacked")

    monkeypatch.setattr(packing, "_set_weights", never)
    load(path, packs)


def test_the_float_path_has_a_pack_of_its_own(packs: PackFolder, path: Path) -> None:
    assert not np.array_equal(logits(load(path, packs)), logits(load(path, packs, float_path=True)))
    assert len(list(packs.folder.glob("*.pack"))) == 2


def test_an_edited_file_gets_a_pack_of_its_own(packs: PackFolder, path: Path) -> None:
    """Also if size and digest are what they were."""
    before = logits(load(path, packs))
    with open_gguf(path) as model:
        digest, info = model.digest, model.tensor_infos["output.weight"]
    content = bytearray(path.read_bytes())
    for place in range(info.start, info.start + 200):
        content[place] ^= 1
    path.write_bytes(content)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    with open_model(path) as model:
        assert model.digest == digest, "the sampled digest does not see it"
    after = logits(load(path, packs))
    assert not np.array_equal(after, before)
    np.testing.assert_array_equal(after, logits(load(path, None)))


@pytest.mark.parametrize("place", [0, 8, 12, 16, 40, 70, 4090, 5000, -1])
def test_a_damaged_pack_is_told_and_written_anew(
    packs: PackFolder, path: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    expected = logits(load(path, packs))
    whole = only_pack(packs).read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 0x10
    only_pack(packs).write_bytes(damaged)
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(logits(load(path, packs)), expected)
    assert "is not used" in caplog.text
    assert only_pack(packs).read_bytes() == whole


def test_a_pack_that_does_not_hold_the_model_is_not_used(
    packs: PackFolder, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole by its checksums, but its parts are wrong: nobody's accident, but no crash either."""
    expected = logits(load(path, packs))
    write = PackFolder.write

    def write_wrongly(self: PackFolder, *arguments: object, **named: object) -> None:
        key, parts = arguments
        write(self, key, parts[1:], **named)  # type: ignore[arg-type, index]

    only_pack(packs).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(PackFolder, "write", write_wrongly)
        np.testing.assert_array_equal(logits(load(path, packs)), expected)
    assert "does not hold this model" in caplog.text
    written_anew = load(path, packs)
    np.testing.assert_array_equal(logits(written_anew), expected)
    assert len(mapped_packs()) == 1


def test_a_full_disk_is_told_and_the_model_served_from_memory(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", width=512, ffn_width=2048, vocab_size=2048)
    packs = PackFolder(small_disk / "packs", 1 << 30)
    np.testing.assert_array_equal(logits(load(path, packs)), logits(load(path, None)))
    assert "No space left" in caplog.text
    assert not list(packs.folder.glob("**/*.pack*"))
    assert not mapped_packs()


@pytest.mark.parametrize("name", ["file/packs", "p" * 300])
def test_a_folder_that_cannot_be_made_is_told(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    (tmp_path / "file").touch()
    packs = PackFolder(tmp_path / name, 1 << 30)
    np.testing.assert_array_equal(logits(load(path, packs)), logits(load(path, None)))
    assert "every start repacks" in caplog.text


def test_a_folder_that_cannot_be_listed_is_no_failed_start(
    packs: PackFolder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that another user has made; root may list it, so the call is refused instead."""
    load(path, packs)

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    np.testing.assert_array_equal(logits(load(path, packs)), logits(load(path, None)))


def test_memory_of_other_models_packs_is_not_free(
    packs: PackFolder, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of files count as available, but not those that another engine needs."""
    other = write_tiny_llama(tmp_path / "other.gguf", width=512, ffn_width=2048, vocab_size=2048, seed=1)
    used = load(other, packs)
    needed = RESERVE_BYTES + (8 << 20)
    monkeypatch.setattr(loader, "available_memory_bytes", lambda: needed)
    with pytest.raises(OutOfMemoryError):
        load(path, packs)
    with monkeypatch.context() as patch:
        patch.setattr(loader, "available_memory_bytes", lambda: 1 << 20)
        with pytest.raises(OutOfMemoryError, match=r"only 0\.00 GiB of memory is left"):
            load(path, packs)
    used.close()
    load(path, packs)
    load(path, packs)


HOLD_A_MODEL = """
import re, sys
from pathlib import Path
from stoker.engine.native import NativeEngineSettings, load_engine
from stoker.models import open_model
from stoker.models.packs import PackFolder

settings = NativeEngineSettings(
    threads=1, context_length=64, step_tokens=64, kv_memory_bytes=1 << 22, max_running=1
)
with open_model(Path(sys.argv[1])) as model:
    engine = load_engine(model, settings, PackFolder(Path(sys.argv[2]), 1 << 30))
print("loaded", flush=True)
sys.stdin.readline()
smaps = Path("/proc/self/smaps").read_text().partition(".pack")[2]
sizes = {name: re.search(name + r": +(\\d+) kB", smaps)[1] for name in ("Rss", "Pss", "Shared_Clean")}
print(str(sizes).replace("'", '"'), flush=True)
sys.stdin.readline()
"""


def test_two_engines_share_one_copy(packs: PackFolder, tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf", width=512, ffn_width=2048, vocab_size=2048)
    command = [sys.executable, "-c", HOLD_A_MODEL, str(path), str(packs.folder)]
    engines = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        sizes = []
        for engine in engines:  # started together: one writes, the other waits for it
            assert engine.stdout is not None
            assert engine.stdout.readline() == "loaded\n"
        for engine in engines:
            assert engine.stdin is not None
            assert engine.stdout is not None
            engine.stdin.write("\n")
            engine.stdin.flush()
            sizes.append({name: int(size) for name, size in json.loads(engine.stdout.readline()).items()})
    finally:
        for engine in engines:
            engine.communicate("\n", timeout=60)
    for size in sizes:
        assert size["Rss"] > 2000
        assert size["Shared_Clean"] == size["Rss"]
        assert size["Pss"] <= size["Rss"] // 2 + 8
    assert len(list(packs.folder.glob("*.pack"))) == 1


def test_the_number_of_the_packed_layout_changes_with_the_layout(tmp_path: Path) -> None:
    """Who changes what a pack holds changes kPackLayout in native/src/weights.h, and these two."""
    digest = sha256()
    for dtype in sorted(TYPE_NUMBERS):
        path = write_tiny_llama(
            tmp_path / "tiny.gguf",
            n_layers=1, width=256, n_heads=2, n_kv_heads=1, head_size=128, ffn_width=256, dtype=dtype,
        )  # fmt: skip
        packs = PackFolder(tmp_path / dtype, 1 << 30)
        load(path, packs)
        with open_model(path) as model:
            key = packing.pack_key(model, float_path=False)
        pack = packs.open(key, layout=_native.PACK_LAYOUT, n_threads=1)
        assert pack is not None
        for part in pack.parts.values():
            digest.update(f"{part.name} {part.kind}".encode() + bytes(pack.data(part)))
    assert (_native.PACK_LAYOUT, digest.hexdigest()) == (
        1,
        "e8d348e4ff640edaeed9fe83ac0272a9f01ff315a6def6b6d710031af844f5e8",
    )
