"""Models served by llama.cpp: same API, same metrics, what is missing refused by name."""

import os
import re
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
from openai import BadRequestError, OpenAI

from stoker.testing.gguf_gpt2 import write_tiny_gpt2
from stoker.testing.server_process import ServerProcess, clean_environment, seed_model_store

pytest.importorskip("xllamacpp", reason="the extra llamacpp is not installed")

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
TINY = "tiny-gpt2"
ENGINE = ("--engine", "llamacpp", "--threads", "1", "--context-length", "1024")
"""One thread: llama.cpp's threads wait for one another after every operation, which takes long where cores
are busy with other things."""

OPTIONS = (*ENGINE, "--max-running", "4", "--max-waiting", "2")
MESSAGES: list[Any] = [{"role": "user", "content": "Tell me a long story about a lighthouse."}]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, default_model_path: Path) -> Iterator[ServerProcess]:
    """A server of the default model on llama.cpp that the tests share; it must survive all of them."""
    home = tmp_path_factory.mktemp("llamacpp")
    seed_model_store(home, default_model_path)
    with ServerProcess(home, *OPTIONS) as server:
        server.wait_ready()
        yield server
        assert server.metrics()["stoker_engine_restarts_total"] == 0
        assert server.stop() == 0, server.stderr


@pytest.fixture(scope="module")
def ask(llama: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{llama.url}/v1", api_key="none", max_retries=0, timeout=100) as client:
        yield client


def completion(server: ServerProcess, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{server.url}/v1/completions", json={"model": MODEL, **body}, timeout=100)


def wait_for(condition: Any, timeout_s: float = 20.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_chat_streams_what_it_answers_at_once(ask: OpenAI) -> None:
    whole = ask.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=40, temperature=0, logprobs=True, top_logprobs=2
    )
    streamed = list(
        ask.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            max_tokens=40,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(text) > 80
    assert whole.choices[0].logprobs is not None
    entries = whole.choices[0].logprobs.content or []
    assert [len(entry.top_logprobs) for entry in entries] == [2] * 40
    assert "".join(entry.token for entry in entries) == text
    usage = streamed[-1].usage
    assert usage is not None
    assert usage.completion_tokens == 40
    assert len([chunk for chunk in streamed if chunk.choices]) > 20  # token by token, not all at once
    assert re.fullmatch(r"llama\.cpp-[\d.]+-[0-9a-f]{12}-f16", whole.system_fingerprint or "")


def test_a_stop_string_ends_it(ask: OpenAI) -> None:
    plain = ask.completions.create(model=MODEL, prompt="One, two, three,", max_tokens=24, temperature=0)
    text = plain.choices[0].text
    stop = text[9:14]
    stopped = ask.completions.create(
        model=MODEL, prompt="One, two, three,", max_tokens=24, temperature=0, stop=[stop]
    )
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_characters_of_several_tokens_are_whole(ask: OpenAI) -> None:
    prompt = "Emoji: 😀 🎉🎊 😀 🎉🎊 😀 🎉🎊 😀 🎉🎊 😀"
    answer = ask.completions.create(model=MODEL, prompt=prompt, max_tokens=12, temperature=0, logprobs=1)
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.tokens or []) == 12
    assert "🎉" in answer.choices[0].text


def test_several_at_once_with_choices_and_sampling(llama: ServerProcess) -> None:
    answers: list[httpx2.Response] = []

    def one(seed: int) -> None:
        answers.append(
            completion(
                llama,
                prompt=f"Story number {seed}:",
                max_tokens=20,
                n=2,
                seed=seed,
                top_p=0.9,
                top_k=50,
                presence_penalty=0.5,
                frequency_penalty=0.2,
                logit_bias={"198": -100},
                min_tokens=20,
                logprobs=0,
            )
        )

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 3
    for answer in answers:
        parsed = answer.json()
        assert parsed["usage"]["completion_tokens"] == 40
        texts = [choice["text"] for choice in parsed["choices"]]
        assert texts[0] != texts[1]
        assert "\n" not in parsed["choices"][0]["logprobs"]["tokens"]


def test_a_prompt_that_goes_on_is_not_computed_again(ask: OpenAI) -> None:
    prompt = "The history of lighthouses is long, and it begins on the coasts of Egypt. " * 8
    ask.completions.create(model=MODEL, prompt=prompt, max_tokens=1, temperature=0)
    longer = ask.completions.create(model=MODEL, prompt=prompt + "There", max_tokens=1, temperature=0)
    assert longer.usage is not None
    assert longer.usage.prompt_tokens_details is not None
    n_cached = longer.usage.prompt_tokens_details.cached_tokens
    assert n_cached is not None
    assert n_cached >= longer.usage.prompt_tokens - 4


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("echo", {"echo": True, "logprobs": 1}),
        ("repetition_penalty", {"repetition_penalty": 1.2, "presence_penalty": 0.5}),
        ("repetition_penalty", {"repetition_penalty": 1.2, "frequency_penalty": 0.5}),
        ("repetition_penalty", {"repetition_penalty": 1.2, "logit_bias": {"5": 1}}),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(llama: ServerProcess, field: str, body: dict[str, Any]) -> None:
    answer = completion(llama, prompt="Hello", max_tokens=4, **body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")
    for words in (f"'{field}'", f"'{MODEL}'", "llama.cpp (xllamacpp "):
        assert words in error["message"]
    # and the parts of it that it can do are done
    for name, value in body.items():
        if name != "logprobs":
            assert completion(llama, prompt="Hello", max_tokens=4, **{name: value}).status_code == 200


def test_the_official_client_sees_a_refusal(ask: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="does not score the tokens of a prompt"):
        ask.completions.create(model=MODEL, prompt="Hello", max_tokens=0, echo=True, logprobs=0)


def test_who_leaves_frees_the_place(llama: ServerProcess, ask: OpenAI) -> None:
    before = llama.metrics()["stoker_engine_generated_tokens_total"]
    with ask.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        next(iter(stream))
        llama.wait_metric("stoker_engine_running", 1)
    llama.wait_metric("stoker_engine_running", 0)
    assert llama.metrics()["stoker_engine_kv_blocks_used"] == 0
    assert llama.metrics()["stoker_engine_generated_tokens_total"] - before < 900


def test_an_overload_is_refused_at_once(llama: ServerProcess, ask: OpenAI) -> None:
    streams = [
        ask.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
        )
        for _ in range(4)
    ]
    waiting = threading.Thread(target=lambda: completion(llama, prompt="Hi", n=2, max_tokens=1))
    waiting.start()
    llama.wait_metric("stoker_engine_waiting", 2)
    refused = completion(llama, prompt="Hi", max_tokens=1)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    for stream in streams:
        stream.close()
    waiting.join()
    llama.wait_metric("stoker_engine_running", 0)


def test_signals_are_the_gateways_business(llama: ServerProcess) -> None:
    (engine,) = llama.children()
    os.kill(engine, signal.SIGTERM)
    os.kill(engine, signal.SIGINT)
    assert completion(llama, prompt="Hello", max_tokens=4).status_code == 200
    assert llama.children() == [engine]


def test_metrics_are_those_of_the_native_engine(llama: ServerProcess, server: ServerProcess) -> None:
    for each in (llama, server):
        assert completion(each, prompt="Hello", max_tokens=4).status_code == 200
    mine, native = llama.metrics(), server.metrics()
    assert {name for name in mine if name.startswith("stoker_engine_")} == {
        name for name in native if name.startswith("stoker_engine_")
    }
    assert mine["stoker_engine_generated_tokens_total"] >= 4
    assert mine["stoker_engine_steps_total"] >= 4


def test_ps_tells_the_engine(llama: ServerProcess, server: ServerProcess) -> None:
    for each, engine in ((llama, "llamacpp"), (server, "native")):
        listed = orjson.loads(each.get("/admin/models")[1])["models"]
        assert [model["engine"] for model in listed] == [engine]
    printed = subprocess.run(
        [sys.executable, "-m", "stoker", "ps", "--url", llama.url],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert "ENGINE" in printed
    assert "llamacpp" in printed


def test_a_death_ends_streams_with_an_error_and_begins_the_others_anew(home: Path) -> None:
    with ServerProcess(home, *ENGINE, "--max-running", "1") as server:
        server.wait_ready()
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=100) as client:
            stream = client.chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=900, stream=True, extra_body={"ignore_eos": True}
            )
            next(iter(stream))
            answers: list[httpx2.Response] = []
            waiting = threading.Thread(
                target=lambda: answers.append(completion(server, prompt="Hello", max_tokens=4))
            )
            waiting.start()
            server.wait_metric("stoker_engine_waiting", 1)
            (engine,) = server.children()
            os.kill(engine, signal.SIGKILL)
            with pytest.raises(Exception, match="does not continue another one's stream"):
                list(stream)
            waiting.join()
            assert [answer.status_code for answer in answers] == [200]
        assert server.metrics()["stoker_engine_restarts_total"] == 1
        assert server.children() != [engine]
        assert "Traceback" not in server.stderr


def test_an_architecture_that_the_native_engine_does_not_know(tmp_path: Path) -> None:
    path = write_tiny_gpt2(tmp_path / f"{TINY}.gguf")
    with ServerProcess(tmp_path, str(path), "--max-running", "8") as server:
        server.wait_ready()
        answers = [
            httpx2.post(
                f"{server.url}/v1/chat/completions",
                json={
                    "model": TINY,
                    "messages": [{"role": "user", "content": "hello world"}],
                    "max_tokens": 30,
                    "temperature": 0,
                    "ignore_eos": True,
                    "logprobs": True,
                },
                timeout=60,
            )
            for _ in range(2)
        ]
        assert [answer.status_code for answer in answers] == [200, 200]
        first, second = (answer.json() for answer in answers)
        assert first["usage"]["completion_tokens"] == 30
        assert len(first["choices"][0]["logprobs"]["content"]) == 30
        assert first["choices"][0]["message"] == second["choices"][0]["message"]
        assert "llama.cpp-" in first["system_fingerprint"]
        assert "Traceback" not in server.stderr


def test_native_alone_refuses_it_by_name(tmp_path: Path) -> None:
    path = write_tiny_gpt2(tmp_path / f"{TINY}.gguf")
    ended = subprocess.run(
        [sys.executable, "-m", "stoker", "serve", str(path), "--engine", "native", "--port", "0"],
        capture_output=True,
        text=True,
        env=clean_environment(tmp_path),
        check=False,
        timeout=60,
    )
    assert ended.returncode != 0
    assert "'gpt2'" in ended.stderr
    assert "llama" in ended.stderr


def test_a_setting_of_the_native_engine_is_refused(home: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "stoker", "serve", *OPTIONS, "--isa", "portable", "--port", "0"],
        capture_output=True,
        text=True,
        env=clean_environment(home),
        check=False,
        timeout=100,
    )
    assert ended.returncode != 0
    assert "llama.cpp chooses its kernels itself" in ended.stderr
