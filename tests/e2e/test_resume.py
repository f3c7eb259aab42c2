"""Answers of a server whose engine is killed meanwhile are those of an undisturbed one."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from openai import OpenAI, Stream
from openai.types.chat import ChatCompletionChunk

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
GREEDY: dict[str, Any] = {"temperature": 0}
SAMPLED: dict[str, Any] = {"temperature": 1, "seed": 7, "top_p": 0.95}
MESSAGES: list[Any] = [{"role": "user", "content": "Tell me a long story about a lighthouse."}]
LOGPROBS: dict[str, Any] = {"logprobs": True, "top_logprobs": 3}


def stream(client: OpenAI, sampling: dict[str, Any]) -> Stream[ChatCompletionChunk]:
    """Ask for 300 tokens with everything that can be told of them."""
    chunks: Stream[ChatCompletionChunk] = client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=300,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
        **sampling,
        **LOGPROBS,
    )
    return chunks


def told(chunks: list[ChatCompletionChunk]) -> list[object]:
    """Return what a stream said, however it was cut into chunks."""
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    return [
        "".join(choice.delta.content or "" for choice in choices),
        [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content or ()],
        [choice.finish_reason for choice in choices if choice.finish_reason],
        [(chunk.usage.prompt_tokens, chunk.usage.completion_tokens) for chunk in chunks if chunk.usage],
        {chunk.system_fingerprint for chunk in chunks},
    ]


def kill_engine(server: ServerProcess) -> None:
    (engine,) = server.children()
    os.kill(engine, signal.SIGKILL)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_stream_is_the_same_to_the_byte(home: Path, sampling: dict[str, Any]) -> None:
    with ServerProcess(home) as server:
        server.wait_ready()
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            undisturbed = list(stream(client, sampling))
            disturbed = []
            for chunk in stream(client, sampling):
                disturbed.append(chunk)
                if len(disturbed) in {10, 40}:
                    kill_engine(server)
        assert told(disturbed) == told(undisturbed)
        assert len(told(disturbed)[1]) == 300  # type: ignore[arg-type]  # a list
        metrics = server.metrics()
        assert metrics["stoker_engine_restarts_total"] == 2
        assert metrics["stoker_streams_resumed_total"] == 2
        assert metrics["stoker_requests_quarantined_total"] == 0
        assert "Traceback" not in server.stderr


def test_an_answer_that_is_not_streamed_is_the_same_and_so_are_its_choices(home: Path) -> None:
    body = {
        "model": MODEL,
        "prompt": "Once upon a time",
        "max_tokens": 150,
        "n": 3,
        "logprobs": 2,
        "ignore_eos": True,
        **SAMPLED,
    }
    with ServerProcess(home) as server:
        server.wait_ready()

        def ask() -> tuple[int, Any]:
            answer = httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60)
            parsed = orjson.loads(answer.content)
            return answer.status_code, (parsed["choices"], parsed["usage"]["completion_tokens"])

        undisturbed = ask()
        answers: list[tuple[int, Any]] = []
        asking = threading.Thread(target=lambda: answers.append(ask()))
        before = server.metrics()["stoker_engine_generated_tokens_total"]
        asking.start()
        while server.metrics()["stoker_engine_generated_tokens_total"] < before + 60:
            time.sleep(0.01)
        kill_engine(server)
        asking.join()
        assert undisturbed[0] == 200
        assert answers == [undisturbed]
        assert server.metrics()["stoker_streams_resumed_total"] == 3


def test_the_server_is_unready_between_two_engines_and_refuses_what_comes_then(home: Path) -> None:
    with ServerProcess(home) as server:
        server.wait_ready()
        kill_engine(server)
        body = {"model": MODEL, "prompt": "Hi", "max_tokens": 1}
        statuses: set[int] = set()
        deadline_s = time.monotonic() + 30
        while server.get("/readyz")[0] != 200 or not statuses:
            assert time.monotonic() < deadline_s, "the engine does not come back"
            statuses.add(httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60).status_code)
        assert statuses <= {200, 503}
        assert 503 in statuses
        assert server.process.poll() is None
