"""Reading a `TokenEngine`'s streams to their ends."""

from collections.abc import AsyncIterator

from stoker.core.protocols import TokenEngine
from stoker.core.tokens import Admitted, TokenEvent, TokenRequest, TokensEvent


async def collect(stream: AsyncIterator[TokenEvent]) -> list[TokensEvent]:
    """Return a stream's tokens, event by event.

    Raises:
        ValueError: It does not begin with its one admission, or not end with its one finish reason.
    """
    events = [event async for event in stream]
    tokens = [event for event in events[1:] if isinstance(event, TokensEvent)]
    if not isinstance(events[0], Admitted) or len(tokens) != len(events) - 1:
        raise ValueError(f"not an admission, then tokens: {events}")
    if [event.finish_reason is not None for event in tokens] != [False] * (len(tokens) - 1) + [True]:
        raise ValueError(f"not one finish reason at the end: {tokens}")
    return tokens


async def tokens_of(engine: TokenEngine, request: TokenRequest) -> tuple[int, ...]:
    """Return all tokens of a request."""
    return tuple(token for event in await collect(engine.stream(request)) for token in event.token_ids)
