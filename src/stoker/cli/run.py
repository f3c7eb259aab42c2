"""``stoker run``: one answer, or a chat on the terminal, from an engine without a server."""

import asyncio
import logging
import sys
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Annotated, TypeVar

import uvloop
from cyclopts import Parameter
from cyclopts.validators import Number

from stoker import app
from stoker.cli.flags import fields_of, with_settings
from stoker.cli.progress import pull_progress
from stoker.config import Settings
from stoker.core.errors import ContextLengthError, SettingsError, StokerError
from stoker.core.protocols import Generator
from stoker.core.sampling import MAX_SEED, MAX_TOP_K
from stoker.core.text import ChatPrompt, Message, TextDelta, TextRequest
from stoker.observe.logs import configure_logs

CLEAR = "/clear"
"""Typed in a chat, forgets what was said."""

DEFAULT_TEMPERATURE = 0.2
"""Where neither the user nor the catalogue says one."""

_SAMPLING = "Sampling"

_Number = TypeVar("_Number", int, float)

_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
"""Characters by which an answer could do to a terminal what it likes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are made; the meanings are the API's."""

    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None


@with_settings(*fields_of("Model and folders", "Model sources", "Engine", "Logs"))
def run(
    settings: Settings,
    prompt: Annotated[str | None, Parameter(negative=())] = None,
    *,
    system: Annotated[str | None, Parameter(group=_SAMPLING)] = None,
    max_tokens: Annotated[int | None, Parameter(group=_SAMPLING, validator=Number(gte=1))] = None,
    temperature: Annotated[float | None, Parameter(group=_SAMPLING, validator=Number(gte=0, lte=2))] = None,
    top_p: Annotated[float | None, Parameter(group=_SAMPLING, validator=Number(gt=0, lte=1))] = None,
    top_k: Annotated[int | None, Parameter(group=_SAMPLING, validator=Number(gte=0, lte=MAX_TOP_K))] = None,
    min_p: Annotated[float | None, Parameter(group=_SAMPLING, validator=Number(gte=0, lte=1))] = None,
    seed: Annotated[int | None, Parameter(group=_SAMPLING, validator=Number(gte=0, lte=MAX_SEED))] = None,
) -> None:
    """Answer one prompt, or chat, without a server.

    The answer is printed as it is made. Without a prompt, it is read from standard input; if that is
    a terminal, a chat begins.

    Args:
        settings: The merged settings.
        prompt: What to answer.
        system: A system message to go before everything else.
        max_tokens: Most tokens of an answer. Unset, the rest of the context.
        temperature: 0 always takes the most likely token; higher is more varied. Unset, this and the next
            three are what the catalogue says that the model's makers recommend, else 0.2 and no limits (small
            models wander off at the API's default of 1).
        top_p: Sample from the most likely tokens whose probabilities sum to this.
        top_k: Sample from this many of the most likely tokens; 0 from all.
        min_p: Leave out tokens less likely than this share of the most likely one's probability.
        seed: The same seed and prompt give the same answer. Unset, a random one.
    """
    interactive = prompt is None and sys.stdin.isatty()
    if prompt is None and not interactive:
        prompt = _read_prompt(settings.max_body_bytes)
    configure_logs("console", level=logging.getLevelNamesMapping()[settings.log_level.upper()])
    with pull_progress(settings.model) as report:
        library = app.model_library(settings)
        located = library.ensure(settings.model, report)
    recommended = library.sampling(settings.model)
    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=_first(temperature, recommended.temperature, DEFAULT_TEMPERATURE),
        top_p=_first(top_p, recommended.top_p, 1.0),
        top_k=_first(top_k, recommended.top_k, 0),
        min_p=_first(min_p, recommended.min_p, 0.0),
        seed=seed,
    )
    messages = [] if system is None else [Message("system", system)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        opened = AsyncExitStack()
        generator = runner.run(opened.enter_async_context(app.running_generator(settings, located)))
        try:
            if prompt is None:
                _chat(runner, generator, located.model_id, messages, sampling)
            else:
                messages.append(Message("user", prompt))
                runner.run(_answer(generator, located.model_id, messages, sampling))
        finally:
            runner.run(opened.aclose())


def _first(*values: _Number | None) -> _Number:
    """Return the first value that is set; the last one is."""
    return next(value for value in values if value is not None)


def _read_prompt(max_bytes: int) -> str:
    raw = sys.stdin.buffer.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise SettingsError(f"standard input has more than max_body_bytes ({max_bytes}); send less")
    try:
        prompt = raw.decode().strip()
    except UnicodeDecodeError as error:
        raise SettingsError(f"standard input is not UTF-8 text: {error}") from error
    if not prompt:
        raise SettingsError("there is no prompt: give one as an argument or on standard input")
    return prompt


def _chat(
    runner: asyncio.Runner, generator: Generator, model: str, messages: list[Message], sampling: Sampling
) -> None:
    """Answer line after line. Ctrl-C ends an answer; at the prompt it ends the chat, as Ctrl-D does."""
    sys.stderr.write(f"{model}: Ctrl-D ends the chat, {CLEAR} begins a new one\n")
    beginning = list(messages)
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return
        if line == CLEAR:
            messages = list(beginning)
        elif line:
            messages.append(Message("user", line))
            try:
                messages.append(
                    Message("assistant", runner.run(_answer(generator, model, messages, sampling)))
                )
            except KeyboardInterrupt:
                messages.pop()
                sys.stdout.write("\n")
            except StokerError as error:
                messages.pop()
                hint = f" {CLEAR} begins a new chat." if isinstance(error, ContextLengthError) else ""
                sys.stderr.write(f"{error}{hint}\n")


async def _answer(generator: Generator, model: str, messages: list[Message], sampling: Sampling) -> str:
    """Print an answer as it is made, and return it; a terminal is shown no control characters."""
    replaced = _CONTROLS if sys.stdout.isatty() else {}
    request = TextRequest(
        request_id="run",
        model=model,
        prompt=ChatPrompt(tuple(messages)),
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
    )
    pieces = []
    async with aclosing(generator.generate(request)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                pieces.append(event.text)
                sys.stdout.write(event.text.translate(replaced))
                sys.stdout.flush()
    sys.stdout.write("\n")
    return "".join(pieces)
