"""The official client against the real server: embeddings, rankings and scores."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openai import BadRequestError, OpenAI

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
WIDTH = 576
TEXTS = [
    "The cat sat on the mat.",
    "Interest rates rose by a quarter of a point.",
    "A list of lakes: " + ", ".join(f"lake number {number}" for number in range(150)),
    "caf\u00e9 \U0001f1ea\U0001f1f8",
]


def embed(client: OpenAI, given: Any, **fields: Any) -> list[list[float]]:
    answer = client.embeddings.create(model=MODEL, input=given, **fields)
    assert [each.index for each in answer.data] == list(range(len(answer.data)))
    return [each.embedding for each in answer.data]


def ask(server: ServerProcess, path: str, **body: Any) -> Any:
    answer = httpx2.post(f"{server.url}{path}", json={"model": MODEL, **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_the_client_gets_unit_vectors_in_either_encoding(client: OpenAI) -> None:
    by_default = embed(client, TEXTS)  # the client asks for base64 by itself
    as_floats = embed(client, TEXTS, encoding_format="float")
    assert by_default == as_floats
    assert [len(each) for each in by_default] == [WIDTH] * len(TEXTS)
    assert [dot(each, each) for each in by_default] == pytest.approx([1.0] * len(TEXTS), abs=1e-5)
    assert embed(client, TEXTS[0], dimensions=WIDTH) == by_default[:1]


def test_texts_and_their_tokens_have_the_same_embedding(server: ServerProcess, client: OpenAI) -> None:
    tokens = [ask(server, "/tokenize", prompt=text)["tokens"] for text in TEXTS]
    expected = embed(client, TEXTS)
    assert embed(client, tokens) == expected
    assert embed(client, tokens[0]) == expected[:1]
    usage = client.embeddings.create(model=MODEL, input=TEXTS).usage
    assert usage.prompt_tokens == usage.total_tokens == sum(map(len, tokens))


def test_company_and_cache_change_no_bit(client: OpenAI) -> None:
    alone = [embed(client, text)[0] for text in TEXTS]
    with ThreadPoolExecutor(6) as threads:
        chats = [
            threads.submit(client.completions.create, model=MODEL, prompt=text, max_tokens=24)
            for text in TEXTS[:2]
        ]
        together = list(threads.map(lambda _: embed(client, TEXTS * 3), range(4)))
        assert all(chat.result().choices for chat in chats)
    assert all(each == alone * 3 for each in together)


def test_documents_are_ranked_and_scored_by_their_embeddings(server: ServerProcess, client: OpenAI) -> None:
    query, *vectors = embed(client, [TEXTS[0], *TEXTS])
    ranking = ask(server, "/v1/rerank", query=TEXTS[0], documents=TEXTS)
    results = ranking["results"]
    assert results[0]["index"] == 0
    assert results[0]["document"] == {"text": TEXTS[0]}
    assert results == sorted(results, key=lambda result: -result["relevance_score"])
    by_index = {result["index"]: result["relevance_score"] for result in results}
    expected = [dot(query, each) for each in vectors]
    assert [by_index[index] for index in range(len(TEXTS))] == pytest.approx(expected, abs=1e-6)
    scores = ask(server, "/v1/score", text_1=TEXTS[0], text_2=TEXTS)["data"]
    assert [each["score"] for each in scores] == [by_index[index] for index in range(len(TEXTS))]


def test_what_cannot_be_embedded_is_refused_by_name(client: OpenAI) -> None:
    for given, fields, param in (
        (["a", ""], {}, "input.1"),
        (["a"] * 2049, {}, "input"),
        ([[1] * 8193], {}, "input.0"),
        ("a", {"dimensions": 256}, "dimensions"),
    ):
        with pytest.raises(BadRequestError) as refused:
            embed(client, given, **fields)
        assert refused.value.param == param


def test_two_thousand_inputs(server: ServerProcess, client: OpenAI) -> None:
    before = server.metrics().get("stoker_embeddings_total", 0)
    vectors = embed(client, [[number % 1000 + 100, 5] for number in range(2048)])
    assert vectors[0] == vectors[1000]
    assert server.metrics()["stoker_embeddings_total"] - before == 2048


def test_kills_under_running_embeddings_lose_nothing_and_change_no_bit(home: Path) -> None:
    inputs = [[100 + (number * 7 + at) % 9000 for at in range(200)] for number in range(24)]
    with ServerProcess(home) as server:
        server.wait_ready()
        undisturbed = ask(server, "/v1/embeddings", input=inputs, encoding_format="base64")
        with ThreadPoolExecutor(1) as thread:
            for tokens_until in (400, 3200):
                begun = server.metrics()["stoker_engine_prompt_tokens_total"] + tokens_until
                disturbed = thread.submit(
                    ask, server, "/v1/embeddings", input=inputs, encoding_format="base64"
                )
                while server.metrics()["stoker_engine_prompt_tokens_total"] < begun:
                    assert not disturbed.done(), "it ended before the engine was killed"
                    time.sleep(0.01)
                (engine,) = server.children()
                os.kill(engine, signal.SIGKILL)
                assert disturbed.result() == undisturbed
                server.wait_ready()
        metrics = server.metrics()
        assert metrics["stoker_engine_restarts_total"] == 2
        assert metrics["stoker_streams_resumed_total"] >= 2
        assert metrics["stoker_requests_quarantined_total"] == 0
        assert "Traceback" not in server.stderr


def test_the_last_token_pools_otherwise(home: Path) -> None:
    with ServerProcess(home, MODEL, "--pooling", "last") as last:
        last.wait_ready()
        answers = [ask(last, "/v1/embeddings", input=TEXTS[2]) for _ in range(2)]
    assert answers[0] == answers[1], "computed, then from the prefix cache"
    assert len(answers[0]["data"][0]["embedding"]) == WIDTH


def test_the_example_finds_the_nearest_text(server: ServerProcess) -> None:
    example = Path(__file__).parents[2] / "examples" / "embeddings.py"
    code = example.read_text().replace("http://127.0.0.1:8000", server.url)
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 3
