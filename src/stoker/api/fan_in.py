"""The events of several generators, one per prompt, as one stream."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from stoker.core.errors import EngineError
from stoker.core.text import Event, Finished, Started, TextDelta, Usage


async def fan_in(streams: Sequence[AsyncGenerator[Event]], *, n: int) -> AsyncGenerator[Event]:
    """Yield the events of all streams as they come, as one request's.

    Choice ``c`` of stream ``s`` becomes choice ``s * n + c``. `Started` comes once, when every stream
    has started, and `Usage` once, with the sums. When one stream fails, or this generator is closed,
    all are closed.

    Args:
        streams: One per prompt, each with `n` choices.
        n: Choices per stream.
    """
    async with AsyncExitStack() as stack:
        for stream in streams:
            stack.push_async_callback(stream.aclose)
        # Pushed last, so run first: a generator cannot be closed while a step of it is running.
        steps: dict[asyncio.Task[Event | None], int] = {}
        stack.push_async_callback(_cancel, steps)
        steps.update((asyncio.create_task(_next(stream)), index) for index, stream in enumerate(streams))
        await asyncio.wait(steps, return_when=asyncio.FIRST_EXCEPTION)
        yield Started(sum(_prompt_tokens(step) for step in steps))
        steps.clear()
        steps.update((asyncio.create_task(_next(stream)), index) for index, stream in enumerate(streams))
        usages: list[Usage] = []
        while steps:
            done, _ = await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
            for step in done:
                event = step.result()
                index = steps.pop(step)
                if event is None:
                    continue
                steps[asyncio.create_task(_next(streams[index]))] = index
                if isinstance(event, TextDelta | Finished):
                    yield replace(event, choice=index * n + event.choice)
                elif isinstance(event, Usage):
                    usages.append(event)
        yield Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in usages),
            completion_tokens=sum(usage.completion_tokens for usage in usages),
            cached_tokens=sum(usage.cached_tokens for usage in usages),
        )


async def _next(stream: AsyncGenerator[Event]) -> Event | None:
    return await anext(stream, None)


def _prompt_tokens(step: asyncio.Task[Event | None]) -> int:
    if not step.done():
        return 0  # another step failed, and its result raises
    event = step.result()
    if not isinstance(event, Started):
        raise EngineError("The generator did not begin with `Started`.")
    return event.prompt_tokens


async def _cancel(steps: dict[asyncio.Task[Event | None], int]) -> None:
    for step in steps:
        step.cancel()
    await asyncio.gather(*steps, return_exceptions=True)
