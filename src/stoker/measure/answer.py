"""Reads a streamed answer: server-sent events to times of arrival and usage; pure."""

from typing import Any

import orjson

MAX_EVENT_BYTES = 1 << 20
MAX_DETAIL_CHARS = 300

_DONE = b"[DONE]"
_TEXT_KEYS = ("content", "reasoning_content", "reasoning")


class Fault(Exception):  # noqa: N818 - it is counted, not raised to the user
    """Something went wrong with one request.

    Args:
        kind: In a word: ``connect``, ``timeout``, ``time_limit``, ``http_<status>``, ``not_http``,
            ``not_a_stream``, ``bad_json``, ``stream_error``, ``cut_off``, ``no_text`` or ``too_large``.
        detail: For a person to read.
        retry_after_s: When the server said that the request may come again.
    """

    def __init__(self, kind: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail[:MAX_DETAIL_CHARS]
        self.retry_after_s = retry_after_s


class AnswerReader:
    """Takes the bytes of a stream as they come.

    Attributes:
        arrivals_s: When text arrived; all text of one piece of bytes is one arrival.
        n_events: Events that carried text.
        usage: The last ``usage`` object; None if there was none.
        finished: Whether the server said that the answer is complete.
    """

    def __init__(self) -> None:
        self.arrivals_s: list[float] = []
        self.n_events = 0
        self.usage: dict[str, Any] | None = None
        self.finished = False
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes, now_s: float) -> None:
        """Take the next bytes, which arrived at `now_s`.

        Raises:
            Fault: They are not what such a stream is made of, or say that something failed.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MAX_EVENT_BYTES:
            raise Fault("too_large", f"an event has more than {MAX_EVENT_BYTES:,} bytes")
        n_before = self.n_events
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif not line.strip() and self._data:
                self._event(b"\n".join(self._data))
                self._data.clear()
        if self.n_events > n_before:
            self.arrivals_s.append(now_s)

    def end(self) -> None:
        """Say that the stream has ended.

        Raises:
            Fault: The answer is not complete.
        """
        if not self.finished:
            raise Fault(
                "cut_off", f"the stream ended after {self.n_events} events without saying that it was done"
            )
        if not self.arrivals_s:
            raise Fault("no_text", "the answer is empty")

    def _event(self, data: bytes) -> None:
        if data == _DONE:
            self.finished = True
            return
        try:
            document = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise Fault("bad_json", f"an event is not JSON: {error}") from error
        if not isinstance(document, dict):
            raise Fault("bad_json", "an event is no JSON object")
        if document.get("error"):
            raise Fault("stream_error", error_message(document))
        if isinstance(document.get("usage"), dict):
            self.usage = document["usage"]
        choices = document.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, dict):
                raise Fault("bad_json", "a choice is no JSON object")
            if choice.get("finish_reason") is not None:
                self.finished = True
            self.n_events += _has_text(choice)

    def count(self, name: str) -> int | None:
        """Return a count of the usage, or None."""
        return _count(self.usage, name)

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that the server had cached, or None if it does not say."""
        details = (self.usage or {}).get("prompt_tokens_details")
        return _count(details, "cached_tokens") if isinstance(details, dict) else None


def error_message(document: dict[str, Any]) -> str:
    """Return what an error object says."""
    error = document.get("error")
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    return str(error or document.get("message") or document.get("detail") or document)


def _has_text(choice: dict[str, Any]) -> bool:
    if choice.get("text"):
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(delta.get(key) for key in _TEXT_KEYS)


def _count(counts: dict[str, Any] | None, name: str) -> int | None:
    value = (counts or {}).get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
