"""Streams many answers from one server at once at the least cost, to see when its tokens come."""

import asyncio
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson

from stoker.measure.answer import AnswerReader
from stoker.measure.exchange import Exchange

_OK = 200


@dataclass(frozen=True, slots=True)
class Step:
    """What a step of all streams took, while all of them ran.

    Attributes:
        seconds: Of one step.
        n_steps: How many there were.
        client_cpu_s: Processor time of this process for each.
    """

    seconds: float
    n_steps: float
    client_cpu_s: float


class _Stream:
    """Notes when pieces of an answer arrive; reads them only after the end."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, bytes]] = []

    def take(self, exchange: Exchange, body: bytes, now_s: float) -> None:
        if exchange.status != _OK:
            raise RuntimeError(f"the server answered {exchange.status}: {body.decode(errors='replace')}")
        self.pieces.append((now_s, body))

    def arrivals(self) -> list[tuple[float, float]]:
        """Return when text came and how many tokens it was."""
        reader, found = AnswerReader(), []
        for now_s, body in self.pieces:
            before = reader.n_events
            reader.feed(body, now_s)
            if reader.n_events > before:
                found.append((now_s, float(reader.n_events - before)))
        reader.end()
        n_tokens = reader.count("completion_tokens") or reader.n_events
        # A token may have no text of its own, or several come in one event.
        return [(now_s, n * n_tokens / reader.n_events) for now_s, n in found]


async def stream_all(
    url: str, model: str, prompts: list[list[int]], n_tokens: int, *, temperature: float = 0.0, seed: int = 0
) -> list[list[tuple[float, float]]]:
    """Stream an answer of so many tokens to each prompt, all at once; returns arrivals of each."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 80)
    streams = [_Stream() for _ in prompts]
    runs = [
        Exchange.run(
            address,
            None,
            _request(parts.netloc, model, ids, n_tokens, temperature=temperature, seed=seed),
            stream.take,
        )
        for ids, stream in zip(prompts, streams, strict=True)
    ]
    await asyncio.gather(*runs)
    return [stream.arrivals() for stream in streams]


def steady_step(arrivals: list[list[tuple[float, float]]], cpu_s: float) -> Step:
    """Return the time of a step from when the last stream had begun to when the first one ended.

    Args:
        arrivals: Of each stream.
        cpu_s: Processor time of this process for all of them.

    Raises:
        RuntimeError: One stream had ended before another began.
    """
    begin = max(of_stream[0][0] for of_stream in arrivals)
    end = min(of_stream[-1][0] for of_stream in arrivals)
    if begin >= end:
        raise RuntimeError(
            "one stream ended before another began: cache the prompts or ask for longer answers"
        )
    n_tokens = sum(n for of_stream in arrivals for now_s, n in of_stream if begin < now_s <= end)
    n_all = sum(n for of_stream in arrivals for _, n in of_stream)
    n_steps = n_tokens / len(arrivals)
    return Step((end - begin) / n_steps, n_steps, cpu_s * n_tokens / n_all / n_steps)


def _request(host: str, model: str, ids: list[int], n_tokens: int, *, temperature: float, seed: int) -> bytes:
    body: dict[str, Any] = {
        "model": model,
        "prompt": ids,
        "max_tokens": n_tokens,
        "temperature": temperature,
        "seed": seed,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    encoded = orjson.dumps(body)
    head = [
        "POST /v1/completions HTTP/1.1",
        f"host: {host}",
        "connection: close",
        "content-type: application/json",
        f"content-length: {len(encoded)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + encoded
