"""`stoker quality` on a tiny model: what it prints can be set, and a text that is too short is refused."""

import re
from pathlib import Path

import pytest

from stoker.cli import main
from stoker.testing.gguf_files import write_tiny_llama

TEXT = "The quick brown fox jumps over the lazy dog, again and again. " * 40


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["quality", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STOKER_HOME", str(tmp_path / "home"))
    return write_tiny_llama(tmp_path / "tiny.gguf", dtype="Q4_1")


@pytest.mark.parametrize("flags", [[], ["--by-layer"], ["--precise", "none"]])
def test_it_prints_costs_and_a_value_to_set(
    model: Path, tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text(TEXT)
    assert run(str(model), "--text", str(text), *flags) == 0
    printed = capsys.readouterr().out
    names = [line.split()[0] for line in printed.splitlines()[1:-2]]
    assert ("down:0" in names) == ("--by-layer" in flags)
    assert {name.partition(":")[0] for name in names} >= {"q", "k", "v", "o", "gate", "up", "down"}
    assert f"as set ({'none' if '--precise' in flags else 'v,output'})" in printed
    found = re.search(r"precise = '([a-z0-9:,]+)'", printed)
    assert found is not None
    assert run(str(model), "--text", str(text), "--precise", found[1]) == 0
    assert f"as set ({found[1]})" in capsys.readouterr().out


def test_a_short_text_is_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text"
    text.write_text("too short")
    assert run(str(model), "--text", str(text)) == 2
    assert "name a longer one" in capsys.readouterr().err
    assert run(str(model), "--text", str(tmp_path / "none")) == 2
    assert "cannot read the text" in capsys.readouterr().err


def test_a_matrix_that_there_is_not_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(model), "--precise", "gates") == 2
    assert "precise has 'gates'" in capsys.readouterr().err
