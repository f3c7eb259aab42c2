"""Answers of ``POST /v1/completions``."""

import orjson

from stoker.api.openai.answer import DONE, GatheredChoice, Header, usage_object
from stoker.api.openai.early_exit import closing_members, early_exit_object
from stoker.api.openai.logprobs import LegacyLogprobs
from stoker.core.text import Finished, TextDelta, Usage


class CompletionAnswer:
    """Writes text completions; a chunk has the same shape as the whole.

    Args:
        header: What every chunk repeats.
        n_choices: How many choices.
        logprobs: Whether they were asked for.
        include_usage: Whether the stream ends with a usage chunk.
    """

    def __init__(self, header: Header, *, n_choices: int, logprobs: bool, include_usage: bool) -> None:
        self._header = header
        self._include_usage = include_usage
        self._logprobs = [LegacyLogprobs() for _ in range(n_choices)] if logprobs else None
        fields = {
            "id": header.id,
            "object": "text_completion",
            "created": header.created,
            "model": header.model,
            "system_fingerprint": header.system_fingerprint,
        }
        self._head = b"data: " + orjson.dumps(fields)[:-1]
        self._end = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        self._choice = [self._head + b',"choices":[{"index":%d,"text":' % index for index in range(n_choices)]
        self._text_end = b',"logprobs":null,"finish_reason":null' + self._end

    def opening(self) -> bytes:
        """Nothing: a text has no role to name."""
        return b""

    def delta(self, event: TextDelta) -> bytes:
        """New text, with log-probabilities if they were asked for."""
        start = self._choice[event.choice] + orjson.dumps(event.text)
        if self._logprobs is None:
            return start + self._text_end
        logprobs = orjson.dumps(self._logprobs[event.choice].add(event.logprobs))
        return start + b',"logprobs":' + logprobs + b',"finish_reason":null' + self._end

    def finish(self, event: Finished) -> bytes:
        """A chunk with an empty text and the reason."""
        reason = closing_members(event)
        return self._choice[event.choice] + b'"","logprobs":null,"finish_reason":' + reason + self._end

    def closing(self, usage: Usage) -> bytes:
        """The usage chunk if asked for, and the end."""
        if not self._include_usage:
            return DONE
        return self._head + b',"choices":[],"usage":' + orjson.dumps(usage_object(usage)) + b"}\n\n" + DONE

    def document(self, choices: list[GatheredChoice], usage: Usage) -> bytes:
        """A whole completion."""
        legacy = self._logprobs
        return orjson.dumps(
            {
                "id": self._header.id,
                "object": "text_completion",
                "created": self._header.created,
                "model": self._header.model,
                "choices": [
                    {
                        "index": index,
                        "text": "".join(choice.parts),
                        "logprobs": None if legacy is None else legacy[index].add(choice.logprobs),
                        "finish_reason": choice.reason,
                        **early_exit_object(choice.early_exit),
                    }
                    for index, choice in enumerate(choices)
                ],
                "usage": usage_object(usage),
                "system_fingerprint": self._header.system_fingerprint,
            }
        )
