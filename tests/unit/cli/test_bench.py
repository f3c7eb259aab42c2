"""`stoker bench`: flags that contradict each other, and what is printed and written."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.cli import main
from stoker.testing.openai_server import Asked, OpenAIServer, Reply, openai_server

URL = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("STOKER_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("STOKER_HOME", str(tmp_path))


class Replies:
    """Answers that a test may change while the server runs."""

    def __init__(self) -> None:
        self.reply = Reply()

    def __call__(self, _: Asked) -> Reply:
        return self.reply


@pytest.fixture
def replies() -> Replies:
    return Replies()


@pytest.fixture
def server(replies: Replies) -> Iterator[OpenAIServer]:
    """A scripted server on a thread of its own: the command has an event loop of its own."""
    started: list[OpenAIServer] = []
    ready, over = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        async with openai_server(replies) as running:
            started.append(running)
            loops.append(asyncio.get_running_loop())
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    yield started[0]
    loops[0].call_soon_threadsafe(over.set)
    thread.join(10)


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--roofline"),
        (["not-an-address"], "not-an-address"),
        ([URL, "--clients", "2", "--rate", "1"], "exclude each other"),
        ([URL, "--find-rate", "--rate", "1"], "exclude each other"),
        ([URL, "--find-rate", "--requests", "9"], "--trial-time"),
        ([URL, "--shared-share", "0.5"], "--shared-tokens"),
        ([URL, "--shared-tokens", "5"], "--shared-share"),
        ([URL, "--rate", "1", "--start-rate", "2", "--slo-share", "0.9"], "--start-rate, --slo-share"),
        ([URL, "--prompt-tokens", "long"], "--prompt-tokens"),
        ([URL, "--clients", "0"], "--clients"),
        ([URL, "--slo-share", "2"], "--slo-share"),
        ([URL, "--scenario", "none"], "none"),
        ([URL, "--out", "/nonexistent/result.json"], "/nonexistent"),
        ([URL, "--threads", "2"], "--threads"),
        ([URL, "--steps", "2"], "--steps"),
        (["--roofline", "--rate", "2"], "--roofline"),
        (["--roofline", "--cases", "many"], "--cases"),
    ],
)
def test_flags_that_make_no_sense_are_told(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("stoker: ")
    assert words in printed.err


def test_a_server_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(URL) == 1
    assert "does not list its models" in capsys.readouterr().err


def test_a_closed_loop_is_measured_printed_and_written(
    server: OpenAIServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    arguments = ["--clients", "3", "--requests", "7", "--prompt-tokens", "80", "--output-tokens", "5"]
    assert status_of(server.url, *arguments, "--api-key", "secret", "--out", str(out)) == 0
    printed = capsys.readouterr().out
    assert "7 of 7" in printed
    assert not any(doubt in printed for doubt in ("usage", "ignore_eos", "shorter", "--seed"))
    result = json.loads(out.read_text())
    (trial,) = result["trials"]
    assert trial["summary"]["n_complete"] == 7
    assert trial["clients"] == 3
    assert {sample["output_tokens"] for sample in trial["samples"]} == {5}
    assert all(len(sample["gaps_s"]) <= 4 for sample in trial["samples"])
    assert {asked["key"] for asked in server.asked} == {"Bearer secret"}
    assert "secret" not in out.read_text()

    # The same requests again, with the counts of the first run: two probes fewer.
    n_asked = len(server.asked)
    assert status_of(server.url, *arguments, "--calibration", str(out)) == 0
    assert len(server.asked) == 2 * n_asked - 2
    first, second = server.asked[:n_asked], server.asked[n_asked:]
    assert {str(asked["messages"]) for asked in second} < {str(asked["messages"]) for asked in first}


def test_the_prefix_scenario_begins_alike(server: OpenAIServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of(server.url, "--scenario", "prefix", "--requests", "5", "--output-tokens", "2") == 0
    assert "100% of them with one of 1 beginnings of 1450 tokens" in capsys.readouterr().out
    systems = [asked["messages"][0]["content"] for asked in server.asked if len(asked["messages"]) == 2]
    assert len(set(systems[1:])) == 1  # the first is a probe's
    assert len({str(asked["messages"]) for asked in server.asked[-5:]}) == 5


def test_what_makes_figures_doubtful_is_told(
    server: OpenAIServer, replies: Replies, capsys: pytest.CaptureFixture[str]
) -> None:
    replies.reply = Reply(n_tokens=3, cached_tokens=1000)
    assert status_of(server.url, "--requests", "4", "--output-tokens", "50") == 0
    printed = capsys.readouterr().out
    assert "4 answers are shorter" in printed
    assert "--seed" in printed
    replies.reply = Reply(usage=False)
    assert status_of(server.url, "--requests", "4", "--output-tokens", "5") == 0
    assert "gives no usage" in capsys.readouterr().out


def test_a_search_tells_the_highest_rate(server: OpenAIServer, capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--prompt-tokens", "9", "--output-tokens", "2", "--slo-ttft", "30", "--slo-itl", "30"]
    search = ["--find-rate", "--start-rate", "100", "--trial-time", "0.1", "--max-trials", "1"]
    assert status_of(server.url, *load, *search) == 0
    assert "highest rate at which 95% of the requests meet the SLO: 100 requests/s" in capsys.readouterr().out


def test_a_result_that_is_none_is_refused(
    server: OpenAIServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    for text in ("", "[]", '{"calibration": {"more": 1}}'):
        path.write_text(text)
        assert status_of(server.url, "--calibration", str(path)) == 2
        assert "--calibration" in capsys.readouterr().err
