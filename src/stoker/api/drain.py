"""A server that ends answers what it has begun and takes nothing new."""

from collections.abc import Callable, Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from stoker.core.errors import ShuttingDownError


class DrainGate:
    """ASGI middleware that refuses requests from when the server was told to end.

    Args:
        app: The application within.
        draining: Tells whether it was.
        open_paths: Paths that are answered all the same.
    """

    def __init__(self, app: ASGIApp, *, draining: Callable[[], bool], open_paths: Collection[str]) -> None:
        self._app = app
        self._draining = draining
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application.

        Raises:
            ShuttingDownError: The server is ending; the connection is closed after the answer.
        """
        if scope["type"] == "http" and self._draining() and scope["path"] not in self._open_paths:
            raise ShuttingDownError("The server is shutting down and takes no new requests.")
        await self._app(scope, receive, send)
