"""Log-probabilities in the shapes of both endpoints."""

from codecs import getincrementaldecoder
from collections.abc import Iterable
from typing import Any

from stoker.core.text import TextLogprob, TopToken

_Utf8 = getincrementaldecoder("utf-8")


def chat_logprobs(entries: Iterable[TextLogprob]) -> dict[str, Any]:
    """Return ``{"content": [...], "refusal": null}``."""
    return {
        "content": [
            {**_chat_token(entry), "top_logprobs": [_chat_token(token) for token in entry.top]}
            for entry in entries
        ],
        "refusal": None,
    }


def _chat_token(token: TextLogprob | TopToken) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw)}


class LegacyLogprobs:
    """The older shape: parallel lists, with each token's offset in the answer.

    One instance follows one choice, whose pieces it is given in order. Offsets count characters from
    the start of the choice's ``text``; a token inside a character has that character's offset.
    """

    def __init__(self) -> None:
        self._decoder = _Utf8(errors="replace")
        self._offset = 0

    def add(self, entries: Iterable[TextLogprob]) -> dict[str, Any]:
        """Return the lists for the next tokens."""
        tokens: list[str] = []
        logprobs: list[float | None] = []
        tops: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for entry in entries:
            name = _legacy_token(entry)
            tokens.append(name)
            logprobs.append(entry.logprob)
            offsets.append(self._offset)
            tops.append(_alternatives(name, entry))
            self._offset += len(self._decoder.decode(entry.raw if entry.added is None else entry.added))
        return {
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": tops,
            "text_offset": offsets,
        }


def _alternatives(name: str, entry: TextLogprob) -> dict[str, float] | None:
    """Return log-probabilities by spelling, the token's own among them; None if it has none."""
    if entry.logprob is None:
        return None
    top: dict[str, float] = {}
    for token in entry.top:
        top.setdefault(_legacy_token(token), token.logprob)
    top.setdefault(name, entry.logprob)
    return top


def _legacy_token(token: TextLogprob | TopToken) -> str:
    """Spell a token as OpenAI does; bytes that are no text get a spelling that keeps them apart."""
    try:
        return token.raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.raw)
