"""The clients of a soak notice whatever is wrong with an answer, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx2
import pytest

from stoker.api.connection import ConnectionLimits
from stoker.core.errors import EngineDiedError, NotReadyError, QueueFullError
from stoker.core.text import Finished, Started, TextDelta, TextLogprob, TextRequest, Usage
from stoker.core.tokens import FinishReason
from stoker.testing.generator import Script, Step
from stoker.testing.loopback import listening
from stoker.testing.scripted_api import scripted_api
from stoker.testing.soak.answers import Told
from stoker.testing.soak.asks import CHAT, COMPLETIONS, Ask
from stoker.testing.soak.client import Ending, Manner, Outcome, make_client, perform, told_by

PIECES = ("Once", " upon", " a", " time")
Change = Callable[[list[Step]], object]


def steps_for(request: TextRequest, change: Change = lambda _: None) -> Iterable[Step]:
    steps: list[Step] = [Started(3)]
    for number, piece in enumerate(PIECES):
        for choice in range(request.n):
            logprob = TextLogprob(text=piece, logprob=-0.125 * number, raw=piece.encode(), top=())
            logprobs = () if request.logprobs is None else (logprob,)
            steps.append(TextDelta(choice, piece, logprobs))
    steps += [Finished(choice, FinishReason.LENGTH) for choice in range(request.n)]
    steps.append(Usage(3, len(PIECES) * request.n, 0))
    change(steps)
    return steps


@asynccontextmanager
async def playing(change: list[Change]) -> AsyncIterator[httpx2.AsyncClient]:
    """Serve the script, changed by what the list holds when a request comes."""
    script: Script = lambda request: steps_for(request, *change)  # noqa: E731
    async with (
        listening(ConnectionLimits(), scripted_api(script).app) as server,
        make_client(f"http://127.0.0.1:{server.port}") as client,
    ):
        yield client


def ask(path: str, *, stream: bool, logprobs: bool = False) -> Ask:
    content = {"prompt": "x"} if path == COMPLETIONS else {"messages": [{"role": "user", "content": "x"}]}
    scored: object = logprobs if path == CHAT else 0 if logprobs else None
    return Ask("ask", path, {"model": "tiny", "n": 2, "logprobs": scored, **content}, stream)


async def outcome(
    client: httpx2.AsyncClient,
    asked: Ask,
    reference: Told,
    manner: Manner = Manner.READS,
    *,
    patience_s: float = 20.0,
    leave_after: int = 3,
) -> Outcome:
    return await perform(
        client,
        asked,
        reference,
        manner,
        load_began_s=0.0,
        patience_s=patience_s,
        leave_after=leave_after,
    )


ASKS = [
    ask(path, stream=stream, logprobs=logprobs)
    for path in (CHAT, COMPLETIONS)
    for stream in (True, False)
    for logprobs in (True, False)
]


@pytest.mark.parametrize("asked", ASKS, ids=lambda each: f"{each.path}-{each.stream}-{each.body['logprobs']}")
async def test_an_equal_answer_is_complete_however_it_is_cut(asked: Ask) -> None:
    async with playing([]) as client:
        reference = await told_by(client, asked)
        assert [choice.text for choice in reference.choices.values()] == ["".join(PIECES)] * 2
        assert reference.usage == ("3", "8", "11")
        other = replace(asked, stream=not asked.stream)
        for each in (asked, other):
            got = await outcome(client, each, reference)
            assert (got.ending, got.detail, got.status, got.n_tokens) == (Ending.COMPLETE, "", 200, 8)


def another_text(steps: list[Step]) -> None:
    steps[2] = TextDelta(1, "Twice", getattr(steps[2], "logprobs", ()))


def another_logprob(steps: list[Step]) -> None:
    entry = TextLogprob(text="Once", logprob=-0.000001, raw=b"Once", top=())
    steps[1] = TextDelta(0, "Once", (entry,))


def lost_token(steps: list[Step]) -> None:
    del steps[5]


def doubled_token(steps: list[Step]) -> None:
    steps.insert(5, steps[5])


def another_reason(steps: list[Step]) -> None:
    steps[-2] = Finished(1, FinishReason.STOP)


def another_usage(steps: list[Step]) -> None:
    steps[-1] = Usage(3, 7, 0)


def failure(steps: list[Step]) -> None:
    steps.insert(4, EngineDiedError("the engine died"))


def truncated(steps: list[Step]) -> None:
    del steps[-1]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (another_text, "choice 1: text from 0 on is 'Twice"),
        (another_logprob, "choice 0: logprobs from 0 on"),
        (lost_token, "choice 0: text from "),
        (doubled_token, "choice 0: text from "),
        (another_reason, "ended with ['stop'] instead of ['length']"),
        (another_usage, "usage ('3', '7', '10')"),
        (failure, "engine_died"),
        (truncated, "engine_error"),
    ],
)
async def test_whatever_is_wrong_is_noticed(change: Change, words: str, *, stream: bool) -> None:
    asked = ask(CHAT, stream=stream, logprobs=True)
    changes: list[Change] = []
    async with playing(changes) as client:
        reference = await told_by(client, asked)
        changes.append(change)
        got = await outcome(client, asked, reference)
        assert got.ending is Ending.WRONG
        assert words in got.detail
        if stream and change in {another_text, another_logprob, failure}:
            left = await outcome(client, asked, reference, Manner.LEAVES, leave_after=6)
            assert left.ending is Ending.WRONG, "also by who leaves after it"


async def test_refusals_and_their_times_are_no_errors() -> None:
    asked = ask(COMPLETIONS, stream=True)
    changes: list[Change] = []
    async with playing(changes) as client:
        reference = await told_by(client, asked)
        for error, status, code, retry_after_s in (
            (QueueFullError("full", retry_after_s=7.0), 429, "rate_limit_exceeded", 7.0),
            (NotReadyError("not yet"), 503, "not_ready", 1.0),
        ):
            changes[:] = [lambda steps, error=error: steps.insert(0, error)]  # type: ignore[misc]
            got = await outcome(client, asked, reference)
            assert (got.ending, got.status, got.detail) == (Ending.REFUSED, status, code)
            assert got.retry_after_s == retry_after_s


async def test_who_leaves_has_left_and_who_waits_for_ever_says_so() -> None:
    asked = ask(CHAT, stream=True)
    changes: list[Change] = []
    async with playing(changes) as client:
        reference = await told_by(client, asked)
        gate = asyncio.Event()
        changes.append(lambda steps: steps.insert(5, gate))
        assert (await outcome(client, asked, reference, Manner.LEAVES, leave_after=2)).ending is Ending.LEFT
        waited = await outcome(client, asked, reference, patience_s=0.2)
        assert (waited.ending, waited.detail) == (Ending.WRONG, "it did not end within 0.2 s")
        changes[:] = [lambda steps: steps.insert(1, gate)]
        assert (await outcome(client, asked, reference, Manner.ABORTS, leave_after=5)).ending is Ending.LEFT


async def test_a_slow_reader_gets_everything() -> None:
    asked = ask(CHAT, stream=True)
    async with playing([]) as client:
        reference = await told_by(client, asked)
        got = await outcome(client, asked, reference, Manner.SLOW)
    assert got.ending is Ending.COMPLETE
    assert got.seconds > 0.3
