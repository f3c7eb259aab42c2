"""Folders of safetensors: served from a path and from a hub, as they are and quantized."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from stoker.testing.gguf_files import write_tiny_llama
from stoker.testing.hub_server import HubServer
from stoker.testing.model_folders import write_tiny_folder
from stoker.testing.server_process import ServerProcess, clean_environment

pytestmark = pytest.mark.e2e


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    write_tiny_folder(tmp_path / "hub" / "someone" / "tiny", n_shards=2, dtype="BF16", ffn_width=1024)
    with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def answer(server: ServerProcess, model: str) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hello world"}],
        "max_tokens": 8,
        "temperature": 0,
        "logprobs": True,
    }
    response = httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    answered: dict[str, Any] = response.json()
    return answered


def first_logprob(answered: dict[str, Any]) -> float:
    return float(answered["choices"][0]["logprobs"]["content"][0]["logprob"])


def test_a_folder_is_served_from_its_path_as_it_is_and_quantized(tmp_path: Path, home: Path) -> None:
    folder = write_tiny_folder(tmp_path / "my-model", dtype="BF16")
    answers = {}
    for quantize in ("none", "q8", "q4"):
        with ServerProcess(home, str(folder), "--quantize", quantize) as server:
            server.wait_ready()
            answers[quantize] = answer(server, "my-model")
            assert server.stop() == 0, server.stderr
    assert len({each["system_fingerprint"] for each in answers.values()}) == 3
    exact = first_logprob(answers["none"])
    assert abs(first_logprob(answers["q8"]) - exact) < 0.1
    assert abs(first_logprob(answers["q4"]) - exact) < 1.0
    assert answers["none"]["usage"]["prompt_tokens"] == answers["q4"]["usage"]["prompt_tokens"]


def test_tables_quantize_single_models(tmp_path: Path, home: Path) -> None:
    folder = write_tiny_folder(tmp_path / "my-model")
    (home / "config.toml").write_text(f'[models."{folder}"]\nalias = "small"\nquantize = "q4"\n')
    other = write_tiny_folder(tmp_path / "other")
    with ServerProcess(home, str(folder), str(other)) as server:
        server.wait_ready()
        fingerprints = {answer(server, name)["system_fingerprint"] for name in ("small", "other")}
        assert len(fingerprints) == 2
        assert server.stop() == 0, server.stderr


def test_a_folder_is_pulled_from_a_hub_and_then_served_offline(home: Path, hub: HubServer) -> None:
    for offline in ("0", "1"):
        environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": offline}
        with ServerProcess(home, "hf:someone/tiny", environment=environment) as server:
            server.wait_ready()
            assert answer(server, "someone--tiny")["usage"]["completion_tokens"] > 0
            assert server.stop() == 0, server.stderr
    assert len(hub.ranges()) == 2, "a request for each file of weights"


def test_commands_know_folders(tmp_path: Path, home: Path, hub: HubServer) -> None:
    def stoker(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "stoker", *arguments],
            env=clean_environment(home, {"HF_ENDPOINT": hub.url}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    stored = home / "models" / "someone--tiny"
    assert stoker("pull", "hf:someone/tiny") == f"someone--tiny: {stored}\n"
    assert "someone--tiny" in stoker("list")
    shown = stoker("show", "someone--tiny")
    assert "20 BF16" in shown
    assert f"file           {stored}\n" in shown
    assert stoker("run", "--quantize", "q8", "--max-tokens", "2", "someone--tiny", "hello")
    assert stoker("rm", "someone--tiny") == "removed someone--tiny\n"
    assert not stored.exists()
    folder = write_tiny_folder(tmp_path / "a" / "local")
    assert "20 F32" in stoker("show", str(folder))


def test_what_cannot_be_served_is_told_at_the_start(tmp_path: Path, home: Path, tiny_gguf: Path) -> None:
    folder = write_tiny_folder(tmp_path / "my-model")
    (folder / "tokenizer.json").unlink()
    for arguments, words in (
        ((str(folder),), "tokenizer.json is missing"),
        ((str(tiny_gguf), "--quantize", "q8"), "is a GGUF file, which is served in the types it has"),
    ):
        with ServerProcess(home, *arguments) as server:
            assert server.process.wait(timeout=30) != 0
            assert words in server.stderr.replace("\n", " ")


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:

    return write_tiny_llama(tmp_path / "tiny.gguf")
