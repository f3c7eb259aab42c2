"""An OpenAI-compatible server, and what is asked of it."""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import orjson

from stoker.core.errors import SettingsError, StokerError
from stoker.measure.answer import AnswerReader, Fault, error_message
from stoker.measure.exchange import Exchange

Api = Literal["chat", "completions"]

LAST_SENTENCE = "Go on with many more words of this kind and do not stop."
"""Ends every prompt, for servers that cannot be told to go on after an end token."""

_OK = 200
_MAX_ERROR_BYTES = 1 << 16
_MAX_RETRY_AFTER_S = 3600.0
_LIST_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a server understands beside the plain request.

    Attributes:
        usage: It takes ``stream_options: {"include_usage": true}``.
        ignore_eos: It takes ``ignore_eos: true``.
    """

    usage: bool = True
    ignore_eos: bool = True


class Target:
    """A server under load.

    Args:
        url: Its address, with or without ``/v1``.
        api: The route to measure.
        model: Name of the model.
        api_key: Sent as ``Authorization: Bearer``; None for none.

    Attributes:
        url: Address without ``/v1``.

    Raises:
        SettingsError: `url` is not an address.
    """

    def __init__(self, url: str, *, api: Api, model: str, api_key: str | None) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        unread = parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme not in {"http", "https"} or not parts.hostname or unread:
            raise SettingsError(
                f"{url} is not the address of a server, such as http://127.0.0.1:8000 "
                "(a key goes into --api-key)"
            )
        secure = parts.scheme == "https"
        self._address = parts.hostname, port or (443 if secure else 80)
        self._tls = ssl.create_default_context() if secure else None
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._host = parts.netloc
        self._api_key = api_key
        self.url = f"{parts.scheme}://{self._host}{self._prefix}"
        self.api: Api = api
        self.model = model
        self.options = Options()

    def request(self, shared: str, text: str, max_tokens: int) -> bytes:
        """Return the bytes of a request for a streamed answer of so many tokens."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
        }
        own = f"{text}. {LAST_SENTENCE}"
        if self.api == "chat":
            system = [{"role": "system", "content": shared}] if shared else []
            body["messages"] = [*system, {"role": "user", "content": own}]
        else:
            body["prompt"] = f"{shared} {own}" if shared else own
        if self.options.usage:
            body["stream_options"] = {"include_usage": True}
        if self.options.ignore_eos:
            body["ignore_eos"] = True
        route = "/v1/chat/completions" if self.api == "chat" else "/v1/completions"
        return self._bytes("POST", route, orjson.dumps(body))

    async def stream(self, request: bytes, reader: AnswerReader, timeout_s: float) -> float:
        """Send a request and read its answer to the end; return when it was sent (of `time.perf_counter`).

        Raises:
            Fault: There is no complete answer.
        """
        refusal = bytearray()

        def take(exchange: Exchange, body: bytes, now_s: float) -> None:
            if exchange.status != _OK:
                refusal.extend(body[: _MAX_ERROR_BYTES - len(refusal)])
            elif "text/event-stream" not in exchange.headers.get("content-type", ""):
                raise Fault(
                    "not_a_stream", f"the answer is {exchange.headers.get('content-type', 'of no type')}"
                )
            else:
                reader.feed(body, now_s)

        try:
            async with asyncio.timeout(timeout_s):
                exchange = await Exchange.run(self._address, self._tls, request, take)
        except TimeoutError as error:
            raise Fault("timeout", f"no complete answer in {timeout_s:.0f} s") from error
        if exchange.status != _OK:
            retry_after_s = _retry_after_s(exchange.headers.get("retry-after"))
            raise Fault(f"http_{exchange.status}", _told(bytes(refusal)), retry_after_s)
        reader.end()
        return exchange.sent_s

    async def first_model(self) -> str:
        """Return the name of the first model that the server lists.

        Raises:
            StokerError: It does not answer, or lists none.
        """
        body = bytearray()
        request = self._bytes("GET", "/v1/models", b"")
        try:
            async with asyncio.timeout(_LIST_TIMEOUT_S):
                exchange = await Exchange.run(
                    self._address, self._tls, request, lambda _, piece, __: body.extend(piece)
                )
        except (Fault, TimeoutError) as error:
            told = str(error) or f"nothing in {_LIST_TIMEOUT_S:.0f} s"
            raise StokerError(
                f"{self.url} does not list its models ({told}): name one with --model"
            ) from error
        if exchange.status != _OK:
            raise StokerError(
                f"{self.url} does not list its models (status {exchange.status}: {_told(bytes(body))}): "
                "name one with --model"
            )
        try:
            return str(orjson.loads(body)["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise StokerError(f"{self.url} lists no model: name one with --model") from error

    def _bytes(self, method: str, route: str, body: bytes) -> bytes:
        lines = [
            f"{method} {self._prefix}{route} HTTP/1.1",
            f"host: {self._host}",
            "connection: close",
            "accept: text/event-stream, application/json",
            "user-agent: stoker-bench",
        ]
        if body:
            lines += ["content-type: application/json", f"content-length: {len(body)}"]
        if self._api_key is not None:
            lines.append(f"authorization: Bearer {self._api_key}")
        return "\r\n".join([*lines, "", ""]).encode() + body


def _told(body: bytes) -> str:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="replace").strip() or "an empty answer"
    return error_message(document) if isinstance(document, dict) else str(document)


def _retry_after_s(header: str | None) -> float | None:
    try:
        seconds = float(header or "")
    except ValueError:
        return None  # a date, or nothing
    return min(seconds, _MAX_RETRY_AFTER_S) if seconds >= 0 else None
