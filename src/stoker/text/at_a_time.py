"""The sequences of one request that generate nothing: several at a time, the first failure ends all."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from stoker.core.errors import NotReadyError

RETRY_S = 0.1
"""Pause before a sequence is sent again when no engine was ready for it."""

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


class Patience(Generic[Item, Result]):
    """Work on the items of one request that outlives an engine: what has been made is not thrown away.

    Args:
        work: Makes a result of an item and of the seconds that are left, or None.
        timeout_s: Seconds for all items together; None for no limit.
        patience_s: Returns for how many seconds an item waits for a ready engine once others have been made.
    """

    def __init__(
        self,
        work: Callable[[Item, float | None], Awaitable[Result]],
        *,
        timeout_s: float | None,
        patience_s: Callable[[], float],
    ) -> None:
        self._work = work
        self._patience_s = patience_s
        self._now = asyncio.get_running_loop().time
        self._ends_at = None if timeout_s is None else self._now() + timeout_s
        self._n_made = 0

    async def __call__(self, item: Item) -> Result:
        """Return what comes of an item.

        Raises:
            NotReadyError: No engine is ready, and none was in time once some items had been made.
        """
        gives_up_at: float | None = None
        while True:
            left_s = None if self._ends_at is None else max(0.0, self._ends_at - self._now())
            try:
                result = await self._work(item, left_s)
            except NotReadyError:
                gives_up_at = gives_up_at or self._now() + self._patience_s()
                if not self._n_made or self._now() >= min(gives_up_at, self._ends_at or gives_up_at):
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                self._n_made += 1
                return result
