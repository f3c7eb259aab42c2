"""Work that stops when the client leaves."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import Receive

from stoker.core.errors import ClientGoneError


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` to its end, or cancel it as soon as the client disconnects.

    One watching task per request, nothing per event. When this returns or raises, `work` has ended
    and its generators are closed.

    Args:
        receive: The ASGI channel, its body already read to the end.
        work: Answers the request.

    Raises:
        ClientGoneError: The client left first.
    """
    worker = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        finished = worker.done()
        worker.cancel()
        watcher.cancel()
        await asyncio.wait({worker, watcher})
    if finished:
        worker.result()
        return
    watcher.result()
    failure = None if worker.cancelled() else worker.exception()
    raise ClientGoneError("The client left before the answer was complete.") from failure


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
