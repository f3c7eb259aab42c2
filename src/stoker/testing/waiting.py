"""Waiting for what happens in another task, thread or process."""

import asyncio
from collections.abc import Callable


async def until(happened: Callable[[], object], *, timeout_s: float = 20.0) -> None:
    """Return as soon as `happened()` is true.

    Raises:
        TimeoutError: It was false for too long.
    """
    async with asyncio.timeout(timeout_s):
        while not happened():  # noqa: ASYNC110 - what is waited for knows nothing of this event loop
            await asyncio.sleep(0.002)
