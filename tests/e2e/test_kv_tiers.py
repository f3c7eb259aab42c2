"""Conversations outlive their blocks, engine and server; files that are not what they were are ignored."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stoker import _native
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


def test_files_that_are_not_what_they_were_are_told_and_not_used(home: Path) -> None:
    prompts = [f"{name}. {WORDS}" for name in ("flipped", "cut", "version", "whole")]
    with ServerProcess(home, *DISK) as server:
        server.wait_ready()
        answers = []
        for n, prompt in enumerate(prompts, 1):
            known = set(kv_files(home))
            text, n_tokens, _ = ask(server, prompt)
            answers.append((text, n_tokens))
            server.wait_metric("stoker_kv_disk_writes_total", n * ((n_tokens + 7) // 16))
            for file in set(kv_files(home)) - known:
                damage(file, prompt.split(".")[0])
    with ServerProcess(home, *DISK) as server:
        server.wait_ready()
        for prompt, (text, n_tokens) in zip(prompts, answers, strict=True):
            cached = whole_blocks(n_tokens) if prompt.startswith("whole") else 0
            assert ask(server, prompt) == (text, n_tokens, cached)
        for words in ("its data are damaged", "it has 1000 bytes", "its format has version 2, not 1"):
            assert f"is not used: {words}" in server.stderr
        assert server.metrics()["stoker_kv_disk_failures_total"] >= 3


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    match how:
        case "flipped":
            content[-100] ^= 4
        case "cut":
            del content[1000:]
        case "version":
            content[8] += 1
    file.write_bytes(content)


def test_another_instruction_set_does_not_use_the_files(home: Path) -> None:
    isas = _native.available_isas()
    if len(isas) < 3:
        pytest.skip("this processor has one fast instruction set")
    for n, isa in enumerate(isas[:2], 1):
        with ServerProcess(home, *DISK, "--isa", isa) as server:
            server.wait_ready()
            _, n_tokens, cached = ask(server, WORDS[:400])
            assert cached == 0
            wait_written(server, n_tokens + 7)
            assert len(kv_files(home)) == n * ((n_tokens + 7) // 16)
            assert "KV" not in server.stderr


def test_a_disk_that_is_full_stalls_nobody(home: Path, small_disk: Path) -> None:
    with ServerProcess(home, *DISK, "--kv-dir", str(small_disk / "kv")) as server:
        server.wait_ready()
        text, n_tokens, _ = ask(server)
        server.wait_metric("stoker_kv_disk_writing", 0)
        assert ask(server) == (text, n_tokens, whole_blocks(n_tokens))
        assert server.metrics()["stoker_kv_disk_failures_total"] >= 1
        assert server.stderr.count("No space left on device") == 1


def test_a_folder_that_may_only_be_read_is_read_and_stalls_nobody(home: Path, small_disk: Path) -> None:
    remount(small_disk, "size=64m")
    options = (*DISK, "--kv-dir", str(small_disk / "kv"))
    with ServerProcess(home, *options) as server:
        server.wait_ready()
        text, n_tokens, _ = ask(server)
        wait_written(server, n_tokens + 7)
    remount(small_disk, "ro")
    with ServerProcess(home, *options) as server:
        server.wait_ready()
        assert ask(server) == (text, n_tokens, whole_blocks(n_tokens))
        ask(server, f"New. {WORDS}")
        server.wait_metric("stoker_kv_disk_writing", 0)
        assert server.stderr.count("Read-only file system") == 1


def remount(folder: Path, option: str) -> None:
    command = ["mount", "-o", f"remount,{option}", str(folder)]
    subprocess.run(command, check=True)


def test_a_pinned_prefix_stays_and_comes_back_in_a_next_engine(home: Path) -> None:
    small = ("--kv-memory", "24MiB", "--context-length", "640", "--kv-host-memory", "0")
    with ServerProcess(home, *small) as server:
        server.wait_ready()
        pins = f"{server.url}/admin/models/{MODEL}/pins"
        prefix = WORDS[:300]
        answer = httpx2.post(pins, json={"prompt": prefix}, timeout=60)
        assert answer.status_code == 201, answer.text
        pin = answer.json()
        assert (pin["held"], pin["tokens"] // 16 * 16) == (True, pin["pinned_tokens"])
        assert httpx2.post(pins, json={"prompt": prefix}, timeout=60).json() == pin
        assert server.metrics()["stoker_engine_kv_blocks_pinned"] == pin["pinned_tokens"] // 16
        for other in range(3):
            ask(server, f"{other}. {WORDS}")
        assert ask(server, prefix + " And so on.")[2] == pin["pinned_tokens"]
        refused = httpx2.post(pins, json={"prompt": f"Else. {WORDS}"}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "pinned_limit_exceeded")
        (engine,) = server.children()
        os.kill(engine, signal.SIGKILL)
        server.wait_metric("stoker_engine_restarts_total", 1, timeout_s=60)
        server.wait_metric("stoker_engine_kv_blocks_pinned", pin["pinned_tokens"] // 16, timeout_s=60)
        assert ask(server, prefix + " And so on.")[2] == pin["pinned_tokens"]
        assert httpx2.get(pins).json() == {"pins": [pin]}
        assert httpx2.delete(f"{pins}/{pin['id']}").json() == {**pin, "held": False}
        assert httpx2.delete(f"{pins}/{pin['id']}").status_code == 404
        server.wait_metric("stoker_engine_kv_blocks_pinned", 0)
