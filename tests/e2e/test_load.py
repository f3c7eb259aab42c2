"""Many clients at once: nothing is lost, nothing changes, what is not wanted any more is freed."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import pytest_asyncio
from openai import APIError, AsyncOpenAI, BadRequestError, OpenAI, RateLimitError, Stream
from openai.types import Completion
from openai.types.chat import ChatCompletionMessageParam

from stoker.testing.server_process import ServerProcess

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"


@pytest_asyncio.fixture
async def async_client(server: ServerProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=100) as client:
        yield client


async def chat(client: AsyncOpenAI, words: int, *, seed: int, max_tokens: int) -> tuple[str, int]:
    """Return a streamed answer to a prompt of so many words, and how many tokens it has."""
    content = "Count these: " + " ".join(f"word{i * seed % 97}" for i in range(words))
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": content}]
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=messages,
        seed=seed,
        temperature=0.8,
        max_tokens=max_tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, n_tokens, reasons = "", 0, []
    async for chunk in stream:
        if chunk.usage is not None:
            n_tokens = chunk.usage.completion_tokens
        for choice in chunk.choices:
            text += choice.delta.content or ""
            if choice.finish_reason is not None:
                reasons.append(choice.finish_reason)
    assert len(reasons) == 1
    return text, n_tokens


async def test_64_streams_of_mixed_lengths(server: ServerProcess, async_client: AsyncOpenAI) -> None:
    numbers = random.Random(0)
    jobs = [(numbers.randint(1, 200), seed, numbers.randint(1, 48)) for seed in range(64)]
    answers = await asyncio.gather(
        *(chat(async_client, words, seed=seed, max_tokens=limit) for words, seed, limit in jobs)
    )
    for (_, _, limit), (_, n_tokens) in zip(jobs, answers, strict=True):
        assert 1 <= n_tokens <= limit
    await asyncio.to_thread(server.wait_metric, "stoker_engine_running", 0)
    assert server.metrics()["stoker_engine_kv_blocks_used"] == 0


async def test_an_answer_does_not_depend_on_31_others(async_client: AsyncOpenAI) -> None:
    async def mine() -> tuple[str, int]:
        return await chat(async_client, 50, seed=1234, max_tokens=48)

    alone = await mine()
    others = [chat(async_client, 10 + 5 * seed, seed=seed, max_tokens=48) for seed in range(1, 32)]
    together, *_ = await asyncio.gather(mine(), *others)
    assert together == alone


async def test_a_client_that_leaves_frees_its_blocks(
    server: ServerProcess, async_client: AsyncOpenAI
) -> None:
    streams = [
        await async_client.completions.create(
            model=MODEL,
            prompt=f"Story {number}:",
            max_tokens=2000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        for number in range(4)
    ]
    for stream in streams:
        await anext(aiter(stream))
    assert server.metrics()["stoker_engine_kv_blocks_used"] > 0
    for stream in streams:
        await stream.close()
    await asyncio.to_thread(server.wait_metric, "stoker_engine_kv_blocks_used", 0, 5.0)
    assert server.metrics()["stoker_engine_running"] == 0


async def test_a_client_that_leaves_before_the_answer_frees_its_blocks(
    server: ServerProcess, async_client: AsyncOpenAI
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await async_client.completions.create(
                model=MODEL, prompt="Story:", max_tokens=4000, extra_body={"ignore_eos": True}
            )
    await asyncio.to_thread(server.wait_metric, "stoker_engine_kv_blocks_used", 0, 5.0)


def test_a_client_that_reads_nothing_is_cut_off_and_its_places_are_free(home: Path) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Count."}],
        "n": 8,
        "logprobs": True,
        "top_logprobs": 20,
        "max_tokens": 4000,
        "ignore_eos": True,
        "stream": True,
    }
    flags = ("--write-timeout-s", "0.5", "--max-running", "8", "--max-waiting", "0")
    with ServerProcess(home, *flags) as small, socket.socket() as client:
        small.wait_ready()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = small.url.removeprefix("http://").split(":")
        client.connect((host, int(port)))
        data = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        small.wait_metric("stoker_choices_in_flight", 8)
        small.wait_metric("stoker_choices_in_flight", 0, 100)
        small.wait_metric("stoker_engine_kv_blocks_used", 0)
        assert 'reason="client_gone"' in small.get("/metrics")[1]


def test_overload_is_refused_at_once_with_a_time_to_retry(home: Path) -> None:
    with ServerProcess(home, "--max-running", "1", "--max-waiting", "1") as small:
        small.wait_ready()
        with (
            OpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=0) as client,
            ThreadPoolExecutor(2) as threads,
        ):

            def long() -> Stream[Completion]:
                return client.completions.create(
                    model=MODEL, prompt="A", max_tokens=4000, stream=True, extra_body={"ignore_eos": True}
                )

            running = long()
            waits = threads.submit(long)  # an answer begins with its first text, so this one waits for it
            small.wait_metric("stoker_engine_waiting", 1)
            with pytest.raises(RateLimitError) as refusal:
                client.completions.create(model=MODEL, prompt="B", max_tokens=1)
            assert int(refusal.value.response.headers["retry-after"]) >= 1
            assert small.metrics()["stoker_choices_in_flight"] == 2
            with pytest.raises(BadRequestError, match="at most 2 choices"):
                client.completions.create(model=MODEL, prompt=["A", "B", "C"], max_tokens=1)
            running.close()
            waits.result(30).close()
            small.wait_metric("stoker_engine_kv_blocks_used", 0)
            assert client.completions.create(model=MODEL, prompt="B", max_tokens=1).usage


def test_time_limits_end_who_waits_and_who_runs(home: Path) -> None:
    with ServerProcess(home, "--max-running", "1", "--queue-timeout-s", "0.3") as small:
        small.wait_ready()
        with OpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=0) as client:
            endless = {"ignore_eos": True, "timeout": 3.0}
            running = client.completions.create(
                model=MODEL, prompt="A", max_tokens=8000, stream=True, extra_body=endless
            )
            with pytest.raises(RateLimitError, match="turn did not come") as refusal:
                client.completions.create(model=MODEL, prompt="B", max_tokens=1)
            assert refusal.value.code == "queue_timeout"
            assert int(refusal.value.response.headers["retry-after"]) >= 1
            with pytest.raises(APIError, match="not finished within its time limit"):
                list(running)
            small.wait_metric("stoker_engine_kv_blocks_used", 0)
            assert client.completions.create(model=MODEL, prompt="B", max_tokens=1).usage
