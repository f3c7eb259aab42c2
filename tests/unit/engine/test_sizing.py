from dataclasses import replace
from pathlib import Path

import pytest

from stoker import _native
from stoker.core.errors import OutOfMemoryError
from stoker.engine.native import sizing
from stoker.engine.native.packing import load_weights
from stoker.engine.native.shape import native_shape
from stoker.engine.native.sizing import (
    RESERVE_BYTES,
    available_memory_bytes,
    choose_host_bytes,
    choose_kv_blocks,
    kv_block_bytes,
    packed_bytes,
    scratch_bytes,
)
from stoker.models import open_model
from stoker.models.config import Experts, ModelConfig, Tensor
from stoker.testing.gguf_files import write_tiny_llama
from stoker.testing.native_shapes import PLAIN, RANDOM
from stoker.testing.random_source import random_source

GIB = 1 << 30
STAT = f"anon {GIB}\nfile {5 * GIB}\ninactive_file {4 * GIB}\nactive_file {GIB // 2}\n"


def available(folder: Path, files: dict[str, str]) -> int:
    meminfo = folder / "meminfo"
    meminfo.write_text(f"MemTotal: {64 * GIB >> 10} kB\nMemAvailable: {32 * GIB >> 10} kB\n")
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return available_memory_bytes(meminfo, folder)


@pytest.mark.parametrize("limit", [{}, {"memory.max": "max\n", "memory.current": "1\n"}])
def test_without_a_limit_the_machines_free_memory_counts(limit: dict[str, str], tmp_path: Path) -> None:
    assert available(tmp_path, limit) == 32 * GIB


def test_pages_of_files_do_not_count_as_used(tmp_path: Path) -> None:
    files = {"memory.max": f"{6 * GIB}\n", "memory.current": f"{6 * GIB}\n", "memory.stat": STAT}
    assert available(tmp_path, files) == 4 * GIB + GIB // 2


def test_the_first_version_of_cgroups_is_understood(tmp_path: Path) -> None:
    stat = f"inactive_file 1\nactive_file 1\ntotal_inactive_file {GIB}\ntotal_active_file {GIB}\n"
    files = {
        "memory/memory.limit_in_bytes": f"{6 * GIB}\n",
        "memory/memory.usage_in_bytes": f"{5 * GIB}\n",
        "memory/memory.stat": stat,
    }
    assert available(tmp_path, files) == 3 * GIB
    assert available(tmp_path, {"memory/memory.limit_in_bytes": "9223372036854771712\n"}) == 32 * GIB


def test_a_cgroup_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {"memory.max": f"{GIB}\n", "memory.current": f"{2 * GIB}\n", "memory.stat": "anon 1\n"}
    assert available(tmp_path, files) == 0


def test_the_buffers_of_a_step_grow_with_tokens_and_sequences(tmp_path: Path) -> None:
    with open_model(write_tiny_llama(tmp_path / "tiny.gguf", vocab_size=1024)) as source:
        config = source.config
    base = scratch_bytes(config, step_tokens=16, max_running=1, threads=1)
    assert scratch_bytes(config, step_tokens=16, max_running=2, threads=1) == base + 1024 * 4
    # Residual, query, cosines and sines in floats; normalized, attended and inner activations in 5.375
    # bytes a value; the normalized ones once more, as two rows of codes.
    row_bytes = (64 + 64 + 32) * 4 + (64 + 64 + 96) * 5.375 + 2 * 64 * 1.375
    assert scratch_bytes(config, step_tokens=48, max_running=1, threads=1) == base + 32 * row_bytes


WIDE = replace(PLAIN, n_heads=16, n_kv_heads=1, head_size=256)
"""Its partial results of attention are larger than what every thread gets at least."""


@pytest.mark.parametrize("kv_type", ["f16", "bf16", "q8", "f32"])
@pytest.mark.parametrize("config", [*RANDOM.values(), WIDE], ids=[*RANDOM, "wide"])
def test_what_is_counted_is_what_the_library_takes(config: ModelConfig, kv_type: str) -> None:
    for context_length in (64, config.context_length):
        model = _native.Model(
            native_shape(config, context_length),
            isa="auto",
            n_threads=1,
            kv_blocks=5,
            max_step_tokens=37,
            max_step_seqs=3,
            float_path=False,
            kv_type=kv_type,
        )
        counted = scratch_bytes(config, step_tokens=37, max_running=3, threads=1)
        assert counted <= model.step_bytes < counted + (2 << 20)  # what is large takes whole huge pages
        assert model.kv_bytes == 5 * kv_block_bytes(config, kv_type)
        assert model.kv_type == kv_type


@pytest.mark.parametrize("float_path", [False, True])
@pytest.mark.parametrize("dtype", ["Q4_0", "Q8_0", "MXFP4", "F16", "F32"])
def test_packed_weights_are_counted(dtype: str, float_path: bool) -> None:
    # Without the rows that fill a vocabulary or a router up to a column block.
    experts = Experts(n_experts=16, n_used=2, normalized=True, biases=True)
    for config in (replace(PLAIN, vocab_size=64), replace(PLAIN, vocab_size=64, experts=experts)):
        source = random_source(config, dtype=dtype)
        model = _native.Model(
            native_shape(config, 64),
            isa="auto",
            n_threads=1,
            kv_blocks=5,
            max_step_tokens=37,
            max_step_seqs=3,
            float_path=float_path,
        )
        load_weights(model, source, None)
        vectors = sum(len(tensor.data) for tensor in source.tensors.values() if is_vector(tensor))
        assert (
            packed_bytes(list(source.tensors.values()), float_path=float_path) == model.weight_bytes + vectors
        )


def is_vector(tensor: Tensor) -> bool:
    return len(tensor.shape) == 1 or tensor.name.endswith(".bias")


def choose(*, step_bytes: int, kv_memory_bytes: int | None = None, kv_sharers: int = 1) -> int:
    return choose_kv_blocks(
        block_bytes=1 << 20,
        weight_bytes=GIB,
        step_bytes=step_bytes,
        available_bytes=2 * GIB + RESERVE_BYTES,
        kv_memory_bytes=kv_memory_bytes,
        kv_sharers=kv_sharers,
        context_length=1024,
        max_running=64,
    )


def test_the_kv_cache_gets_a_share_of_what_weights_and_steps_leave() -> None:
    assert choose(step_bytes=0) == int(1024 * sizing.KV_SHARE)
    assert choose(step_bytes=GIB // 2) == int(512 * sizing.KV_SHARE)


def test_several_engines_divide_the_share_but_not_a_size_that_is_set() -> None:
    assert choose(step_bytes=0, kv_sharers=2) == int(1024 * sizing.KV_SHARE / 2)
    assert choose(step_bytes=0, kv_sharers=2, kv_memory_bytes=GIB // 2) == 512


def test_steps_that_leave_no_room_are_refused_with_what_to_do() -> None:
    with pytest.raises(OutOfMemoryError, match=r"steps 1\.00 GiB.*smaller step_tokens"):
        choose(step_bytes=GIB)
    with pytest.raises(OutOfMemoryError, match=r"only 0\.50 GiB is left beside weights and steps"):
        choose(step_bytes=GIB // 2, kv_memory_bytes=GIB)


def test_evicted_blocks_get_half_of_the_kv_cache_but_no_more_than_a_quarter_of_what_is_left() -> None:
    assert choose_host_bytes(kv_bytes=GIB, available_bytes=4 * GIB, host_bytes=None) == GIB // 2
    assert choose_host_bytes(kv_bytes=GIB, available_bytes=2 * GIB, host_bytes=None) == GIB // 4
    assert choose_host_bytes(kv_bytes=GIB, available_bytes=GIB // 2, host_bytes=None) == 0
    assert choose_host_bytes(kv_bytes=GIB, available_bytes=2 * GIB, host_bytes=GIB) == GIB
    assert choose_host_bytes(kv_bytes=GIB, available_bytes=0, host_bytes=0) == 0
    with pytest.raises(
        OutOfMemoryError, match=r"kv_host_memory asks for 1\.00 GiB, but only 0\.50 GiB is left"
    ):
        choose_host_bytes(kv_bytes=GIB, available_bytes=GIB + GIB // 2, host_bytes=GIB)
