"""How commands end when somebody interrupts or stops reading, and what a download shows."""

import subprocess
import sys
from pathlib import Path

import pytest

from stoker.cli import main, progress
from stoker.cli.progress import pull_progress


def test_ctrl_c_is_status_130_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("stoker.cli.app", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["list"])
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("command", [["--help"], ["list"], ["show", "smollm2-135m-instruct"]])
def test_a_reader_that_has_gone_is_no_traceback(command: list[str], tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.stdin.read(); from stoker.cli import main; main({command})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"STOKER_HOME": str(tmp_path)},
    )
    assert child.stdout is not None
    child.stdout.close()
    child.stdout = None
    _, printed = child.communicate(timeout=30)
    assert printed == b""
    assert child.returncode == 1


def test_progress_that_is_no_terminals_is_a_few_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 100.0
    monkeypatch.setattr(progress, "monotonic", lambda: now_s)
    with pull_progress("tiny") as report:
        for step in range(101):
            now_s += 0.1
            report(step * 10_000, 1_000_000)
        report(1_000_000, 1_000_000)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "pulling tiny: 0.0 MB of 1.0 MB",
        "pulling tiny: 0.5 MB of 1.0 MB",
        "pulling tiny: 1.0 MB of 1.0 MB",
    ]


def test_nothing_is_shown_of_a_model_that_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pull_progress("tiny"):
        pass
    assert capsys.readouterr() == ("", "")
