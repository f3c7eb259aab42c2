"""The endpoints that generate: parse, generate, answer, whole or as a stream."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass
from secrets import token_hex

import structlog
from starlette.types import Receive, Scope, Send

from stoker.api.body import parsed_body
from stoker.api.disconnect import until_disconnect
from stoker.api.edge import note_failure, record_of
from stoker.api.fan_in import fan_in
from stoker.api.limits import ApiLimits
from stoker.api.openai.answer import Answer, GatheredChoice, Header
from stoker.api.openai.entry import body_parser
from stoker.api.openai.errors import describe
from stoker.api.openai.job import Job, ParseJob
from stoker.api.reply import Reply
from stoker.api.served import ServedModel, ServedModels
from stoker.core.early_exit import EarlyExit
from stoker.core.errors import EngineError, StokerError
from stoker.core.text import Event, Finished, Started, TextDelta, Usage
from stoker.observe.metrics import Metrics, TokenTimer
from stoker.observe.record import RequestRecord

_logger = structlog.get_logger()

_INLINE_LOGPROBS = 512  # tokens' log-probabilities that are written on the event loop
_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What tells the two generating endpoints apart.

    Attributes:
        parse: Body to job.
        answer: Makes the writer of the answer (`ChatAnswer` or `CompletionAnswer`).
        id_prefix: How the answer's id begins.
    """

    parse: ParseJob
    answer: Callable[..., Answer]
    id_prefix: str


class Generation:
    """ASGI endpoint of one generating route.

    Args:
        endpoint: Which one.
        models: Served models.
        limits: Bounds on a request.
        metrics: Where token times are counted.
        parser: Where large bodies are parsed and large answers written.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        models: ServedModels,
        limits: ApiLimits,
        metrics: Metrics,
        parser: Executor,
    ) -> None:
        self._endpoint = endpoint
        self._models = models
        self._limits = limits
        self._metrics = metrics
        self._parser = parser

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            StokerError: The request was refused or failed before the response began.
        """
        record = record_of(scope)
        parse = body_parser(self._endpoint.parse, self._limits, record.request_id)
        job = await parsed_body(scope, receive, parse, self._parser)
        model = self._models.find(job.model)
        record.model = model.base_name
        if model.parent is not None and model.adapter is not None:
            job = job.with_adapter(model.parent, model.adapter)
        record.stream = job.stream
        await until_disconnect(receive, self._respond(job, model, record, send))

    async def _respond(self, job: Job, model: ServedModel, record: RequestRecord, send: Send) -> None:
        timer = self._metrics.token_timer(record, model=model.base_name, n_choices=job.n_choices)
        with model.reserve(job.requests):
            await self._generate(job, model, record, timer, send)

    async def _generate(
        self, job: Job, model: ServedModel, record: RequestRecord, timer: TokenTimer, send: Send
    ) -> None:
        async with aclosing(_events(job, model)) as events:
            if not isinstance(await anext(events, None), Started):
                raise EngineError("The generator did not begin with `Started`.")
            # Whatever goes wrong before there is an answer has a status of its own, an end of the time
            # in the queue above all; so none is sent before the first text.
            first = await anext(events, None)
            answer = self._answer(job, model)
            if job.stream:
                await _Stream(answer, record, timer, send).send(first, events)
            else:
                choices, usage = await _gather(first, events, job.n_choices, timer)
                _count(record, usage)
                for choice in choices:
                    _note_exit(record, choice.early_exit)
                await Reply(200, await self._document(answer, choices, usage)).send(send)

    async def _document(self, answer: Answer, choices: list[GatheredChoice], usage: Usage) -> bytes:
        if sum(len(choice.logprobs) for choice in choices) <= _INLINE_LOGPROBS:
            return answer.document(choices, usage)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._parser, answer.document, choices, usage)

    def _answer(self, job: Job, model: ServedModel) -> Answer:
        header = Header(
            id=self._endpoint.id_prefix + token_hex(12),
            created=int(time.time()),
            model=model.name,
            system_fingerprint=model.fingerprint(),
        )
        return self._endpoint.answer(
            header,
            n_choices=job.n_choices,
            logprobs=job.requests[0].logprobs is not None,
            include_usage=job.include_usage,
        )


def _events(job: Job, model: ServedModel) -> AsyncGenerator[Event]:
    streams = [model.generator.generate(request) for request in job.requests]
    return streams[0] if len(streams) == 1 else fan_in(streams, n=job.requests[0].n)


def _count(record: RequestRecord, usage: Usage) -> None:
    record.prompt_tokens = usage.prompt_tokens
    record.cached_tokens = usage.cached_tokens
    record.completion_tokens = usage.completion_tokens


def _note_exit(record: RequestRecord, told: EarlyExit | None) -> None:
    if told is not None:
        record.early_exits.append(told.reason)


async def _gather(
    event: Event | None, rest: AsyncGenerator[Event], n_choices: int, timer: TokenTimer
) -> tuple[list[GatheredChoice], Usage]:
    """Collect a whole answer from an event that was taken ahead and those after it."""
    choices = [GatheredChoice() for _ in range(n_choices)]
    usage = None
    while event is not None:
        if isinstance(event, TextDelta):
            if not event.of_prompt:
                timer.tick(event.choice)
            choices[event.choice].parts.append(event.text)
            choices[event.choice].logprobs += event.logprobs
        elif isinstance(event, Finished):
            choices[event.choice].reason = event.reason
            choices[event.choice].early_exit = event.early_exit
        elif isinstance(event, Usage):
            usage = event
        event = await anext(rest, None)
    if usage is None or any(choice.reason is None for choice in choices):
        raise EngineError("The answer ended before it was complete.")
    return choices, usage


@dataclass(frozen=True, slots=True)
class _Stream:
    """Writes one answer as server-sent events."""

    answer: Answer
    record: RequestRecord
    timer: TokenTimer
    to_client: Send

    async def send(self, first: Event | None, rest: AsyncGenerator[Event]) -> None:
        """Send the whole response, from an event that was taken ahead and those after it."""
        start = {"type": "http.response.start", "status": 200, "headers": list(_STREAM_HEADERS)}
        await self.to_client(start)
        opening = self.answer.opening()
        if opening:
            await self.to_client({"type": "http.response.body", "body": opening, "more_body": True})
        try:
            last = await self._pump(first, rest)
        except StokerError as error:
            last = _failed(error, self.record)
        except Exception as error:
            _logger.exception("unexpected error", request_id=self.record.request_id)
            last = _failed(error, self.record)
        await self.to_client({"type": "http.response.body", "body": last, "more_body": False})

    async def _pump(self, event: Event | None, rest: AsyncGenerator[Event]) -> bytes:
        """Send everything but the stream's last bytes, and return those."""
        while event is not None:
            if isinstance(event, TextDelta):
                if not event.of_prompt:
                    self.timer.tick(event.choice)
                chunk = self.answer.delta(event)
                await self.to_client({"type": "http.response.body", "body": chunk, "more_body": True})
            elif isinstance(event, Finished):
                _note_exit(self.record, event.early_exit)
                chunk = self.answer.finish(event)
                await self.to_client({"type": "http.response.body", "body": chunk, "more_body": True})
            elif isinstance(event, Usage):
                _count(self.record, event)
                return self.answer.closing(event)
            event = await anext(rest, None)
        raise EngineError("The answer ended before it was complete.")


def _failed(error: Exception, record: RequestRecord) -> bytes:
    """The status is sent already: the error becomes the last event, and ``[DONE]`` stays away."""
    failure = describe(error, {})
    note_failure(record, failure)
    return b"data: " + failure.reply.body + b"\n\n"
