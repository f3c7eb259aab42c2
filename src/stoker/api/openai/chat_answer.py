"""Answers of ``POST /v1/chat/completions``."""

import orjson

from stoker.api.openai.answer import DONE, GatheredChoice, Header, usage_object
from stoker.api.openai.early_exit import closing_members, early_exit_object
from stoker.api.openai.logprobs import chat_logprobs
from stoker.core.text import Finished, TextDelta, Usage


class ChatAnswer:
    """Writes chat completions and their chunks.

    Args:
        header: What every chunk repeats.
        n_choices: How many choices.
        logprobs: Whether they were asked for.
        include_usage: Whether the stream ends with a usage chunk.
    """

    def __init__(self, header: Header, *, n_choices: int, logprobs: bool, include_usage: bool) -> None:
        self._header = header
        self._logprobs = logprobs
        self._include_usage = include_usage
        fields = {
            "id": header.id,
            "object": "chat.completion.chunk",
            "created": header.created,
            "model": header.model,
            "system_fingerprint": header.system_fingerprint,
        }
        self._head = b"data: " + orjson.dumps(fields)[:-1]
        self._end = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        self._choice = [
            self._head + b',"choices":[{"index":%d,"delta":{' % index for index in range(n_choices)
        ]
        self._text_end = b'},"logprobs":null,"finish_reason":null' + self._end

    def opening(self) -> bytes:
        """One chunk per choice that names the role."""
        role = b'"role":"assistant","content":"","refusal":null' + self._text_end
        return b"".join(choice + role for choice in self._choice)

    def delta(self, event: TextDelta) -> bytes:
        """New text, with log-probabilities if they were asked for."""
        start = self._choice[event.choice] + b'"content":' + orjson.dumps(event.text)
        if not self._logprobs:
            return start + self._text_end
        logprobs = orjson.dumps(chat_logprobs(event.logprobs))
        return start + b'},"logprobs":' + logprobs + b',"finish_reason":null' + self._end

    def finish(self, event: Finished) -> bytes:
        """A chunk with an empty delta and the reason."""
        reason = closing_members(event)
        return self._choice[event.choice] + b'},"logprobs":null,"finish_reason":' + reason + self._end

    def closing(self, usage: Usage) -> bytes:
        """The usage chunk if asked for, and the end."""
        if not self._include_usage:
            return DONE
        return self._head + b',"choices":[],"usage":' + orjson.dumps(usage_object(usage)) + b"}\n\n" + DONE

    def document(self, choices: list[GatheredChoice], usage: Usage) -> bytes:
        """A whole chat completion."""
        return orjson.dumps(
            {
                "id": self._header.id,
                "object": "chat.completion",
                "created": self._header.created,
                "model": self._header.model,
                "choices": [
                    {
                        "index": index,
                        "message": {
                            "role": "assistant",
                            "content": "".join(choice.parts),
                            "refusal": None,
                        },
                        "logprobs": chat_logprobs(choice.logprobs) if self._logprobs else None,
                        "finish_reason": choice.reason,
                        **early_exit_object(choice.early_exit),
                    }
                    for index, choice in enumerate(choices)
                ],
                "usage": usage_object(usage),
                "system_fingerprint": self._header.system_fingerprint,
            }
        )
