"""One server, several models: loaded, unloaded, killed and reloaded beside one another."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from openai import OpenAI

from stoker.testing.server_process import ServerProcess, clean_environment

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
TWIN = "twin"
"""The same file under another name."""


@pytest.fixture
def twins(home: Path, default_model_path: Path) -> Iterator[ServerProcess]:
    table = f'[models."{default_model_path}"]\nalias = "{TWIN}"\n'
    (home / "config.toml").write_text("shutdown_timeout_s = 20\n" + table)
    with ServerProcess(home, MODEL, str(default_model_path)) as server:
        server.wait_ready()
        yield server


def command(server: ServerProcess, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stoker", *arguments, "--url", server.url],
        capture_output=True,
        text=True,
        env=clean_environment(home),
        timeout=60,
        check=False,
    )


def ask(server: ServerProcess, model: str, max_tokens: int = 1) -> httpx2.Response:
    body = {
        "model": model,
        "prompt": "Once",
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    return httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60)


def pids(server: ServerProcess) -> dict[str, int]:
    models = orjson.loads(server.get("/admin/models")[1])["models"]
    return {model["name"]: model["pid"] for model in models}


class Reader:
    """Reads a stream in a thread and keeps its text."""

    def __init__(self, server: ServerProcess, model: str, max_tokens: int) -> None:
        self.parts: list[str] = []
        self.reason: str | None = None
        self.error: str | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(server, model, max_tokens))
        self._thread.start()
        assert self._begun.wait(30)

    def _read(self, server: ServerProcess, model: str, max_tokens: int) -> None:
        try:
            with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
                chunks = client.completions.create(
                    model=model,
                    prompt="Once",
                    max_tokens=max_tokens,
                    temperature=0,
                    stream=True,
                    extra_body={"ignore_eos": True},
                )
                for chunk in chunks:
                    self.parts += [choice.text for choice in chunk.choices]
                    self.reason = chunk.choices[0].finish_reason if chunk.choices else self.reason
                    self._begun.set()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = str(error)
        self._begun.set()

    def end(self) -> str:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return "".join(self.parts)


def test_models_are_served_side_by_side(twins: ServerProcess, home: Path) -> None:
    assert MODEL in twins.stdout
    assert TWIN in twins.stdout
    assert orjson.loads(twins.get("/readyz")[1])["models"] == {MODEL: "ready", TWIN: "ready"}
    names = [model["id"] for model in orjson.loads(twins.get("/v1/models")[1])["data"]]
    assert names == [MODEL, TWIN]
    first, second = ask(twins, MODEL, 20).json(), ask(twins, TWIN, 20).json()
    assert (first["model"], second["model"]) == (MODEL, TWIN)
    assert first["choices"] == second["choices"]
    unknown = ask(twins, "other")
    assert unknown.status_code == 404
    assert f"'{MODEL}', '{TWIN}'" in unknown.json()["error"]["message"]
    listed = command(twins, home, "ps")
    assert listed.returncode == 0, listed.stderr
    lines = listed.stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [[MODEL, "ready"], [TWIN, "ready"]]
    assert lines[0].startswith("NAME")
    as_json = orjson.loads(command(twins, home, "ps", "--json").stdout)
    assert {model["pid"] for model in as_json} == set(twins.children())
    assert all(model["memory_bytes"] > 50e6 and model["kv_blocks"] > 0 for model in as_json)


def test_models_are_loaded_and_unloaded_under_load(twins: ServerProcess, home: Path) -> None:
    other = Reader(twins, MODEL, 600)
    loaded = command(twins, home, "load", MODEL, "--alias", "third", "--context-length", "512")
    assert loaded.returncode == 0, loaded.stderr
    assert "third is ready" in loaded.stdout
    again = command(twins, home, "load", MODEL, "--alias", "third")
    assert again.returncode == 1
    assert "'third' already" in again.stderr
    assert ask(twins, "third").status_code == 200
    assert 'model="third"' in twins.get("/metrics")[1]
    running = Reader(twins, "third", 300)
    unloaded = command(twins, home, "unload", "third")
    assert unloaded.returncode == 0, unloaded.stderr
    assert running.end()
    assert (running.reason, running.error) == ("length", None), "what runs may end"
    assert ask(twins, "third").status_code == 404
    assert 'model="third"' not in twins.get("/metrics")[1]
    assert other.end() == ask(twins, MODEL, 600).json()["choices"][0]["text"]
    assert len(twins.children()) == 2


def test_a_stream_that_outlasts_the_drain_of_its_model_ends_with_an_error(home: Path) -> None:
    with ServerProcess(home, "--shutdown-timeout-s", "1") as server:
        server.wait_ready()
        reader = Reader(server, MODEL, 8000)
        assert command(server, home, "unload", MODEL).returncode == 0
        reader.end()
        assert reader.error is not None
        assert server.children() == []
        assert server.get("/readyz")[0] == 503, "no model is served"
        assert command(server, home, "load", MODEL).returncode == 0
        assert ask(server, MODEL).status_code == 200


def test_a_load_that_fails_says_why_and_leaves_the_others(twins: ServerProcess, home: Path) -> None:
    failed = command(twins, home, "load", MODEL, "--alias", "huge", "--kv-memory", "500TiB")
    assert failed.returncode == 1
    assert "kv_memory" in failed.stderr
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("stoker: ")]
    assert "could not load huge" in line
    assert "failed" in command(twins, home, "ps").stdout
    assert ask(twins, MODEL).status_code == ask(twins, TWIN).status_code == 200
    for model in ("../etc/passwd", "no-such-model"):
        assert command(twins, home, "load", model).returncode == 1
    assert twins.get("/readyz")[0] == 200


def test_the_death_of_one_engine_does_not_disturb_the_other(twins: ServerProcess) -> None:
    steady, hit = Reader(twins, MODEL, 400), Reader(twins, TWIN, 400)
    engines = pids(twins)
    os.kill(engines[TWIN], signal.SIGKILL)
    assert steady.end() == hit.end()
    assert (steady.error, hit.error) == (None, None)
    twins.wait_ready()
    after = pids(twins)
    assert after[MODEL] == engines[MODEL]
    assert after[TWIN] != engines[TWIN]
    metrics = twins.get("/metrics")[1]
    assert f'stoker_engine_restarts_total{{model="{MODEL}"}} 0.0' in metrics
    assert f'stoker_engine_restarts_total{{model="{TWIN}"}} 1.0' in metrics


def wait_for_log(server: ServerProcess, words: str) -> None:
    deadline_s = time.monotonic() + 15
    while words not in server.stderr:
        assert time.monotonic() < deadline_s, server.stderr
        time.sleep(0.05)


@pytest.mark.parametrize("by_signal", [True, False])
def test_settings_are_reloaded_while_a_stream_runs(home: Path, *, by_signal: bool) -> None:
    file = home / "config.toml"
    file.write_text("max_body_bytes = 2048\n")
    with ServerProcess(home) as server:
        server.wait_ready()
        reader = Reader(server, MODEL, 300)
        large: dict[str, Any] = {"model": MODEL, "prompt": "a" * 3000, "max_tokens": 1}
        url = f"{server.url}/v1/completions"
        assert httpx2.post(url, json=large, timeout=60).status_code == 413
        file.write_text("max_body_bytes = 8192\napi_key = 'new-key'\nmodel = 'other'\n")
        if by_signal:
            for process in (*server.children(), server.process.pid):  # service managers may signal all
                os.kill(process, signal.SIGHUP)
        wait_for_log(server, "need a restart: model")
        assert "new-key" not in server.stderr
        assert httpx2.post(url, json=large, timeout=60).status_code == 401
        key = {"authorization": "Bearer new-key"}
        assert httpx2.post(url, json=large, headers=key, timeout=60).status_code == 200
        file.write_text("max_body_bytes = -1\n")
        if by_signal:
            server.process.send_signal(signal.SIGHUP)
        wait_for_log(server, "nothing changes")
        assert httpx2.post(url, json=large, headers=key, timeout=60).status_code == 200
        reader.end()
        assert (reader.reason, reader.error) == ("length", None)
        assert server.stop() == 0


def test_sigterm_lets_the_streams_of_all_models_end(twins: ServerProcess) -> None:
    readers = [Reader(twins, model, 200) for model in (MODEL, TWIN)]
    twins.process.send_signal(signal.SIGTERM)
    for reader in readers:
        reader.end()
        assert (reader.reason, reader.error) == ("length", None)
    assert twins.process.wait(20) == 0
    assert "Traceback" not in twins.stderr


def test_a_second_sigterm_ends_at_once(twins: ServerProcess) -> None:
    engines = twins.children()
    readers = [Reader(twins, model, 8000) for model in (MODEL, TWIN)]
    twins.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert twins.process.poll() is None, "it waits for its streams"
    started_s = time.monotonic()
    twins.process.send_signal(signal.SIGTERM)
    twins.process.wait(20)
    assert time.monotonic() - started_s < 10, "far from the 20 s that a drain may take"
    for reader in readers:
        reader.end()
    assert not any(Path(f"/proc/{engine}").exists() for engine in engines)


def test_commands_say_when_there_is_no_server(home: Path) -> None:
    for arguments in (["ps"], ["load", "a"], ["unload", "a"]):
        ended = subprocess.run(
            [sys.executable, "-m", "stoker", *arguments, "--port", "1"],
            capture_output=True,
            text=True,
            env=clean_environment(home),
            timeout=60,
            check=False,
        )
        assert ended.returncode == 1
        assert ended.stderr.startswith("stoker: no server answers at http://127.0.0.1:1")
