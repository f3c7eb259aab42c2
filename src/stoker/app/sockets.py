"""The listening socket and the files that connections need."""

import errno
import resource
import socket

from stoker.core.errors import SettingsError

BACKLOG = 2048
"""Connections that may wait for being accepted."""

OTHER_FILES = 64
"""Files that a server may have open beside its connections; it has about 20, and 3 a model."""


def allow_connections(n_connections: int) -> None:
    """Raise this process's limit of open files as far as so many connections need.

    Raises:
        SettingsError: The limit cannot be raised that far.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = n_connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SettingsError(
            f"max_connections is {n_connections}, but this process may only open {hard} files and needs "
            f"{OTHER_FILES} beside its connections: raise the limit (ulimit -n) or lower max_connections"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def bind(host: str, port: int) -> socket.socket:
    """Take the address, so that it is known to be free before any work is done; nobody is accepted yet.

    Raises:
        SettingsError: The address is in use or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            # Two sockets may both bind with SO_REUSEADDR; the second one to listen fails.
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"port {port} on {host} is in use: end the other server, or choose another --port"
            ) from error
        raise SettingsError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return listener


def address_of(listener: socket.socket) -> str:
    """Return host and port as a URL has them."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if listener.family is socket.AF_INET6 else f"{host}:{port}"
