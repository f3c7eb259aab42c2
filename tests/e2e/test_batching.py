"""The settings file of docs/batching.md in a real server: streams count, and a reload tunes the engine."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import orjson
import pytest

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs" / "batching.md"
N_TOKENS = 12
STEP_TOKENS = 512


@pytest.fixture
def as_documented(home: Path) -> Iterator[ServerProcess]:
    (settings,) = re.findall(
        r"^```toml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    (home / "config.toml").write_text(settings)
    with ServerProcess(home) as server:
        server.wait_ready()
        yield server


def answer(server: ServerProcess) -> str:
    """Return the text that a stream of `N_TOKENS` tokens brings."""
    body = {
        "model": "smollm2-135m-instruct",
        "prompt": "The capitals of Europe are " * 10,
        "max_tokens": N_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    told = httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert told.status_code == 200, told.text
    events = [line.removeprefix("data: ") for line in told.text.splitlines() if line.startswith("data: {")]
    return "".join(choice["text"] for event in events for choice in orjson.loads(event)["choices"])


def reload(server: ServerProcess, home: Path, content: str, names: str) -> None:
    """Write another settings file and wait until the server has taken it over."""
    n_before = server.stderr.count("the settings are reloaded")
    (home / "config.toml").write_text(content)
    for _ in range(500):
        if server.stderr.count("the settings are reloaded") > n_before:
            break
        server.wait_metric("stoker_engine_up", 1)
    told = [line for line in server.stderr.splitlines() if "the settings are reloaded" in line][-1]
    assert names in told
    assert "loaded from now on" not in server.stderr


def test_a_reload_tunes_a_running_engine_and_no_answer_changes(
    home: Path, as_documented: ServerProcess
) -> None:
    server = as_documented
    text = answer(server)
    assert text
    n_steps = N_TOKENS - 1  # the first token is that of the prompt
    server.wait_metric("stoker_engine_streaming_steps_total", n_steps)
    metrics = server.metrics()
    assert metrics["stoker_engine_predicted_seconds_total"] > 0
    assert metrics["stoker_engine_interval_seconds_total"] > 0
    assert metrics["stoker_engine_step_time_ratio"] > 0
    (pid,) = server.children()
    changes = (
        ('batching = "size"\n', "batching, itl_target_s", STEP_TOKENS),
        # Beside the stream, a block of a prompt: no machine computes more in so little time.
        ("itl_target_s = 0.001\nprefill_share = 0.01\n", "batching, itl_target_s, prefill_share", 1 + 16),
        (
            'batching = "time"\nbatch_wait_s = 0.3\n',
            "batching, itl_target_s, prefill_share, batch_wait_s",
            STEP_TOKENS,
        ),
    )
    for number, (content, names, budget) in enumerate(changes, start=2):
        reload(server, home, content, names)
        assert answer(server) == text
        server.wait_metric("stoker_engine_streaming_steps_total", number * n_steps)
        assert server.metrics()["stoker_engine_step_budget_tokens"] == budget
    assert server.children() == [pid]
