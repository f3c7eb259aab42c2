from pathlib import Path

import pytest

from stoker.core.errors import OutOfMemoryError
from stoker.engine.native import sizing
from stoker.engine.native.sizing import RESERVE_BYTES, available_memory_bytes, choose_kv_blocks, scratch_bytes
from stoker.models import open_model
from stoker.testing.gguf_files import write_tiny_llama

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


def test_the_buffers_of_a_step_grow_with_tokens_sequences_and_context(tmp_path: Path) -> None:
    with open_model(write_tiny_llama(tmp_path / "tiny.gguf", vocab_size=1024)) as source:
        config = source.config
    base = scratch_bytes(config, step_tokens=16, max_running=1, context_length=16)
    assert scratch_bytes(config, step_tokens=16, max_running=2, context_length=16) == base + 1024 * 4
    assert scratch_bytes(config, step_tokens=16, max_running=1, context_length=17) == base + 32 * 4
    # Residual and query in floats; normalized, attended and inner activations in 5.375 bytes a value; the
    # normalized ones once more, as two rows of codes.
    row_bytes = (64 + 64) * 4 + (64 + 64 + 96) * 5.375 + 2 * 64 * 1.375
    assert scratch_bytes(config, step_tokens=48, max_running=1, context_length=16) == base + 32 * row_bytes


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
