"""Talks to a running server's administration routes; the standard library's client is enough for that."""

import json
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

from stoker.config import Settings
from stoker.core.errors import SettingsError, StokerError

TIMEOUT_S = 30.0
"""Longest wait for one answer of a route that waits for no model."""

WAKE_TIMEOUT_S = 3700.0
"""Longest wait for a model to wake: the server's own limit, `wake_timeout_s`, is an hour at most."""

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where such a server is reached from here
_OK = 300


class ServerControl:
    """A server that is managed over HTTP.

    Args:
        settings: Tell the key and, without `url`, the address.
        url: Address of the server, such as ``http://127.0.0.1:8000``.

    Raises:
        SettingsError: `url` is not an address.
    """

    def __init__(self, settings: Settings, url: str | None) -> None:
        host = _ANY_ADDRESS.get(settings.host, settings.host)
        self.url = url or f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise SettingsError(f"--url: {self.url} is not an address such as http://127.0.0.1:8000")
        self._host, self._port, self._path = parts.hostname, port, parts.path.rstrip("/")
        self._encrypted = parts.scheme == "https"
        self._key = None if settings.api_key is None else settings.api_key.get_secret_value()

    def models(self) -> list[dict[str, Any]]:
        """Return what ``GET /admin/models`` says of each model.

        Raises:
            StokerError: The server does not answer, or refuses.
        """
        models: list[dict[str, Any]] = self._ask("GET", "/admin/models")["models"]
        return models

    def find(self, name: str) -> dict[str, Any] | None:
        """Return what it says of this one, or None."""
        return next((model for model in self.models() if model["name"] == name), None)

    def load(self, model: str, overrides: Mapping[str, object]) -> dict[str, Any]:
        """Begin to load a model; raises as `models` does."""
        return self._ask("POST", "/admin/models", {"model": model, **overrides})

    def unload(self, name: str) -> dict[str, Any]:
        """Begin to unload a model; raises as `models` does."""
        return self._ask("DELETE", f"/admin/models/{quote(name)}")

    def sleep(self, name: str) -> dict[str, Any]:
        """Put an idle model to sleep; raises as `models` does."""
        return self._ask("POST", f"/admin/models/{quote(name)}/sleep")

    def wake(self, name: str) -> dict[str, Any]:
        """Wake a model and wait until it is awake; raises as `models` does."""
        return self._ask("POST", f"/admin/models/{quote(name)}/wake_up", timeout_s=WAKE_TIMEOUT_S)

    def _ask(
        self, method: str, path: str, body: object = None, *, timeout_s: float = TIMEOUT_S
    ) -> dict[str, Any]:
        kind = HTTPSConnection if self._encrypted else HTTPConnection
        connection = kind(self._host, self._port, timeout=timeout_s)
        headers = {"content-type": "application/json"}
        if self._key is not None:
            headers["authorization"] = f"Bearer {self._key}"
        try:
            connection.request(method, self._path + path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            document = json.loads(answer.read())
        except ConnectionRefusedError as error:
            raise StokerError(
                f"no server answers at {self.url}: start one with stoker serve, or say where it is with --url"
            ) from error
        except (OSError, HTTPException, ValueError) as error:
            raise StokerError(f"{self.url} does not answer as a Stoker server does: {error}") from error
        finally:
            connection.close()
        if answer.status >= _OK:
            raise StokerError(_message(document) or f"the server answers with status {answer.status}")
        if not isinstance(document, dict):
            raise StokerError(f"{self.url} does not answer as a Stoker server does")
        return document


def _message(document: object) -> str | None:
    error = document.get("error") if isinstance(document, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else None
