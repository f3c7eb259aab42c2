"""One API key for the whole server, checked before a body is read."""

from collections.abc import Collection
from hmac import compare_digest

from starlette.types import ASGIApp, Receive, Scope, Send

from stoker.core.errors import AuthenticationError

_BEARER = b"bearer "


class ApiKey:
    """ASGI middleware that asks for ``Authorization: Bearer KEY``.

    Args:
        app: The application within.
        key: The key.
        open_paths: Paths that need no key.
    """

    def __init__(self, app: ASGIApp, *, key: str, open_paths: Collection[str]) -> None:
        self._app = app
        self._key = key.encode()
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application if the key is right.

        Raises:
            AuthenticationError: No key, several, or a wrong one.
        """
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            self._check([value for name, value in scope["headers"] if name == b"authorization"])
        await self._app(scope, receive, send)

    def _check(self, headers: list[bytes]) -> None:
        if len(headers) != 1 or headers[0][: len(_BEARER)].lower() != _BEARER:
            raise AuthenticationError(
                "This server needs an API key. Send it as one header 'Authorization: Bearer KEY'."
            )
        if not compare_digest(headers[0][len(_BEARER) :].strip(), self._key):
            raise AuthenticationError("The API key is not the one this server was started with.")
