"""Models sleep and wake in a real server: by time, by hand, for memory; and what can go wrong meanwhile."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from openai import APIStatusError, OpenAI

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
TWIN = "twin"
"""The same file under another name."""

ONE_FITS = "memory_budget = '900MiB'\nkv_memory = '256MiB'\ncontext_length = 2048\nmax_running = 8\n"
"""Settings with which one of two models can be awake."""


@pytest.fixture
def twins(home: Path, default_model_path: Path) -> Iterator[ServerProcess]:
    table = f'[models."{default_model_path}"]\nalias = "{TWIN}"\n'
    (home / "config.toml").write_text(f"{ONE_FITS}wake_timeout_s = 20\n{table}")
    with ServerProcess(home, MODEL, str(default_model_path)) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def single(home: Path) -> Iterator[ServerProcess]:
    with ServerProcess(home) as server:
        server.wait_ready()
        yield server


def ask(server: ServerProcess, model: str = MODEL, **fields: Any) -> httpx2.Response:
    body = {"model": model, "prompt": "Once", "max_tokens": 12, "temperature": 0, **fields}
    return httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60)


def text(server: ServerProcess, model: str = MODEL, **fields: Any) -> str:
    answer = ask(server, model, **fields)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def sleep(server: ServerProcess, model: str = MODEL) -> None:
    answer = httpx2.post(f"{server.url}/admin/models/{model}/sleep", timeout=30)
    assert answer.status_code == 200, answer.text


def statuses(server: ServerProcess) -> dict[str, str]:
    models = orjson.loads(server.get("/admin/models")[1])["models"]
    return {model["name"]: model["status"] for model in models}


def until(true: Callable[[], object], within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def value(server: ServerProcess, sample: str) -> float:
    lines = [line for line in server.get("/metrics")[1].splitlines() if line.startswith(f"{sample} ")]
    return float(lines[0].rpartition(" ")[2]) if lines else 0.0


class Request:
    """A request in a thread of its own."""

    def __init__(self, server: ServerProcess, model: str = MODEL, **fields: Any) -> None:
        self._answers: list[httpx2.Response] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(ask(server, model, **fields)))
        self._thread.start()

    def answer(self) -> httpx2.Response:
        self._thread.join(60)
        assert not self._thread.is_alive()
        (answer,) = self._answers
        return answer


def test_an_idle_model_sleeps_and_a_request_wakes_it(home: Path) -> None:
    with ServerProcess(home, "--sleep-after-s", "1") as server:
        server.wait_ready()
        before = text(server)
        until(lambda: statuses(server)[MODEL] == "sleeping")
        assert server.children() == []
        assert server.get("/readyz")[0] == 200
        assert orjson.loads(server.get("/readyz")[1])["models"] == {MODEL: "ready"}
        tokens = httpx2.post(f"{server.url}/tokenize", json={"model": MODEL, "prompt": "Once"}, timeout=60)
        assert tokens.status_code == 200
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            assert [model.id for model in client.models.list()] == [MODEL]
            assert server.children() == [], "none of these wakes it"
            stream = client.completions.create(
                model=MODEL, prompt="Once", max_tokens=12, temperature=0, stream=True
            )
            after = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
        assert after == before
        assert len(server.children()) == 1
        assert value(server, f'stoker_model_sleeps_total{{model="{MODEL}",reason="idle"}}') >= 1
        assert value(server, f'stoker_model_wakes_total{{model="{MODEL}",outcome="awake"}}') == 1
        assert value(server, f'stoker_engine_restarts_total{{model="{MODEL}"}}') == 0
        until(lambda: statuses(server)[MODEL] == "sleeping")
        assert server.stop() == 0
        assert "Traceback" not in server.stderr


def test_what_is_refused_without_an_engine_wakes_nobody(home: Path) -> None:
    with ServerProcess(home, "--context-length", "256") as server:
        server.wait_ready()
        sleep(server)
        long = "one two three " * 100
        for path, body in (
            ("completions", {"prompt": long}),
            ("completions", {"prompt": "Hi", "max_tokens": 256}),
            ("completions", {"prompt": [10**6]}),
            ("chat/completions", {"messages": [{"role": "user", "content": long}]}),
            ("embeddings", {"input": ["Hi", long]}),
        ):
            answer = httpx2.post(f"{server.url}/v1/{path}", json={"model": MODEL, **body}, timeout=60)
            assert answer.status_code == 400, answer.text
            assert statuses(server) == {MODEL: "sleeping"}, path
        assert server.children() == []


def test_the_wait_for_a_wake_is_logged_and_counted(home: Path) -> None:
    with ServerProcess(home, "--log-format", "json") as server:
        server.wait_ready()
        text(server)
        sleep(server)
        text(server)
        httpx2.post(f"{server.url}/v1/embeddings", json={"model": MODEL, "input": "Hi"}, timeout=60)
        sleep(server)
        httpx2.post(f"{server.url}/v1/embeddings", json={"model": MODEL, "input": "Hi"}, timeout=60)
        assert value(server, f'stoker_model_wake_wait_seconds_count{{model="{MODEL}"}}') == 2
    lines = [orjson.loads(line) for line in server.stderr.splitlines() if line.startswith("{")]
    requests = [line for line in lines if line.get("route", "").startswith("/v1/")]
    waits = [(line["route"], line.get("wake_ms", 0) > 0) for line in requests]
    assert waits == [
        ("/v1/completions", False),
        ("/v1/completions", True),
        ("/v1/embeddings", False),
        ("/v1/embeddings", True),
    ]
    assert all(line.get("wake_ms", 0) <= line["duration_ms"] for line in requests)


def test_two_models_take_turns_in_a_budget_for_one(twins: ServerProcess) -> None:
    assert statuses(twins) == {MODEL: "sleeping", TWIN: "ready"}
    texts = []
    for model in (MODEL, TWIN, MODEL):
        texts.append(text(twins, model))
        assert len(twins.children()) == 1
        assert statuses(twins)[model] == "ready"
    assert len(set(texts)) == 1
    assert twins.get("/readyz")[0] == 200
    both = [Request(twins, model, max_tokens=100, ignore_eos=True) for model in (MODEL, TWIN) * 3]
    assert {request.answer().status_code for request in both} == {200}
    assert len({request.answer().json()["choices"][0]["text"] for request in both}) == 1
    assert value(twins, f'stoker_model_sleeps_total{{model="{MODEL}",reason="memory"}}') >= 2


def test_a_model_that_answers_is_not_put_to_sleep(twins: ServerProcess) -> None:
    long = Request(twins, TWIN, max_tokens=600, ignore_eos=True)
    until(lambda: value(twins, f'stoker_engine_running{{model="{TWIN}"}}') == 1)
    refused = httpx2.post(f"{twins.url}/admin/models/{TWIN}/sleep", timeout=30)
    assert refused.status_code == 409
    hurried = ask(twins, MODEL, queue_timeout=0.05)
    assert (hurried.status_code, hurried.json()["error"]["code"]) == (429, "queue_timeout")
    patient = text(twins, MODEL)
    assert long.answer().status_code == 200
    assert patient == text(twins, TWIN)


def test_who_finds_no_room_is_told_what_to_do(home: Path, default_model_path: Path) -> None:
    table = f'[models."{default_model_path}"]\nalias = "{TWIN}"\n'
    (home / "config.toml").write_text(f"{ONE_FITS}wake_timeout_s = 0.2\n{table}")
    with ServerProcess(home, MODEL, str(default_model_path)) as server:
        server.wait_ready()
        long = Request(server, TWIN, max_tokens=1500, ignore_eos=True)
        until(lambda: value(server, f'stoker_engine_running{{model="{TWIN}"}}') == 1)
        refused = ask(server, MODEL)
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "memory_budget" in refused.json()["error"]["message"]
        assert long.answer().status_code == 200


def test_a_model_larger_than_the_budget_is_refused_at_the_start(home: Path) -> None:
    with ServerProcess(home, "--memory-budget", "100MiB") as server:
        assert server.process.wait(30) == 1
        assert "memory_budget is 105 MB" in server.stderr


def test_an_engine_that_is_killed_while_it_wakes(single: ServerProcess) -> None:
    before = text(single)
    sleep(single)
    waiting = [Request(single) for _ in range(3)]
    until(single.children)
    for engine in single.children():
        os.kill(engine, signal.SIGKILL)
    for request in waiting:
        answer = request.answer()
        assert answer.status_code == 503, answer.text
        assert "could not be woken" in answer.json()["error"]["message"]
    assert orjson.loads(single.get(f"/admin/models/{MODEL}/is_sleeping")[1]) == {"is_sleeping": True}
    assert single.get("/readyz")[0] == 200
    assert text(single) == before
    assert value(single, f'stoker_model_wakes_total{{model="{MODEL}",outcome="failed"}}') == 1
    assert value(single, f'stoker_engine_restarts_total{{model="{MODEL}"}}') == 0


def test_an_engine_that_dies_after_a_wake_is_restarted_and_its_stream_goes_on(single: ServerProcess) -> None:
    expected = text(single, max_tokens=200, ignore_eos=True)
    sleep(single)
    stream = Request(single, max_tokens=200, ignore_eos=True)
    until(lambda: value(single, f'stoker_engine_running{{model="{MODEL}"}}') == 1)
    os.kill(single.children()[0], signal.SIGKILL)
    assert stream.answer().json()["choices"][0]["text"] == expected
    assert value(single, f'stoker_engine_restarts_total{{model="{MODEL}"}}') == 1


def test_a_client_that_leaves_during_a_wake(single: ServerProcess) -> None:
    sleep(single)
    host, _, port = single.url.removeprefix("http://").partition(":")
    body = orjson.dumps({"model": MODEL, "prompt": "Once", "max_tokens": 4000})
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n" % len(body) + body
        )
        until(single.children)
    until(lambda: statuses(single)[MODEL] == "ready")
    single.wait_metric("stoker_choices_in_flight", 0)
    sleep(single)
    assert single.children() == []


def test_a_server_that_ends_during_a_wake_answers_first(single: ServerProcess) -> None:
    sleep(single)
    waiting = Request(single)
    until(single.children)
    single.process.send_signal(signal.SIGTERM)
    assert waiting.answer().status_code == 200
    assert single.process.wait(30) == 0
    assert "Traceback" not in single.stderr


def test_a_second_sigterm_ends_a_wake(single: ServerProcess) -> None:
    sleep(single)
    outcomes: list[bool] = []

    def wait() -> None:
        try:
            outcomes.append(ask(single, max_tokens=8000, ignore_eos=True).status_code == 200)
        except httpx2.HTTPError:
            outcomes.append(False)

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(single.children)
    engines = single.children()
    single.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)  # or they would be one
    single.process.send_signal(signal.SIGTERM)
    single.process.wait(20)
    waiting.join(20)
    assert outcomes == [False]
    until(lambda: not any(Path(f"/proc/{engine}").exists() for engine in engines))


def test_prefixes_come_back_from_the_disk_after_a_wake(home: Path) -> None:
    with ServerProcess(home, "--max-kv-disk-bytes", "200MB") as server:
        server.wait_ready()
        prompt = "The quick brown fox jumps over the lazy dog. " * 30
        before = text(server, prompt=prompt)
        sleep(server)
        answer = ask(server, prompt=prompt).json()
        assert answer["choices"][0]["text"] == before
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 200


def test_settings_of_sleep_are_reloaded(single: ServerProcess, home: Path) -> None:
    assert statuses(single) == {MODEL: "ready"}
    (home / "config.toml").write_text("sleep_after_s = 0.2\n")
    single.process.send_signal(signal.SIGHUP)
    until(lambda: statuses(single)[MODEL] == "sleeping")
    (home / "config.toml").write_text("memory_budget = '10MiB'\n")
    single.process.send_signal(signal.SIGHUP)
    until(lambda: "need a restart: memory_budget" in single.stderr)
    assert text(single)
    time.sleep(0.5)
    assert statuses(single) == {MODEL: "ready"}, "it no longer sleeps by time"


def test_errors_reach_the_official_client(twins: ServerProcess) -> None:
    with OpenAI(base_url=f"{twins.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        sleep(twins, TWIN)
        with pytest.raises(APIStatusError) as caught:
            client.completions.create(
                model=TWIN, prompt="Once", extra_body={"queue_timeout": 0.001}, max_tokens=1
            )
        assert caught.value.status_code == 429
