"""Probes and metrics of a real server."""

import re
from pathlib import Path

import httpx2
import pytest
from openai import OpenAI

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"


def test_the_page_is_prometheus_text(server: ServerProcess) -> None:
    answer = httpx2.get(server.url + "/metrics", timeout=10)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert f'stoker_engine_up{{model="{MODEL}"}} 1.0' in answer.text


def test_metrics_count_what_a_client_did(server: ServerProcess, client: OpenAI) -> None:
    before = server.metrics()
    answer = client.completions.create(
        model=MODEL, prompt="One, two,", max_tokens=64, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage is not None
    server.wait_metric("stoker_engine_running", 0)
    after = server.metrics()

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown("stoker_engine_generated_tokens_total") == answer.usage.completion_tokens == 64
    assert grown("stoker_engine_prompt_tokens_total") == answer.usage.prompt_tokens
    assert grown("stoker_time_to_first_token_seconds_count") == 1
    assert 0 < grown("stoker_time_to_first_token_seconds_sum") < 60
    assert 0 < grown("stoker_inter_token_seconds_count") <= 63, "a busy gateway may get two tokens at once"
    assert grown("stoker_http_requests_total") >= 1
    assert after["stoker_engine_kv_blocks_used"] == 0
    assert 0 < after["stoker_engine_kv_blocks_cached"] <= after["stoker_engine_kv_blocks"]


@pytest.mark.parametrize("page", ["embeddings", "lora", "sleep", "structured-output"])
def test_what_the_page_of_an_ability_names_is_there(server: ServerProcess, page: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(stoker_\w+)", text))
    told = set(re.findall(r"^# TYPE (\w+) ", server.get("/metrics")[1], re.MULTILINE))
    assert len(names) >= 2
    assert names <= told


def test_metrics_tell_the_memory_of_kv_caches_from_the_start(home: Path) -> None:
    with ServerProcess(home, "--kv-memory", "200MiB") as server:
        server.wait_ready()
        before = server.metrics()
        assert before["stoker_engine_kv_bytes"] <= 200 * 2**20 < before["stoker_engine_kv_bytes"] * 1.01
        assert before["stoker_engine_kv_bytes_used"] == before["stoker_engine_kv_bytes_cached"] == 0
        body = {"model": MODEL, "prompt": "a " * 400, "max_tokens": 1}
        assert httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60).status_code == 200
        server.wait_metric("stoker_engine_running", 0)
        after = server.metrics()
        block_bytes = after["stoker_engine_kv_bytes"] / after["stoker_engine_kv_blocks"]
        assert (
            after["stoker_engine_kv_bytes_cached"]
            == after["stoker_engine_kv_blocks_cached"] * block_bytes
            > 0
        )


def test_metrics_count_refusals_by_reason(server: ServerProcess) -> None:
    def refused() -> float:
        return server.metrics().get("stoker_requests_failed_total", 0.0)

    before = refused()
    answer = httpx2.post(server.url + "/v1/completions", json={"model": "other", "prompt": "Hi"}, timeout=10)
    assert answer.status_code == 404
    assert refused() == before + 1
    assert 'reason="model_not_found"' in server.get("/metrics")[1]


@pytest.mark.parametrize("path", ["/livez", "/health", "/readyz"])
def test_probes_answer_what_they_promise(server: ServerProcess, path: str) -> None:
    ready = f'{{"status":"ready","models":{{"{MODEL}":"ready"}}}}'
    assert server.get(path) == (200, ready if path == "/readyz" else '{"status":"ok"}')
