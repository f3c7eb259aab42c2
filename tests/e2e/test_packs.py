"""Starts with packs: mapped at the second one, shared by engines, harmless when deleted or damaged."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from stoker.testing.server_process import ServerProcess, clean_environment

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
TWIN = "twin"


def ask(server: ServerProcess, model: str = MODEL) -> str:
    body = {
        "model": model,
        "prompt": "The capital of",
        "max_tokens": 16,
        "temperature": 0,
        "ignore_eos": True,
    }
    answer = httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
    return str(answer["choices"][0]["text"])


def packs_of(home: Path) -> list[Path]:
    return list(home.glob("packs/*.pack"))


def mapped_packs(pid: int) -> set[str]:
    """Paths of the packs that a process has mapped; a deleted one's says so."""
    return set(
        re.findall(r"\S+\.pack(?: \(deleted\))?$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE)
    )


def pack_sizes(pid: int) -> dict[str, int]:
    """KiB of the process's mapping of a pack, by the names of `/proc/PID/smaps`."""
    sizes = Path(f"/proc/{pid}/smaps").read_text().partition(".pack\n")[2]
    return {
        name: int(size) for name, size in reversed(re.findall(r"^(\w+): +(\d+) kB$", sizes, re.MULTILINE))
    }


def test_the_second_start_maps_the_pack_of_the_first(home: Path) -> None:
    with ServerProcess(home) as first:
        first.wait_ready()
        answer = ask(first)
        (pack,) = packs_of(home)
        before = pack.stat()
    with ServerProcess(home) as second:
        second.wait_ready()
        (engine,) = second.children()
        assert mapped_packs(engine) == {str(pack)}
        assert ask(second) == answer
        assert second.stderr == "" or "pack" not in second.stderr
    after = pack.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert after.st_mtime_ns > before.st_mtime_ns, "it was used"
    with ServerProcess(home, "--max-packs-bytes", "0") as without:
        without.wait_ready()
        (engine,) = without.children()
        assert mapped_packs(engine) == set()
        assert ask(without) == answer


def test_a_pack_that_is_deleted_goes_on_serving_and_is_written_again(home: Path) -> None:
    with ServerProcess(home) as server:
        server.wait_ready()
        answer = ask(server)
        (pack,) = packs_of(home)
        pack.unlink()
        assert ask(server) == answer
        (engine,) = server.children()
        assert mapped_packs(engine) == {f"{pack} (deleted)"}
        os.kill(engine, signal.SIGKILL)
        server.wait_metric("stoker_engine_restarts_total", 1, timeout_s=60)
        server.wait_ready()
        assert ask(server) == answer
        assert packs_of(home) == [pack]


@pytest.mark.parametrize("place", [100, -100])
def test_a_flipped_bit_is_told_and_the_pack_written_anew(home: Path, place: int) -> None:
    with ServerProcess(home) as server:
        server.wait_ready()
        answer = ask(server)
    (pack,) = packs_of(home)
    whole = pack.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1
    pack.write_bytes(damaged)
    with ServerProcess(home) as server:
        server.wait_ready()
        assert str(pack) in server.stderr
        assert "damaged" in server.stderr
        assert ask(server) == answer
    assert pack.read_bytes() == whole


def test_two_engines_share_one_copy_of_the_weights(home: Path, default_model_path: Path) -> None:
    (home / "config.toml").write_text(f'[models."{default_model_path}"]\nalias = "{TWIN}"\n')
    with ServerProcess(home, MODEL, str(default_model_path)) as server:
        server.wait_ready()
        assert ask(server) == ask(server, TWIN)
        (pack,) = packs_of(home)
        for engine in server.children():
            sizes = pack_sizes(engine)
            assert sizes["Size"] * 1024 >= pack.stat().st_size
            assert sizes["Rss"] * 1024 > pack.stat().st_size * 0.9
            assert sizes["Shared_Clean"] >= sizes["Rss"] * 0.9
            assert sizes["Pss"] < sizes["Rss"] * 0.6


def test_a_model_is_removed_with_its_pack(home: Path) -> None:
    with ServerProcess(home) as server:
        server.wait_ready()
    assert packs_of(home)
    subprocess.run(
        [sys.executable, "-m", "stoker", "rm", MODEL], env=clean_environment(home), check=True, timeout=60
    )
    assert packs_of(home) == []
