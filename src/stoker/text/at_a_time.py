"""The sequences of one request that generate nothing: several at a time, the first failure ends all."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_serials = itertools.count()


def next_sequence_id(request_id: str) -> str:
    """Return an id for a further sequence of a request, unique in this process."""
    return f"{request_id}.{next(_serials)}"


async def at_a_time(
    items: Sequence[Item], places: int, work: Callable[[Item], Awaitable[Result]]
) -> list[Result]:
    """Return what `work` makes of each item, in their order; with an error or a cancellation none runs on.

    Args:
        items: What is to be worked on.
        places: At most so many at a time.
        work: Makes a result of an item.
    """
    results: dict[int, Result] = {}
    left = iter(enumerate(items))

    async def take_turns() -> None:
        for index, item in left:
            results[index] = await work(item)

    workers = [asyncio.create_task(take_turns()) for _ in range(min(places, len(items)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [results[index] for index in range(len(items))]
