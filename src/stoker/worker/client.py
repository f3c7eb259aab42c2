"""The gateway's side of one connection to an engine process."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

from stoker.core.batching import BatchingPolicy
from stoker.core.errors import (
    EngineDiedError,
    EngineError,
    InvalidRequestError,
    NotReadyError,
    QueueFullError,
    SlowReaderError,
    StokerError,
)
from stoker.core.protocols import EngineInfo
from stoker.core.stats import EngineStats
from stoker.core.tokens import Admitted, FinishReason, PromptScores, TokenEvent, TokenRequest, TokensEvent
from stoker.worker import conversion, frames
from stoker.worker.silence import Silence

MAX_UNSENT_BYTES = 4 * frames.MAX_FRAME_BYTES
"""New sequences are refused while more than this waits for the engine to read it."""

MAX_UNREAD = 65_536
"""A stream whose reader leaves more than this unread is ended; a token counts as one, and so does each
alternative that is told with it. At 100 bytes each in the end it is about 6 MB."""

CONNECT_INTERVAL_S = 0.005
"""Pause between attempts to connect to a socket that is not there yet."""


class _Sequence:
    """What has arrived for one sequence and was not read yet.

    Tokens of several steps are kept as one run, so a reader that falls behind gets fewer, longer
    events. One that falls behind by more than `MAX_UNREAD` gets `SlowReaderError` instead.
    """

    __slots__ = (
        "admitted",
        "cached_tokens",
        "embedding",
        "error",
        "finish_reason",
        "held",
        "hold",
        "logprobs",
        "request_id",
        "scores",
        "token_ids",
        "unread",
        "waiter",
    )

    def __init__(self, request_id: str, *, hold: bool) -> None:
        self.request_id = request_id
        self.hold = hold
        self.held = False  # it has all its tokens, and the engine has nothing more to say of it
        self.admitted = False
        self.error: StokerError | None = None
        self.token_ids: list[int] = []
        self.unread = 0
        self.logprobs: list[frames.Logprob] = []
        self.scores: PromptScores | None = None
        self.embedding: bytes | None = None
        self.cached_tokens = 0
        self.finish_reason: FinishReason | None = None
        self.waiter: asyncio.Future[None] | None = None

    def append(self, news: frames.Tokens) -> None:
        self.token_ids += news.token_ids
        self.unread += len(news.token_ids)
        if news.logprobs:
            self.logprobs += news.logprobs
            self.unread += sum(len(each.top) for each in news.logprobs)
        if news.prompt_scores is not None:
            scores = conversion.prompt_scores(news.prompt_scores)
            if self.scores is None:
                self.scores = scores
            else:
                self.scores.extend(scores)
        self.embedding = news.embedding
        self.cached_tokens = news.cached_tokens
        self.finish_reason = news.finish_reason
        self.held = self.hold and bool(news.token_ids)
        self.wake()

    def fail(self, error: StokerError) -> None:
        self.error = error
        self.wake()

    def overflow(self) -> None:
        """End with an error in place of what was not read."""
        self.token_ids.clear()
        self.logprobs.clear()
        self.unread = 0
        self.fail(
            SlowReaderError(
                "the stream was cancelled: its reader fell behind by more than "
                f"{MAX_UNREAD} tokens and alternatives; read faster, or ask for less"
            )
        )

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    async def wait(self) -> None:
        self.waiter = asyncio.get_running_loop().create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    async def admission(self) -> Admitted:
        """Wait until the engine has taken the sequence."""
        while not self.admitted:
            if self.error is not None:
                raise self.error
            await self.wait()
        return Admitted(self.request_id)

    async def tokens(self) -> TokensEvent:
        """Wait for news; tokens that arrived before an error go before it."""
        while not self.token_ids and self.scores is None and self.finish_reason is None:
            if self.error is not None:
                raise self.error
            await self.wait()
        event = conversion.tokens_event(
            self.request_id,
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            cached_tokens=self.cached_tokens,
            finish_reason=self.finish_reason,
            scores=self.scores,
            embedding=self.embedding,
        )
        self.scores = None
        self.token_ids.clear()
        self.logprobs.clear()
        self.unread = 0
        return event


class _Connection(asyncio.Protocol):
    """Cuts what the engine sends into frames and hands them to the sequences they are for."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[frames.Hello] = loop.create_future()
        self.closed: asyncio.Future[StokerError] = loop.create_future()
        self.sequences: dict[int, _Sequence] = {}
        self.stats: frames.Stats | None = None
        self.silence = Silence()
        self.congested = False
        self._reader = frames.gateway_reader()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of `WriteTransport` without being subclasses of it.
        self._transport = cast(asyncio.WriteTransport, transport)
        self._transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            for frame in self._reader.frames():
                self._receive(frame)
            owes_more = not all(sequence.held for sequence in self.sequences.values())
            self.silence.heard(asyncio.get_running_loop().time(), owes_more=owes_more)
        except EngineError as error:
            self.end(error)

    def eof_received(self) -> None:
        self.end(EngineDiedError("the engine process ended"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(EngineDiedError("the engine process ended" if exc is None else f"the engine is gone: {exc}"))

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self.closed.done():
            self._transport.write(data)

    def end(self, error: StokerError) -> None:
        """Close the connection and fail every sequence; only the first call has an effect."""
        if self.closed.done():
            return
        self.closed.set_result(error)
        if self._transport is not None:
            self._transport.abort()
        if not self.hello.done():
            self.hello.set_exception(error)
            self.hello.exception()  # connect() may have given up waiting; that is not worth a warning
        for sequence in self.sequences.values():
            sequence.fail(EngineDiedError(f"the engine ended before this request did: {error}"))
        self.sequences.clear()

    def _receive(self, frame: frames.ToGateway) -> None:
        if isinstance(frame, frames.Fatal):
            self.end(conversion.stoker_error(frame.failure))
        elif isinstance(frame, frames.Hello):
            if self.hello.done():
                raise EngineError("the engine said Hello twice on one connection")
            self.hello.set_result(frame)
        elif not self.hello.done() or frame.incarnation != self.hello.result().incarnation:
            raise EngineError(f"a frame came from incarnation {frame.incarnation}, which did not say Hello")
        elif isinstance(frame, frames.Step):
            self._receive_step(frame)

    def _receive_step(self, step: frames.Step) -> None:
        sequences = self.sequences
        self.stats = step.stats
        for number in step.admitted:
            if (sequence := sequences.get(number)) is not None:
                sequence.admitted = True
                sequence.wake()
        for news in step.tokens:
            if (sequence := sequences.get(news.sequence)) is not None:
                sequence.append(news)
                if news.finish_reason is not None:
                    del sequences[news.sequence]
                elif sequence.unread > MAX_UNREAD:
                    del sequences[news.sequence]
                    self.send(frames.encode(frames.Abort(step.incarnation, news.sequence)))
                    sequence.overflow()
        for refusal in step.refused:
            if (sequence := sequences.pop(refusal.sequence, None)) is not None:
                sequence.fail(conversion.stoker_error(refusal.failure))


class EngineClient:
    """A `TokenEngine` behind a socket; made by `connect`, used on one event loop."""

    def __init__(self, connection: _Connection, hello: frames.Hello) -> None:
        self._connection = connection
        self._incarnation = hello.incarnation
        self._info = conversion.engine_info(hello)
        self._next_sequence = 0

    @classmethod
    async def connect(cls, socket_path: Path) -> "EngineClient":
        """Connect as soon as the socket is there, and wait until the engine is ready.

        Waits without limit: put it under `asyncio.timeout`.

        Raises:
            StokerError: The engine could not start; the class and the message are its own.
            EngineDiedError: The engine process ended before it was ready.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                _, connection = await loop.create_unix_connection(_Connection, str(socket_path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                await asyncio.sleep(CONNECT_INTERVAL_S)
        try:
            return cls(connection, await connection.hello)
        except BaseException:
            connection.end(EngineDiedError("the gateway hung up before the engine was ready"))
            raise

    @property
    def info(self) -> EngineInfo:
        """What the engine said of itself."""
        return self._info

    @property
    def incarnation(self) -> int:
        """The engine process's number, drawn at random when it started."""
        return self._incarnation

    @property
    def stats(self) -> EngineStats:
        """The engine's latest counters and gauges; before its first step, what it said of itself."""
        latest, info = self._connection.stats, self._info
        if latest is None:
            return EngineStats(kv_blocks_total=info.kv_blocks, kv_block_bytes=info.kv_block_bytes)
        return conversion.engine_stats(latest, kv_block_bytes=info.kv_block_bytes)

    @property
    def unread(self) -> int:
        """Tokens, and alternatives told with them, that have arrived and were not read yet."""
        return sum(sequence.unread for sequence in self._connection.sequences.values())

    @property
    def silence_s(self) -> float:
        """Seconds since the engine was last heard while it had sequences to answer; else 0."""
        return self._connection.silence.length_s(asyncio.get_running_loop().time())

    @property
    def connected(self) -> bool:
        """Whether the engine can still be reached."""
        return not self._connection.closed.done()

    async def wait_closed(self) -> StokerError:
        """Wait for the end of the connection and return its reason."""
        return await asyncio.shield(self._connection.closed)

    async def stream(self, request: TokenRequest) -> AsyncGenerator[TokenEvent]:
        """Yield `Admitted`, then `TokensEvent`s, the last with a finish reason.

        Nothing is lost or reordered; a reader that falls behind gets several tokens in one event.

        Raises:
            QueueFullError: Every place is taken, or the engine does not keep up with submissions.
            QueueTimeoutError: Its turn did not come within `queue_timeout_s`.
            DeadlineError: It was not finished within `timeout_s`.
            SlowReaderError: The reader fell behind too far.
            InvalidRequestError: The engine cannot take this request.
            NotReadyError: The engine was gone before the request was sent.
            EngineDiedError: The engine ended under the request.
        """
        connection = self._connection
        if not self.connected:
            raise NotReadyError(f"the engine is not running: {connection.closed.result()}")
        if connection.congested:
            raise QueueFullError("the engine does not keep up with submissions; try later", retry_after_s=1.0)
        number = self._next_sequence
        self._next_sequence += 1
        connection.send(self._submission(request, number))
        connection.silence.asked(asyncio.get_running_loop().time())
        sequence = connection.sequences[number] = _Sequence(request.request_id, hold=request.hold)
        try:
            yield await sequence.admission()
            finished = False
            while not finished:
                event = await sequence.tokens()
                finished = event.finish_reason is not None
                yield event
        finally:
            if connection.sequences.pop(number, None) is not None:
                connection.send(frames.encode(frames.Abort(self._incarnation, number)))

    def tune(self, policy: BatchingPolicy) -> None:
        """Have the engine fill its steps by this policy from the next one on."""
        self._connection.send(frames.encode(conversion.tune_frame(policy, incarnation=self._incarnation)))

    async def close(self, reason: str = "the gateway hung up") -> None:
        """Hang up; the engine aborts everything of this gateway."""
        self._connection.end(EngineDiedError(reason))

    def _submission(self, request: TokenRequest, number: int) -> bytes:
        frame = conversion.submit_frame(request, incarnation=self._incarnation, sequence=number)
        try:
            return frames.encode(frame)
        except (EngineError, OverflowError, UnicodeEncodeError) as error:
            raise InvalidRequestError(f"the request cannot be sent to the engine: {error}") from error
