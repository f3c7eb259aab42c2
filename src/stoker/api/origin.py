"""Who may address a server that asks for no key.

A web page can make a browser send requests to this machine. It cannot read answers of another
origin, but it can have its own host name resolve to this machine, and then is of the same origin
(DNS rebinding). Such a request carries the page's host name, which is no name of ours.
"""

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from stoker.config import is_loopback
from stoker.core.errors import ForbiddenError


class HostCheck:
    """ASGI middleware that answers only what is addressed to one of the server's own names.

    A request without a ``host`` header passes: no browser sends one.

    Args:
        app: The application within.
        hosts: Names, in lower case, beside ``localhost`` and loopback addresses.
        open_paths: Paths that are answered under every name.
    """

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], open_paths: Collection[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application.

        Raises:
            ForbiddenError: The request is addressed to another name.
        """
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            for host in _values_of(scope, b"host"):
                name = _without_port(host)
                if not is_loopback(name) and name not in self._hosts:
                    raise ForbiddenError(
                        "This server has no API key, so it only answers under loopback addresses, localhost "
                        "and its allowed_hosts. Use http://localhost, add the name to allowed_hosts, or set "
                        "an API key."
                    )
        await self._app(scope, receive, send)


def check_origin(scope: Scope) -> None:
    """Refuse what a web page of another origin sends.

    Raises:
        ForbiddenError: There is an ``origin`` header that is not this server's address.
    """
    hosts = _values_of(scope, b"host")
    for origin in _values_of(scope, b"origin"):
        if [origin.partition("://")[2]] != hosts:
            raise ForbiddenError("Web pages of other origins may not manage the models of this server.")


def _values_of(scope: Scope, header: bytes) -> list[str]:
    return [value.decode("latin-1").strip().lower() for name, value in scope["headers"] if name == header]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
