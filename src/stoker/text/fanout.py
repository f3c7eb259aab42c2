"""Several token streams read as one.

Not a task group: the generator that reads this is started in one task and may be closed in another,
which task groups and cancel scopes forbid.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence

from stoker.core.tokens import TokenEvent


class FanOut:
    """Merges token streams; at most one event of each is taken ahead, so slow readers are felt.

    Args:
        streams: One per choice; closed with this object.
    """

    def __init__(self, streams: Sequence[AsyncGenerator[TokenEvent]]) -> None:
        self._streams = dict(enumerate(streams))
        self._reads: dict[int, asyncio.Task[TokenEvent | None]] = {}
        self._ready: deque[int] = deque()

    async def next(self) -> tuple[int, TokenEvent | None] | None:
        """Return the next event and its choice; the event is None at the end of that choice's stream.

        None alone: every stream has ended or was closed.

        Raises:
            StokerError: Whatever a stream raises.
        """
        if not self._streams:
            return None
        if len(self._streams) == 1 and not self._reads:
            ((choice, stream),) = self._streams.items()
            event = await anext(stream, None)
        else:
            choice = await self._next_ready()
            event = self._reads.pop(choice).result()
        if event is None:
            del self._streams[choice]
        return choice, event

    async def close(self, choice: int) -> None:
        """Close one stream before its end, which aborts its sequence; harmless after its end."""
        stream = self._streams.pop(choice, None)
        if stream is None:
            return
        if choice in self._ready:
            self._ready.remove(choice)
        read = self._reads.pop(choice, None)
        if read is not None:
            read.cancel()
            await asyncio.gather(read, return_exceptions=True)
        await stream.aclose()

    async def aclose(self) -> None:
        """Close every stream that has not ended."""
        reads, self._reads = self._reads, {}
        streams, self._streams = self._streams, {}
        self._ready.clear()
        for read in reads.values():
            read.cancel()
        try:
            await asyncio.gather(*reads.values(), return_exceptions=True)
        finally:
            await asyncio.gather(*(stream.aclose() for stream in streams.values()))

    async def _next_ready(self) -> int:
        """Wait for a stream that has an event; those that had one already take turns."""
        if not self._ready:
            for choice, stream in self._streams.items():
                if choice not in self._reads:
                    self._reads[choice] = asyncio.ensure_future(_read(stream))
            await asyncio.wait(self._reads.values(), return_when=asyncio.FIRST_COMPLETED)
            self._ready.extend(choice for choice, read in self._reads.items() if read.done())
        return self._ready.popleft()


async def _read(stream: AsyncGenerator[TokenEvent]) -> TokenEvent | None:
    return await anext(stream, None)
