"""A model that is served straight from a hub: pulled at the first start, found at the second."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import orjson
import pytest

from stoker.testing.hub_server import HubServer
from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

NAME = "hf:someone/smollm2:Q4_1"
MODEL_ID = "someone--smollm2--q4_1"


@pytest.fixture
def hub(tmp_path: Path, default_model_path: Path) -> Iterator[HubServer]:
    repo = tmp_path / "hub" / "someone" / "smollm2"
    repo.mkdir(parents=True)
    (repo / "smollm2-Q4_1.gguf").symlink_to(default_model_path)
    with HubServer(tmp_path / "hub") as server:
        yield server


def test_serve_pulls_from_the_hub_once_and_starts_offline_from_then_on(
    tmp_path: Path, hub: HubServer
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for offline in ("0", "1"):
        environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": offline}
        with ServerProcess(home, NAME, environment=environment) as server:
            server.wait_ready()
            listed = httpx2.get(f"{server.url}/v1/models").json()
            assert [model["id"] for model in listed["data"]] == [MODEL_ID]
            answer = httpx2.post(
                f"{server.url}/v1/completions",
                json={"model": MODEL_ID, "prompt": "One, two,", "max_tokens": 4, "temperature": 0},
                timeout=60,
            ).json()
            assert answer["choices"][0]["text"]
            assert server.stop() == 0, server.stderr
    assert hub.ranges() == [None]


def test_a_hangup_during_the_first_pull_is_acted_on_when_the_server_is_up(
    tmp_path: Path, hub: HubServer
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    hub.faults.stall_after_bytes = 1_000_000
    with ServerProcess(home, NAME, environment={"HF_ENDPOINT": hub.url}) as server:
        deadline_s = time.monotonic() + 30
        while not hub.ranges():
            assert time.monotonic() < deadline_s, server.stderr
            time.sleep(0.02)
        (home / "config.toml").write_text("max_choices = 2\n")
        server.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert server.process.poll() is None, "it ended"
        hub.faults.stall_after_bytes = None
        hub.faults.resume.set()
        server.wait_ready()
        assert "SIGHUP came while the models were prepared" in server.stderr
        assert "changed: max_choices" in server.stderr
        body = {"model": MODEL_ID, "prompt": "One,", "max_tokens": 1, "n": 3}
        answer = httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60)
        assert answer.status_code == 400
        assert "at most 2 are taken" in orjson.loads(answer.content)["error"]["message"]
        assert server.stop() == 0, server.stderr
