"""An OpenAI-compatible server on a real socket that answers by a script, well or badly."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

DONE = b"data: [DONE]\n\n"

Asked = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How a request is answered.

    Attributes:
        status: Of the answer; a stream is sent for 200 only.
        headers: Beside those that are always there.
        n_tokens: Tokens of the answer; None for as many as are asked for.
        tokens_per_event: So many tokens share an event.
        delay_s: Before each event.
        usage: Whether the last event tells counts, if they are asked for.
        cached_tokens: What it says of the cache; None to say nothing.
        after: So many events are followed by `raw`; None for a whole answer.
        raw: Bytes that are sent then, and after them nothing.
        text_body: Sent instead of a stream, as plain text.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    n_tokens: int | None = None
    tokens_per_event: int = 1
    delay_s: float = 0.0
    usage: bool = True
    cached_tokens: int | None = None
    after: int | None = None
    raw: bytes = b""
    text_body: str | None = None


@dataclass(slots=True)
class OpenAIServer:
    """What runs.

    Attributes:
        url: Its address.
        asked: Bodies of all requests for text, in order, and under ``"key"`` what they were authorized by.
        n_running: Requests that are being answered.
        most_running: The most that were at a time.
    """

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    n_running: int = 0
    most_running: int = 0


def count_tokens(asked: Asked) -> int:
    """Count a prompt: three tokens for each two words, two more for each message."""
    prompts = [asked["prompt"]] if "prompt" in asked else [m["content"] for m in asked["messages"]]
    return sum(3 * len(text.split()) // 2 for text in prompts) + 2 * len(asked.get("messages", ()))


@asynccontextmanager
async def openai_server(answer: Callable[[Asked], Reply] = lambda _: Reply()) -> AsyncIterator[OpenAIServer]:
    """Serve one model, ``scripted``, on a free port; each request has a connection of its own."""
    state = OpenAIServer()
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a callback of the server is a task
        tasks.add(task)
        state.n_running += 1
        state.most_running = max(state.most_running, state.n_running)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await _converse(state, answer, reader, writer)
        finally:
            state.n_running -= 1
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    state.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield state
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _converse(
    state: OpenAIServer,
    answer: Callable[[Asked], Reply],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    if head[0].startswith("GET "):
        writer.write(_head(200, {}) + json.dumps({"data": [{"id": "scripted"}]}).encode())
        await writer.drain()
        return
    asked: Asked = json.loads(await reader.readexactly(int(headers["content-length"])))
    reply = answer(asked)
    state.asked.append({**asked, "key": headers.get("authorization")})
    if reply.status != 200 or reply.text_body is not None:  # noqa: PLR2004 - HTTP's
        body = reply.text_body or json.dumps({"error": {"message": f"status {reply.status}"}})
        writer.write(_head(reply.status, reply.headers) + body.encode())
        await writer.drain()
        return
    writer.write(_head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
    await _stream(asked, reply, writer)


async def _stream(asked: Asked, reply: Reply, writer: asyncio.StreamWriter) -> None:
    n_tokens = asked["max_tokens"] if reply.n_tokens is None else reply.n_tokens
    for n_sent, begin in enumerate(range(0, n_tokens, reply.tokens_per_event)):
        if n_sent == reply.after:
            break
        await asyncio.sleep(reply.delay_s)
        text = "word " * min(reply.tokens_per_event, n_tokens - begin)
        await _send(writer, _event({"choices": [{"delta": {"content": text}, "text": text}]}))
    if reply.after is not None:
        writer.write(b"%x\r\n%b\r\n" % (len(reply.raw), reply.raw) if reply.raw else b"")
        await writer.drain()
        return
    await _send(writer, _event({"choices": [{"delta": {}, "text": "", "finish_reason": "length"}]}))
    if reply.usage and asked.get("stream_options", {}).get("include_usage"):
        cached = reply.cached_tokens
        usage = {"prompt_tokens": count_tokens(asked), "completion_tokens": n_tokens}
        details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
        await _send(writer, _event({"choices": [], "usage": {**usage, **details}}))
    await _send(writer, DONE)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def _send(writer: asyncio.StreamWriter, event: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(event), event))
    await writer.drain()


def _event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _head(status: int, headers: dict[str, str]) -> bytes:
    every = {"connection": "close", **headers}
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in every.items())]
    return "\r\n".join([*lines, "", ""]).encode()
