"""`stoker run` over a scripted generator: one answer, and a chat on the terminal."""

import asyncio
import io
import logging
import signal
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from stoker import app
from stoker.cli import main
from stoker.core.errors import ContextLengthError, InvalidRequestError, NotReadyError, StokerError
from stoker.core.protocols import Generator
from stoker.core.text import ChatPrompt, Message, TextDelta, TextRequest
from stoker.models.catalogue import RecommendedSampling
from stoker.models.library import LocatedModel
from stoker.testing.generator import ScriptedGenerator, Step, reply, steps


class Library:
    """Finds every model without looking."""

    def ensure(self, name: str, _: object) -> LocatedModel:
        return LocatedModel(name, Path("/nonexistent"))

    def sampling(self, name: str) -> RecommendedSampling:
        if name == "recommended":
            return RecommendedSampling(temperature=0.6, top_p=0.95, top_k=20, min_p=0.05)
        return RecommendedSampling()


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedGenerator:
    scripted = ScriptedGenerator(reply("Hel", "lo"))

    @asynccontextmanager
    async def running(*_: object) -> AsyncGenerator[Generator]:
        yield scripted

    monkeypatch.setattr(app, "model_library", lambda _: Library())
    monkeypatch.setattr(app, "running_generator", running)
    monkeypatch.setenv("STOKER_HOME", str(tmp_path))
    return scripted


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Leave the process's logs as they were."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    structlog.reset_defaults()


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["run", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def give(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))


def messages_of(request: TextRequest) -> list[tuple[str, str]]:
    assert isinstance(request.prompt, ChatPrompt)
    return [(message.role, message.content) for message in request.prompt.messages]


def test_the_answer_goes_to_standard_output_and_nothing_else_does(
    generator: ScriptedGenerator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("tiny", "hi") == 0
    assert capsys.readouterr().out == "Hello\n"
    (request,) = generator.requests
    assert messages_of(request) == [("user", "hi")]
    assert (request.max_tokens, request.temperature, request.top_p, request.seed) == (None, 0.2, 1.0, None)
    assert (request.top_k, request.min_p) == (0, 0.0)


def test_what_is_not_given_is_what_the_catalogue_recommends(generator: ScriptedGenerator) -> None:
    assert status_of("recommended", "hi") == 0
    assert status_of("recommended", "hi", "--temperature", "0", "--top-k", "0") == 0
    first, second = generator.requests
    assert (first.temperature, first.top_p, first.top_k, first.min_p) == (0.6, 0.95, 20, 0.05)
    assert (second.temperature, second.top_p, second.top_k, second.min_p) == (0.0, 0.95, 0, 0.05)


def test_every_flag_reaches_the_request(generator: ScriptedGenerator) -> None:
    flags = ["--system", "brief", "--max-tokens", "5", "--temperature", "0", "--top-p", "0.5", "--seed", "7"]
    flags += ["--top-k", "8", "--min-p", "0.1"]
    assert status_of("tiny", "hi", *flags) == 0
    (request,) = generator.requests
    assert request.prompt == ChatPrompt((Message("system", "brief"), Message("user", "hi")))
    assert (request.max_tokens, request.temperature, request.top_p, request.seed) == (5, 0.0, 0.5, 7)
    assert (request.top_k, request.min_p) == (8, 0.1)


@pytest.mark.parametrize(
    "flags", [["--max-tokens", "0"], ["--temperature", "3"], ["--top-p", "0"], ["--seed", "-1"]]
)
def test_values_out_of_range_are_usage_errors(
    generator: ScriptedGenerator, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("tiny", "hi", *flags) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert generator.requests == []


def test_a_prompt_may_come_from_a_pipe(generator: ScriptedGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, "wörds\n".encode())
    assert status_of("tiny") == 0
    assert messages_of(generator.requests[0]) == [("user", "wörds")]


@pytest.mark.parametrize(
    ("raw", "words"),
    [(b" \n", "no prompt"), (b"\xff", "not UTF-8"), (b"x" * 1025, "more than max_body_bytes")],
)
def test_what_comes_from_a_pipe_is_checked(
    generator: ScriptedGenerator,
    raw: bytes,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    give(monkeypatch, raw)
    monkeypatch.setenv("STOKER_MAX_BODY_BYTES", "1024")
    assert status_of("tiny") == 2
    assert words in capsys.readouterr().err
    assert generator.requests == []


def chat(monkeypatch: pytest.MonkeyPatch, *lines: str | type[BaseException]) -> int:
    """Chat with these lines typed; an exception is raised at its place instead."""
    typed = iter([*lines, EOFError])

    def read(_: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    give(monkeypatch, b"")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", read)
    return status_of("tiny", "--system", "brief")


def test_a_chat_remembers_what_was_said_until_it_is_cleared(
    generator: ScriptedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chat(monkeypatch, "one", "  ", "two", "/clear", "three") == 0
    assert [messages_of(request) for request in generator.requests] == [
        [("system", "brief"), ("user", "one")],
        [("system", "brief"), ("user", "one"), ("assistant", "Hello"), ("user", "two")],
        [("system", "brief"), ("user", "three")],
    ]


def test_ctrl_c_ends_an_answer_and_at_the_prompt_the_chat(
    generator: ScriptedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(request: TextRequest) -> Iterator[Step]:
        if messages_of(request)[-1] == ("user", "one"):
            signal.raise_signal(signal.SIGINT)
            yield asyncio.Event()
        yield TextDelta(0, "ok")

    generator.script = script
    assert chat(monkeypatch, "one", "two", KeyboardInterrupt, "three") == 0
    assert [messages_of(request)[1:] for request in generator.requests] == [
        [("user", "one")],
        [("user", "two")],
    ]
    assert generator.open == 0


def test_a_message_that_does_not_fit_is_told_and_forgotten(
    generator: ScriptedGenerator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    generator.script = steps(ContextLengthError("Too long by 5 tokens."))
    assert chat(monkeypatch, "one", "two") == 0
    assert "Too long by 5 tokens. /clear begins a new chat." in capsys.readouterr().err
    assert messages_of(generator.requests[1]) == [("system", "brief"), ("user", "two")]


@pytest.mark.parametrize(
    "error", [NotReadyError("No engine is ready."), InvalidRequestError("The template refuses this.")]
)
def test_a_chat_goes_on_after_an_error(
    generator: ScriptedGenerator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: StokerError,
) -> None:
    generator.script = steps(error)
    assert chat(monkeypatch, "one", "two") == 0
    assert capsys.readouterr().err.count(f"{error}\n") == 2
    assert messages_of(generator.requests[1]) == [("system", "brief"), ("user", "two")]


@pytest.mark.parametrize(
    ("terminal", "shown"), [(True, "a\ufffd[2Jb\ufffd\n\tü"), (False, "a\x1b[2Jb\x9b\n\tü")]
)
def test_an_answer_cannot_command_a_terminal(
    generator: ScriptedGenerator,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: bool,
    shown: str,
) -> None:
    generator.script = reply("a\x1b[2", "Jb\x9b\n\tü")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert status_of("tiny", "hi") == 0
    assert capsys.readouterr().out == shown + "\n"
