"""Start, keys, drain, and an engine that hangs."""

import os
import signal
import time
from pathlib import Path

import httpx2
import pytest
from openai import AuthenticationError, OpenAI

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"


def connect(server: ServerProcess, api_key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=api_key, max_retries=0, timeout=60)


def post(server: ServerProcess, body: dict[str, object]) -> int:
    return httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60).status_code


def test_the_start_line_says_where_and_what(server: ServerProcess) -> None:
    (line,) = server.stdout.splitlines()
    assert server.url in line
    assert MODEL in line
    assert "no API key" in line


def test_a_second_start_is_ready_soon(home: Path) -> None:
    with ServerProcess(home) as first:
        first.wait_ready()
    started_s = time.monotonic()
    with ServerProcess(home) as second:
        second.wait_ready()
        assert time.monotonic() - started_s < 10.0, "1.5 s alone; leave room for a busy machine"


def test_with_a_key_only_probes_are_open(home: Path) -> None:
    with ServerProcess(home, environment={"STOKER_API_KEY": "secret-1"}) as server:
        server.wait_ready()
        assert "secret-1" not in server.stdout + server.stderr
        assert [server.get(path)[0] for path in ("/livez", "/readyz", "/metrics", "/v1/models")] == [
            200,
            200,
            401,
            401,
        ]
        with connect(server, "secret-1") as right, connect(server, "secret-2") as wrong:
            assert right.completions.create(model=MODEL, prompt="Hi", max_tokens=1).usage
            with pytest.raises(AuthenticationError):
                wrong.completions.create(model=MODEL, prompt="Hi", max_tokens=1)


@pytest.mark.parametrize("to_engine_too", [False, True])
def test_sigterm_lets_running_streams_end(home: Path, *, to_engine_too: bool) -> None:
    """Service managers signal the gateway alone or every process of the service."""
    with ServerProcess(home) as server:
        server.wait_ready()
        with connect(server) as client:
            stream = client.completions.create(
                model=MODEL,
                prompt="Once",
                max_tokens=300,
                temperature=0,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            next(stream)
            for engine in server.children() if to_engine_too else []:
                os.kill(engine, signal.SIGTERM)
            server.process.send_signal(signal.SIGTERM)
            reasons = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
            assert reasons[-1] == "length"
        assert server.process.wait(20) == 0
        assert "Traceback" not in server.stderr
        assert "died" not in server.stderr


def test_a_drain_is_bounded(home: Path) -> None:
    with ServerProcess(home, "--shutdown-timeout-s", "1") as server:
        server.wait_ready()
        with connect(server) as client:
            stream = client.completions.create(
                model=MODEL,
                prompt="Once",
                max_tokens=8000,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            next(stream)
            started_s = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(20)
            assert time.monotonic() - started_s < 8
            stream.close()


def test_a_server_leaves_no_engine_behind(home: Path) -> None:
    with ServerProcess(home) as server:
        server.wait_ready()
        (engine,) = server.children()
        server.process.kill()
        server.process.wait()
        deadline_s = time.monotonic() + 10
        while Path(f"/proc/{engine}").exists():
            assert time.monotonic() < deadline_s, "the engine outlives its gateway"
            time.sleep(0.05)


def test_a_hung_engine_makes_the_server_unready_and_is_replaced(home: Path) -> None:
    with ServerProcess(home, "--engine-timeout-s", "6") as server:
        server.wait_ready()
        with connect(server) as client:
            stream = client.completions.create(
                model=MODEL, prompt="Once", max_tokens=8000, stream=True, extra_body={"ignore_eos": True}
            )
            next(stream)
            (engine,) = server.children()
            os.kill(engine, signal.SIGSTOP)
            deadline_s = time.monotonic() + 5
            while server.get("/readyz")[0] == 200:
                assert time.monotonic() < deadline_s, "a hung engine is ready"
                time.sleep(0.05)
            assert "does not answer" in server.get("/readyz")[1]
            server.wait_ready()
            next(stream)
            stream.close()
        assert server.children() != [engine]
        assert server.metrics()["stoker_engine_restarts_total"] == 1
