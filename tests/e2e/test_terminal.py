"""`stoker run` and the model commands as a user types them."""

import subprocess
import sys
from pathlib import Path

import pytest

from stoker.testing.server_process import ServerProcess, clean_environment

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"


def stoker(home: Path, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stoker", *arguments],
        input=text or "",
        capture_output=True,
        text=True,
        env=clean_environment(home),
        timeout=90,
        check=False,
    )


def test_run_answers_one_prompt(home: Path) -> None:
    ended = stoker(home, "run", MODEL, "What is the capital of France?", "--temperature", "0")
    assert ended.returncode == 0, ended.stderr
    assert "Paris" in ended.stdout
    assert ended.stderr == ""


def test_run_reads_a_prompt_from_a_pipe(home: Path) -> None:
    ended = stoker(home, "run", "--temperature", "0", text="What is the capital of France?\n")
    assert ended.returncode == 0, ended.stderr
    assert "Paris" in ended.stdout


def test_run_with_a_seed_repeats_itself(home: Path) -> None:
    first, second = (
        stoker(home, "run", MODEL, "Tell me a story.", "--seed", "5", "--max-tokens", "20").stdout
        for _ in range(2)
    )
    assert first == second
    assert first.strip()


def test_run_without_a_prompt_says_so(home: Path) -> None:
    ended = stoker(home, "run", MODEL)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1


def test_run_refuses_a_prompt_that_does_not_fit(home: Path) -> None:
    ended = stoker(home, "run", MODEL, "hello " * 9000)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "8192" in ended.stderr.replace(",", "")


def test_pull_list_show_rm(home: Path) -> None:
    pulled = stoker(home, "pull", MODEL)
    assert pulled.returncode == 0
    assert pulled.stdout.strip().endswith(".gguf")
    listed = stoker(home, "list").stdout
    assert MODEL in listed
    assert "yes" in listed
    shown = stoker(home, "show", MODEL).stdout
    assert "Apache-2.0" in shown
    assert "8192" in shown
    assert stoker(home, "rm", MODEL).returncode == 0
    assert "yes" not in stoker(home, "list").stdout
    again = stoker(home, "rm", MODEL)
    assert again.returncode == 1
    assert len(again.stderr.splitlines()) == 1


def test_the_example_of_the_readme_talks_to_a_server(server: ServerProcess) -> None:
    example = Path(__file__).parents[2] / "examples" / "chat.py"
    source = example.read_text(encoding="utf-8").replace("http://127.0.0.1:8000", server.url)
    bounded = source.replace("stream=True,", "stream=True, max_tokens=32,")  # a sample may have thousands
    assert bounded != source
    ended = subprocess.run(
        [sys.executable, "-c", bounded], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.split()) > 3
