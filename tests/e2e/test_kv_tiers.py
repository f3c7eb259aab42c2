"""Conversations outlive their blocks, engine and server; files that are not what they were are ignored."""

import os
import signal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
WORDS = " ".join(f"Fact {n}: the number {n} follows {n - 1}." for n in range(1, 40))
DISK = ("--max-kv-disk-bytes", "200MiB")


def ask(server: ServerProcess, prompt: str = WORDS, **fields: Any) -> tuple[str, int, int]:
    """Return the answer, the prompt's tokens, and how many of them were cached."""
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **fields}
    answer = httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60).json()
    usage = answer["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    return answer["choices"][0]["text"], usage["prompt_tokens"], cached


def whole_blocks(n_tokens: int) -> int:
    """Tokens of a prompt that can be cached: whole blocks, and not its last token."""
    return (n_tokens - 1) // 16 * 16


def kv_files(home: Path) -> list[Path]:
    return sorted(home.glob("kv/*/*/*.kv"))


def wait_written(server: ServerProcess, n_tokens: int) -> None:
    """Wait until the prompt's whole blocks are on disk, all that it has."""
    server.wait_metric("stoker_kv_disk_writes_total", n_tokens // 16)


@pytest.fixture
def written(home: Path) -> tuple[str, int]:
    """An answer and its prompt's length; the blocks are on disk, and the server is gone."""
    with ServerProcess(home, *DISK) as server:
        server.wait_ready()
        text, n_tokens, cached = ask(server)
        assert cached == 0
        wait_written(server, n_tokens + 7)
    return text, n_tokens


def test_a_conversation_goes_on_after_the_engine_was_killed_and_after_a_restart(home: Path) -> None:
    with ServerProcess(home, *DISK) as server:
        server.wait_ready()
        text, n_tokens, cached = ask(server)
        assert cached == 0
        wait_written(server, n_tokens + 7)
        (engine,) = server.children()
        os.kill(engine, signal.SIGKILL)
        server.wait_metric("stoker_engine_restarts_total", 1, timeout_s=60)
        server.wait_ready()
        assert ask(server) == (text, n_tokens, whole_blocks(n_tokens))
        assert server.metrics()["stoker_kv_disk_restored_tokens_total"] == whole_blocks(n_tokens)
    with ServerProcess(home, *DISK) as server:
        server.wait_ready()
        assert ask(server) == (text, n_tokens, whole_blocks(n_tokens))
        assert "KV" not in server.stderr


def test_evicted_blocks_come_back_from_host_memory(home: Path) -> None:
    small = ("--kv-memory", "32MiB", "--context-length", "1024", "--kv-host-memory", "64MiB")
    with ServerProcess(home, *small) as server:
        server.wait_ready()
        text, n_tokens, _ = ask(server)
        for other in range(3):  # the cache has 91 blocks; these push the first one's out
            ask(server, f"{other}. {WORDS}")
        before = server.metrics()
        assert before["stoker_kv_demoted_blocks_total"] > 0
        assert before["stoker_kv_host_blocks_used"] > 0
        assert ask(server) == (text, n_tokens, whole_blocks(n_tokens))
        assert server.metrics()["stoker_kv_host_restored_tokens_total"] > 0
        assert kv_files(home) == []


@pytest.mark.parametrize("damage", ["flipped data", "flipped token", "cut off", "empty", "of another block"])
def test_a_file_that_is_not_what_it_was_is_told_and_not_used(
    home: Path, written: tuple[str, int], damage: str
) -> None:
    text, n_tokens = written
    files = kv_files(home)
    assert len(files) == (n_tokens + 7) // 16
    contents = [file.read_bytes() for file in files]
    for file, content, other in zip(files, contents, [*contents[1:], contents[0]], strict=True):
        damaged = bytearray(content)
        match damage:
            case "flipped data":
                damaged[-100] ^= 4
            case "flipped token":
                damaged[130] ^= 4
            case "cut off":
                del damaged[len(damaged) // 2 :]
            case "empty":
                damaged.clear()
            case _:
                damaged = bytearray(other)
        file.write_bytes(damaged)
    with ServerProcess(home, *DISK) as server:
        server.wait_ready()
        assert ask(server) == (text, n_tokens, 0)
        assert server.stderr.count("is not used") >= 1
        assert server.metrics()["stoker_kv_disk_failures_total"] >= 1
        assert ask(server, f"Hm. {WORDS}")[2] == 0


def test_files_of_another_model_are_not_looked_at_and_those_of_another_version_are_told(
    home: Path, written: tuple[str, int]
) -> None:
    text, n_tokens = written
    for file in kv_files(home):
        content = bytearray(file.read_bytes())
        content[8] += 1
        file.write_bytes(content)
    with ServerProcess(home, *DISK) as server:
        server.wait_ready()
        assert ask(server) == (text, n_tokens, 0)
        assert "its format has version 2, not 1" in server.stderr
    with ServerProcess(home, *DISK, "--isa", "portable") as server:  # computes other bits
        server.wait_ready()
        n_before = len(kv_files(home))
        assert ask(server)[2] == 0
        wait_written(server, n_tokens + 7)
        assert len(kv_files(home)) == 2 * n_before
        assert "KV" not in server.stderr
